"""What the names of a cluster's actors say of a run's start."""

from __future__ import annotations

import pytest
import ray
from omegaconf import OmegaConf

from actfocus_verl.launch import stages
from actfocus_verl.launch.stages import StartUp
from actfocus_verl.train import verl_config_folder

EARLY = ["actfocus_task_runner", "TransferQueueController"]
SERVER, LOOP = "vllm_server_0_0", "agent_loop_worker_0_1a2b3c4d"


def config(**changes: object) -> object:
    settings = {
        "actor_rollout_ref": {"rollout": {"name": "vllm"}},
        "trainer": {"val_before_train": True},
        "ray_kwargs": {"ray_init": {}},
    }
    return OmegaConf.merge(settings, changes)


@pytest.fixture
def actors(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The named actors of a cluster that runs."""
    names: list[str] = []
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray.util, "list_named_actors", lambda: names)
    return names


def test_the_stages_follow_each_other(actors: list[str]) -> None:
    start = StartUp(config())
    seen = [start()]
    for more in ([], EARLY, ["reward_loop_worker_0"], [SERVER], [LOOP]):
        actors += more
        seen.append(start())
    assert list(dict.fromkeys(seen)) == ["loading the models", "starting vLLM", "evaluating"]


def test_how_long_each_stage_took(actors: list[str]) -> None:
    now = iter([12.0, 40.5, 60.04])
    seconds: dict[str, float] = {}
    start = StartUp(config(), seconds, began=2.0, clock=lambda: next(now))
    start(), start()
    for more in (SERVER, LOOP):
        actors.append(more)
        start(), start()
    assert seconds == {"checking the configuration": 10.0, "loading the models": 28.5, "starting vLLM": 19.5}


def test_what_a_run_does_first(actors: list[str]) -> None:
    actors += [*EARLY, SERVER, LOOP]
    assert StartUp(config(trainer={"val_before_train": False}))() == "playing the first episodes"


def test_before_there_is_a_cluster(actors: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    assert StartUp(config())() == "starting Ray"
    assert StartUp(config(ray_kwargs={"ray_init": {"address": "auto"}}))() == "connecting to Ray"
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert StartUp(config())() == "connecting to Ray"


def test_a_cluster_that_does_not_answer_is_no_news(actors: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> list[str]:
        raise ray.exceptions.RaySystemError("gone")

    monkeypatch.setattr(ray.util, "list_named_actors", fail)
    assert StartUp(config())() is None


def test_the_names_are_those_that_verl_gives() -> None:
    verl = verl_config_folder().parents[1]
    assert f'name=f"{stages._AGENT_LOOP}{{i}}"' in (verl / "experimental/agent_loop/agent_loop.py").read_text()
    for server in ("vllm_rollout/vllm_async_server.py", "sglang_rollout/async_sglang_server.py"):
        assert f"{stages._SERVER}{{self.replica_rank}}" in (verl / "workers/rollout" / server).read_text()
