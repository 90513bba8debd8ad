"""A process that has only a handle of the actor does not import what the actor is made of."""

from __future__ import annotations

import asyncio
import pickle
import subprocess
import sys
from pathlib import Path

import cloudpickle
import pytest

from actfocus_verl.platforms.light_actor import light_actor


class Server:
    """A server."""

    limit = 3

    def __init__(self, name: str, *, port: int = 80) -> None:
        self.name, self.port = name, port

    def address(self, scheme: str = "http") -> str:
        return f"{scheme}://{self.name}:{self.port}"

    async def generate(self, prompt: str, *, times: int) -> str:
        if times > self.limit:
            raise ValueError(f"{times} is more than {self.limit}")
        return prompt * times

    def _private(self) -> None: ...


def test_calls_reach_the_object_behind_it() -> None:
    server = light_actor(Server)("host", port=8000)
    assert server.address() == "http://host:8000"
    assert server.address(scheme="https") == "https://host:8000"
    assert asyncio.run(server.generate("ab", times=2)) == "abab"
    with pytest.raises(ValueError, match="4 is more than 3"):
        asyncio.run(server.generate("ab", times=4))


def test_ray_sees_the_name_and_the_public_methods() -> None:
    light = light_actor(Server)
    assert (light.__name__, light.__doc__) == ("Server", "A server.")
    assert {name for name in vars(light) if not name.startswith("_")} == {"address", "generate"}


def test_its_pickle_does_not_import_the_class() -> None:
    sent = cloudpickle.dumps(light_actor(Server))
    script = f"""
import pickle, sys
light = pickle.loads({sent!r})
assert not [name for name in sys.modules if name.startswith("tests.")], "imported by the class alone"
assert light("host").address() == "http://host:80"
assert "tests.platforms.test_light_actor" in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True)
    assert pickle.loads(sent)("host").address() == "http://host:80"


def test_vllms_server_keeps_its_methods_and_leaves_vllm_out(tmp_path: Path) -> None:
    """In a process of its own, as importing vLLM's server takes memory that the other tests need not have."""
    script = """
import inspect, pickle, sys
import cloudpickle
from actfocus_verl.platforms.light_actor import light_actor
from actfocus_verl.platforms.vllm_cpu import CPUvLLMHttpServer as heavy
light = light_actor(heavy)
public = {name for name, _ in inspect.getmembers(heavy, inspect.isfunction) if not name.startswith("_")}
assert {"launch_server", "generate", "get_server_address"} <= public <= set(vars(light))
asynchronous = {name for name in public if inspect.iscoroutinefunction(getattr(heavy, name))}
assert asynchronous == {name for name in public if inspect.iscoroutinefunction(getattr(light, name))}
generators = [name for name in public if inspect.isasyncgenfunction(getattr(heavy, name))]
marked = [name for name in public if any(key.startswith("__ray") for key in vars(getattr(heavy, name)))]
assert not generators + marked, "Ray treats these otherwise than light_actor does"
open(sys.argv[1], 'wb').write(cloudpickle.dumps(light))
"""
    sent = tmp_path / "light.pickle"
    subprocess.run([sys.executable, "-c", script, str(sent)], check=True)
    loads = (
        "import pickle, sys; pickle.load(open(sys.argv[1], 'rb')); print({'vllm', 'torch', 'verl'} & {*sys.modules})"
    )
    loaded = subprocess.run([sys.executable, "-c", loads, str(sent)], check=True, capture_output=True, text=True)
    assert loaded.stdout.strip() == "set()"
