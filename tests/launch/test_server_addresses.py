"""Finding verl's servers by their actors' names, on a make-believe Ray."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import ray

from actfocus_verl.launch import servers
from actfocus_verl.launch.servers import ServerAddresses


class FakeRay:
    """Named actors with an address, an error to raise, or nothing yet; counts the questions to each."""

    def __init__(self, actors: dict[str, Any]) -> None:
        self.actors = actors
        self.asked: list[str] = []
        self.initialized = True
        self.exceptions = ray.exceptions
        self.util = SimpleNamespace(list_named_actors=lambda: list(self.actors))

    def is_initialized(self) -> bool:
        return self.initialized

    def get_actor(self, name: str) -> Any:
        if name not in self.actors:
            raise ValueError(f"Failed to look up actor with name '{name}'")

        def remote() -> str:
            self.asked.append(name)
            return name

        if self.actors[name] == "somebody else's":
            return SimpleNamespace()
        return SimpleNamespace(get_server_address=SimpleNamespace(remote=remote))

    def wait(self, references: list[str], timeout: float) -> tuple[list[str], list[str]]:
        assert timeout == 0  # the watchdog must not hang with what it watches
        ready = [name for name in references if self.actors[name] is not None]
        return ready, [name for name in references if name not in ready]

    def get(self, name: str) -> Any:
        if isinstance(self.actors[name], Exception):
            raise self.actors[name]
        return self.actors[name]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    made = FakeRay({"vllm_server_0_0": ("10.0.0.1", 8001), "agent_loop_worker_0_ab": ("10.0.0.1", 1)})
    monkeypatch.setattr(servers, "ray", made)
    return made


def test_servers_are_found_by_name_and_asked_once(fake: FakeRay) -> None:
    addresses = ServerAddresses()
    assert addresses() == ["10.0.0.1:8001"]
    assert addresses() == ["10.0.0.1:8001"]
    assert fake.asked == ["vllm_server_0_0"]


def test_there_are_none_before_ray_starts(fake: FakeRay) -> None:
    fake.initialized = False
    assert ServerAddresses()() == []


def test_a_server_that_has_not_answered_yet_is_not_asked_twice(fake: FakeRay) -> None:
    fake.actors["vllm_server_0_0"] = None
    addresses = ServerAddresses()
    assert addresses() == []
    assert addresses() == []
    fake.actors["vllm_server_0_0"] = ("10.0.0.1", 8001)
    assert addresses() == ["10.0.0.1:8001"]
    assert fake.asked == ["vllm_server_0_0"]


def test_a_server_that_is_not_launched_yet_is_asked_again(fake: FakeRay) -> None:
    fake.actors["vllm_server_0_0"] = AssertionError("http server is not launched, port is None")
    addresses = ServerAddresses()
    assert addresses() == []
    fake.actors["vllm_server_0_0"] = ("10.0.0.1", 8001)
    assert addresses() == ["10.0.0.1:8001"]


def test_an_ipv6_address_gets_its_brackets(fake: FakeRay) -> None:
    fake.actors["vllm_server_0_0"] = ("fe80::1", 8001)
    assert ServerAddresses()() == ["[fe80::1]:8001"]


@pytest.mark.parametrize("error", [ray.exceptions.RaySystemError("disconnected"), ValueError("no such actor")])
def test_a_ray_that_fails_keeps_what_is_known(fake: FakeRay, error: Exception) -> None:
    addresses = ServerAddresses()
    assert addresses() == ["10.0.0.1:8001"]

    def fail() -> list[str]:
        raise error

    fake.util.list_named_actors = fail
    assert addresses() == ["10.0.0.1:8001"]


def test_other_actors_are_left_alone(fake: FakeRay) -> None:
    """A user's own, whatever it is called, and servers of another engine: SGLang's health route needs its weights."""
    fake.actors |= {
        "my_server_0": "somebody else's",
        "vllm_server_of_mine": "somebody else's",
        "sglang_server_0_0": ("10.0.0.2", 8001),
        "vllm_server_reward_0_0": ("10.0.0.3", 8001),
    }
    addresses = ServerAddresses()
    assert addresses() == addresses() == ["10.0.0.1:8001", "10.0.0.3:8001"]
    assert fake.asked == ["vllm_server_0_0", "vllm_server_reward_0_0"]
