"""Names of a run's files, found again, and lines read up to the one that is being written."""

from __future__ import annotations

import pytest

from actfocus_verl import run_files


def test_files_of_episodes_by_step(tmp_path):
    for step in (10, 9, 2):
        path = run_files.rollouts_file(tmp_path, step)
        path.parent.mkdir(exist_ok=True)
        path.touch()
    (tmp_path / "rollouts" / "notes.jsonl").touch()
    assert list(run_files.rollout_files(tmp_path)) == [2, 9, 10]
    assert run_files.rollout_files(tmp_path)[9] == tmp_path / "rollouts" / "9.jsonl"
    assert run_files.rollout_files(tmp_path / "none") == {}


def test_checkpoints_and_the_note_of_the_latest(tmp_path):
    assert run_files.saved_steps(tmp_path) == []
    assert run_files.tracked_step(tmp_path) is None
    for name in ("global_step_10", "global_step_9", "global_step_old_3", "other_7"):
        (tmp_path / name).mkdir()
    (tmp_path / "global_step_4").touch()
    (tmp_path / run_files.TRACKER_FILE).write_text("10\n")
    assert run_files.saved_steps(tmp_path) == [9, 10]
    assert run_files.tracked_step(tmp_path) == "10"
    assert run_files.checkpoint_step(tmp_path / "global_step_4") is None


@pytest.mark.parametrize(
    ("content", "lines"),
    [(b"", []), (b"cut", []), (b"one\n", [b"one"]), (b"one\n\ntwo\ncut", [b"one", b"", b"two"])],
)
def test_a_line_counts_once_it_has_ended(content, lines):
    assert run_files.complete_lines(content) == lines
