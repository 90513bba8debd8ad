"""Which checkpoints are there at any moment, by verl's own engine and checkpoint manager."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from actfocus_verl.integration.checkpoints import kept_before
from tests.helpers.engines import build_engine


@pytest.fixture
def engine(group: None, model_folder: Path) -> Any:
    """A fresh one: verl's manager remembers what it has saved."""
    return build_engine(model_folder)


def save(engine: Any, checkpoints: Path, step: int, keep: int | None) -> None:
    engine.save_checkpoint(str(checkpoints / f"global_step_{step}" / "actor"), None, step, max_ckpt_to_keep=keep)


def steps(checkpoints: Path) -> list[int]:
    return sorted(int(path.parent.name.removeprefix("global_step_")) for path in checkpoints.glob("*/actor"))


def test_one_to_keep_leaves_the_last_one_until_the_next_is_complete(engine: Any, tmp_path: Path) -> None:
    """The tracker names it still when the weights of the next one are written: a kill may come in between."""
    for step in (1, 2, 3):
        save(engine, tmp_path, step, keep=1)
        assert steps(tmp_path) == list(range(max(1, step - 1), step + 1))


def test_a_resumed_run_keeps_no_more_than_one_that_was_not(engine: Any, model_folder: Path, tmp_path: Path) -> None:
    """Else every resume would leave two checkpoints for good, until the disk is full."""
    for step in (1, 2, 3):
        save(engine, tmp_path, step, keep=2)
    assert steps(tmp_path) == [2, 3]
    for first in (4, 6, 8):
        resumed = build_engine(model_folder)
        resumed.load_checkpoint(str(tmp_path / f"global_step_{first - 1}" / "actor"), del_local_after_load=False)
        for step in (first, first + 1):
            save(resumed, tmp_path, step, keep=2)
            assert steps(tmp_path) == [step - 1, step]


def test_nothing_is_removed_where_all_are_kept(engine: Any, model_folder: Path, tmp_path: Path) -> None:
    save(engine, tmp_path, 1, keep=None)
    resumed = build_engine(model_folder)
    resumed.load_checkpoint(str(tmp_path / "global_step_1" / "actor"), del_local_after_load=False)
    for step in (2, 3):
        save(resumed, tmp_path, step, keep=None)
    assert steps(tmp_path) == [1, 2, 3]


class TestKeptBefore:
    @pytest.fixture
    def run(self, tmp_path: Path) -> Path:
        for step in (9, 10, 50, 100, 150):
            (tmp_path / "run" / f"global_step_{step}" / "actor").mkdir(parents=True)
        (tmp_path / "run" / "global_step_40").mkdir()  # verl has removed its weights
        return tmp_path / "run"

    def kept(self, run: Path, resumed: int, count: int) -> list[str]:
        found = kept_before(run / f"global_step_{resumed}" / "actor", run / "global_step_200" / "actor", count)
        return [Path(path).parent.name for path in found]

    def test_the_last_is_the_one_that_was_loaded(self, run: Path) -> None:
        """Not 150: it was begun, and cut short, or given up."""
        assert self.kept(run, 100, 2) == ["global_step_50", "global_step_100"]

    def test_older_ones_are_the_users(self, run: Path) -> None:
        """Of a time when all were to be kept."""
        assert self.kept(run, 150, 3) == ["global_step_50", "global_step_100", "global_step_150"]

    def test_steps_are_numbers(self, run: Path) -> None:
        assert self.kept(run, 10, 5) == ["global_step_9", "global_step_10"]

    def test_those_of_another_run_are_left_alone(self, run: Path, tmp_path: Path) -> None:
        other = tmp_path / "other" / "global_step_200" / "actor"
        assert kept_before(run / "global_step_100" / "actor", other, 2) == []
        assert kept_before(run / "weights" / "actor", run / "global_step_200" / "actor", 2) == []
