"""What a run that failed says: the part that died, or the error of its own code where verl closed that part itself."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

import pytest
from omegaconf import DictConfig, OmegaConf
from ray.exceptions import ActorDiedError, RayTaskError
from rich.console import Console
from verl.trainer import main_ppo

from actfocus_verl import plugin
from actfocus_verl.launch.watchdog import ESSENTIAL, Death
from actfocus_verl.train import LostNode, RunFailed, train

CLOSED, KILLED = Death(ESSENTIAL["TransferQueueController"], 7), Death(ESSENTIAL["VLLM::EngineCore"], 8)
OWN = RayTaskError("run", "Traceback ...", RuntimeError("4 of 16 episodes ended in an error"))
RAYS = RayTaskError("run", "Traceback ...", ActorDiedError())


class Looked:
    """A watchdog whose thread saw nothing, and that finds one death when it is asked."""

    death = None

    def __init__(self, found: Death | None, elsewhere: Death | None = None) -> None:
        self._found, self._elsewhere = found, elsewhere

    def look(self) -> Death | None:
        return self._found

    def look_elsewhere(self) -> Death | None:
        return self._elsewhere

    def __enter__(self) -> Looked:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Nothing runs."""


def let_it_raise(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have verl's part of a run end with this error."""

    def run_ppo(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(main_ppo, "run_ppo", run_ppo)
    monkeypatch.setattr(plugin, "verify", list)


def settings(folder: Path) -> DictConfig:
    return OmegaConf.create(
        {
            "run": {"dir": str(folder), "verbose": False},
            "trainer": {"total_training_steps": 1},
            "actor_rollout_ref": {"rollout": {"name": "vllm"}},
            "ray_kwargs": {"ray_init": {}},
        }
    )


def test_a_cluster_that_does_not_answer_is_no_riddle(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Ray says that it failed to connect; that a token was wanted stands in the log of its C++ part."""
    let_it_raise(ConnectionError("Failed to connect to Ray cluster at 10.0.0.1:6379"), monkeypatch)
    with pytest.raises(
        RunFailed, match=r"Ray cluster at 10\.0\.0\.1:6379\. Check RAY_ADDRESS and .* RAY_AUTH_MODE=token"
    ):
        train(settings(tmp_path), Console(quiet=True), Looked(None))


@pytest.mark.parametrize(
    ("error", "found", "named"),
    [
        (OWN, CLOSED, None),
        (OWN, KILLED, KILLED),
        (RAYS, CLOSED, CLOSED),
        (RAYS, None, None),
        (ActorDiedError(), CLOSED, CLOSED),
    ],
)
def test_the_cause_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception, found: Death | None, named: Death | None
) -> None:
    let_it_raise(error, monkeypatch)
    with pytest.raises(Exception) as caught:
        train(settings(tmp_path), Console(quiet=True), Looked(found))
    if named is None:
        assert caught.value is error
    else:
        assert type(caught.value) is RunFailed
        assert str(caught.value) == str(named)


ELSEWHERE = Death("a reward worker (node gpu-3)", 7, cause="Worker exit type: SYSTEM_ERROR")


@pytest.mark.parametrize(
    ("error", "found", "named"),
    [
        (RAYS, None, ELSEWHERE),
        (RAYS, KILLED, KILLED),  # with the last lines of its log
        (OWN, None, None),
    ],
)
def test_a_part_that_ended_on_another_node_is_the_cause(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception, found: Death | None, named: Death | None
) -> None:
    let_it_raise(error, monkeypatch)
    with pytest.raises(RunFailed if named else RayTaskError) as caught:
        train(settings(tmp_path), Console(quiet=True), Looked(found, ELSEWHERE))
    assert named is None or (type(caught.value), str(caught.value)) == (RunFailed, str(named))


class Lost:
    """The cluster has lost a node."""

    def note(self) -> None:
        """Nothing to do."""

    def lost(self) -> list[str]:
        return ["gpu-3 (10.0.0.3)"]


@pytest.mark.parametrize(
    ("error", "found", "named"),
    [
        (RAYS, None, "the cluster lost node gpu-3 (10.0.0.3): ActorDiedError: "),
        (RAYS, CLOSED, "the cluster lost node gpu-3 (10.0.0.3): TransferQueue's controller (process 7) died"),
        (OWN, None, None),  # the run's own code raised it
    ],
)
def test_a_lost_node_is_the_cause(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception, found: Death | None, named: str | None
) -> None:
    let_it_raise(error, monkeypatch)
    with pytest.raises(LostNode if named else RayTaskError) as caught:
        train(settings(tmp_path), Console(quiet=True), Looked(found), nodes=Lost())
    assert named is None or str(caught.value).startswith(named)
