"""The folder of an evaluation: complete lines, taking it up again, and what it refuses."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from actfocus_verl.errors import ConfigurationError
from actfocus_verl.evaluation.episodes import EpisodeKey
from actfocus_verl.evaluation.folder import EPISODES_FILE, EVALUATION_FILE, EvaluationFolder
from tests.evaluation.test_episodes import record_of

SETTINGS = {"model": "m", "temperature": 0.5, "world": {"max_turns": 3}}


def write(path: Path, boards: range, status: str = "interrupted") -> None:
    with EvaluationFolder(path, SETTINGS) as folder:
        folder.begin()
        for board in boards:
            folder.append(record_of(EpisodeKey(board, 0)))
        folder.end(status)


def test_it_goes_on_where_it_ended(tmp_path: Path) -> None:
    write(tmp_path / "new" / "out", range(3))
    write(tmp_path / "new" / "out", range(3, 5))
    with EvaluationFolder(tmp_path / "new" / "out", SETTINGS) as folder:
        assert [record.board for record in folder.records] == [0, 1, 2, 3, 4]
        assert not folder.is_finished
    entry = json.loads((tmp_path / "new" / "out" / EVALUATION_FILE).read_text())
    assert (entry["settings"], entry["status"], entry["summary"]) == (SETTINGS, "interrupted", None)
    assert [start["status"] for start in entry["starts"]] == ["interrupted", "interrupted"]
    assert entry["starts"][0]["versions"]["actfocus_verl"]


def test_a_line_cut_short_is_removed(tmp_path: Path) -> None:
    write(tmp_path, range(3))
    file = tmp_path / EPISODES_FILE
    whole = file.read_bytes()
    for cut in (1, len(whole.splitlines()[-1]) // 2):
        file.write_bytes(whole[:-cut])
        with EvaluationFolder(tmp_path, SETTINGS) as folder:
            assert [record.board for record in folder.records] == [0, 1]
            folder.append(record_of(EpisodeKey(2, 0)))
        assert file.read_bytes() == whole


def test_damage_elsewhere_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, range(3))
    lines = (tmp_path / EPISODES_FILE).read_text().splitlines()
    for damaged in (lines[1][:-5], "{}", "[]"):
        (tmp_path / EPISODES_FILE).write_text("\n".join([lines[0], damaged, lines[2], ""]))
        with (
            pytest.raises(ConfigurationError, match=r"episodes.jsonl, line 2': is not an episode"),
            EvaluationFolder(tmp_path, SETTINGS),
        ):
            pass


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": 0.0}, "temperature=0.0: .* holds an evaluation with temperature=0.5. Use the same settings"),
        ({"world": {}}, r"world=\{\}: .* with world=\{'max_turns': 3\}"),
        ({"new": 1}, "new=1: .* with new=None"),
    ],
)
def test_other_settings_are_refused_by_name(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    write(tmp_path, range(1))
    before = (tmp_path / EVALUATION_FILE).read_bytes()
    with pytest.raises(ConfigurationError, match=message), EvaluationFolder(tmp_path, {**SETTINGS, **changes}):
        pass
    assert (tmp_path / EVALUATION_FILE).read_bytes() == before


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").touch()
    with pytest.raises(ConfigurationError, match=r"holds other files \(config.yaml\)"), EvaluationFolder(tmp_path, {}):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]
    with pytest.raises(ConfigurationError, match="is a file"), EvaluationFolder(tmp_path / "config.yaml", {}):
        pass


def test_one_evaluation_at_a_time(tmp_path: Path) -> None:
    with (
        EvaluationFolder(tmp_path, SETTINGS),
        pytest.raises(ConfigurationError, match=f"process {os.getpid()} on host .* has been writing to it since"),
        EvaluationFolder(tmp_path, SETTINGS),
    ):
        pass
    with EvaluationFolder(tmp_path, SETTINGS):
        pass
