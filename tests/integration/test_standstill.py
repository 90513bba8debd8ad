"""verl's own worker and tool agent with tools that do not return, and what the trainer is told of an episode's end."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from verl.experimental import agent_loop as agent_loops
from verl.experimental.agent_loop import AgentLoopBase, AgentLoopWorker
from verl.experimental.agent_loop.agent_loop import _agent_loop_registry
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopWorkerTQ

from actfocus_verl.errors import ConfigurationError
from actfocus_verl.integration import standstill as limits
from actfocus_verl.integration.dataset import GATEWAY_AGENT_NAME
from actfocus_verl.integration.lost_episodes import failed_episodes
from actfocus_verl.integration.run_log import RunLog
from actfocus_verl.preflight.settings import check_config
from actfocus_verl.rollout import standstill
from tests.config.conftest import composed

GUARD = 60
released = threading.Event()


class Tools(AgentLoopBase):
    """Asks the policy, then calls the tool of the row, in a thread as verl calls a function tool."""

    def __init__(self, server_manager: Any, **_: Any) -> None:
        self.server_manager = server_manager

    async def run(self, sampling_params: dict[str, Any], **row: Any) -> str:
        reply = await self.server_manager.generate(request_id="a", prompt_ids=[1], sampling_params=sampling_params)
        if row["tool"] == "raises":
            raise ValueError("no such city")
        if row["tool"] == "hangs":
            await asyncio.to_thread(lookup)
        return str(reply)


def lookup() -> None:
    assert released.wait(GUARD)


class Slow:
    """A server whose clock runs ten times as long as a tool may take."""

    def __init__(self) -> None:
        self.now = 0.0

    async def generate(self, **_: Any) -> str:
        self.now += 18_000.0
        await asyncio.sleep(0.05)  # in which the watch looks a few times
        return "reply"


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[AgentLoopWorker]:
    """verl's, without what its constructor loads; its tools have half an hour."""
    released.clear()
    monkeypatch.setattr(standstill, "POLL_SECONDS", 0.005)
    for name in ("tools", GATEWAY_AGENT_NAME):
        monkeypatch.setitem(_agent_loop_registry, name, {"_target_": f"{__name__}.Tools"})
    worker = AgentLoopWorker.__new__(AgentLoopWorker)
    worker.config = OmegaConf.create({"run": {"dir": str(tmp_path), "tool_timeout": 1800}, "data": {}})
    worker.llm_client = server = Slow()
    for name in ("tokenizer", "processor", "hf_model_type", "dataset_cls"):
        setattr(worker, name, None)
    worker.tools = []

    async def postprocess(output: Any, *_: Any, **__: Any) -> Any:
        return output

    def watch(*words: Any) -> standstill.StandstillWatch:
        return standstill.StandstillWatch(*words, clock=lambda: server.now)

    monkeypatch.setattr(worker, "_agent_loop_postprocess", postprocess, raising=False)
    monkeypatch.setattr(limits, "StandstillWatch", watch)
    yield worker
    released.set()


async def play(worker: AgentLoopWorker, tool: str, agent_name: str = "tools") -> Any:
    trajectory = {"step": 3, "sample_index": 0, "rollout_n": 0, "validate": False}
    row = {"index": 7, "uid": "u", "session_id": 2, "global_steps": 3, "tool": tool}
    return await worker._run_agent_loop({}, trajectory, agent_name=agent_name, trace=False, **row)


def failures(worker: AgentLoopWorker) -> list[dict[str, Any]]:
    path = Path(worker.config.run.dir) / "failed_episodes.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_verls_worker_is_watched_once() -> None:
    run = AgentLoopWorker._run_agent_loop
    limits.install(agent_loops)
    assert AgentLoopWorker._run_agent_loop is run
    assert not hasattr(run.__wrapped__, "__wrapped__")


def test_the_workers_of_a_run_are_verls() -> None:
    """Ray copies every method into the class of the actors when that is made: ours must be there by then."""
    actors = AgentLoopWorkerTQ.__ray_metadata__.modified_class
    methods = [actors._run_agent_loop]
    while hasattr(methods[-1], "__wrapped__"):
        methods.append(methods[-1].__wrapped__)
    assert AgentLoopWorker._run_agent_loop in methods


def test_a_server_ten_times_as_slow_is_waited_for(worker: AgentLoopWorker) -> None:
    """A step takes that much longer; nothing is lost."""

    async def group() -> list[Any]:
        return await asyncio.gather(*(play(worker, "returns") for _ in range(16)))

    assert asyncio.run(group()) == ["reply"] * 16
    assert failures(worker) == []


def test_a_tool_that_never_returns_fails_its_episode(worker: AgentLoopWorker) -> None:
    async def group() -> list[Any]:
        async def later() -> None:
            await asyncio.sleep(0.1)
            worker_clock.now += 1801.0

        worker_clock = server
        hung, *others, _ = await asyncio.gather(
            play(worker, "hangs"), *(play(worker, "returns") for _ in range(3)), later(), return_exceptions=True
        )
        released.set()
        return [hung, *others]

    server = worker.llm_client
    hung, *others = asyncio.run(group())
    assert others == ["reply"] * 3
    assert isinstance(hung, ConfigurationError)
    assert str(hung) == (
        "run.tool_timeout=1800.0: an episode (tools, row 7, session 2) has waited longer for its tool, world or "
        f"reward, at {__file__}, line {lookup.__code__.co_firstlineno + 1}, in lookup. Give what it calls there a "
        "time limit of its own, or raise this one (null: none)"
    )
    (noted,) = failures(worker)
    assert noted["error"] == f"ConfigurationError: {hung}"
    assert (noted["step"], noted["group"], noted["session"]) == (3, "u", 2)


@pytest.mark.parametrize("agent_name", ["tools", GATEWAY_AGENT_NAME])
def test_what_an_episode_raises_is_noted(worker: AgentLoopWorker, agent_name: str) -> None:
    with pytest.raises(ValueError, match="no such city"):
        asyncio.run(play(worker, "raises", agent_name))
    assert [entry["error"] for entry in failures(worker)] == ["ValueError: no such city"]


def test_agents_of_the_gateway_have_their_own_limit(worker: AgentLoopWorker) -> None:
    assert asyncio.run(play(worker, "returns", GATEWAY_AGENT_NAME)) == "reply"
    assert "_actfocus_standstill" not in vars(worker)


def test_without_a_limit_nothing_is_watched(worker: AgentLoopWorker) -> None:
    """As in a command of verl's own, which has no section `run`."""
    worker.config = OmegaConf.create({"data": {}})
    assert asyncio.run(play(worker, "returns")) == "reply"
    assert limits.watch_of(worker) is None
    with pytest.raises(ValueError, match="no such city"):
        asyncio.run(play(worker, "raises"))


def test_a_note_that_cannot_be_written_hides_no_error(worker: AgentLoopWorker) -> None:
    (Path(worker.config.run.dir) / "failed_episodes.jsonl").mkdir()
    with pytest.raises(ValueError, match="no such city"):
        asyncio.run(play(worker, "raises"))


def test_the_trainer_names_the_cause(tmp_path: Path) -> None:
    """Of this start: an earlier one may have failed of something else."""
    config = {
        "run": {"dir": str(tmp_path)},
        "trainer": {},
        "actor_rollout_ref": {"rollout": {"val_kwargs": {"temperature": 0.5}}},
    }
    limits.note_failure(OmegaConf.create(config), ValueError("mended since"), {})
    log = RunLog(OmegaConf.create(config))
    assert log.last_failure() is None
    limits.note_failure(OmegaConf.create(config), ValueError("no such\ncity"), {})
    assert log.last_failure() == "ValueError: no such city"
    assert failed_episodes(1, 16, "step 3", log.last_failure()) == (
        "15 of 16 episodes of step 3 ended in an error (ValueError: no such city); see the logs of the agent-loop "
        "workers (run.verbose=true prints them)"
    )


@pytest.mark.parametrize("value", ["0", "-1", "soon", ".inf", "true"])
def test_a_limit_must_be_one(value: str) -> None:
    with pytest.raises(ConfigurationError, match=r"run\.tool_timeout="):
        check_config(composed(f"run.tool_timeout={value}"))


def test_no_limit_is_a_choice() -> None:
    check_config(composed("run.tool_timeout=null"))
