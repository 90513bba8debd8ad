"""run.json and config.yaml: one entry a start, written whole or not at all."""

from __future__ import annotations

import json
import re
import subprocess
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import DictConfig, OmegaConf

from actfocus_verl.launch import record as record_module
from actfocus_verl.launch.record import RunRecord, source_commit


@pytest.fixture
def config() -> DictConfig:
    return OmegaConf.create({"run": {"seed": 3, "name": "seed${run.seed}"}})


def read(folder: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((folder / "run.json").read_text())
    return record


def test_a_start_is_recorded_at_once(tmp_path: Path, config: DictConfig) -> None:
    RunRecord(tmp_path / "new" / "run", config)
    record = read(tmp_path / "new" / "run")
    assert record["exit_reason"] == "running"
    assert record["ended"] is None
    assert datetime.fromisoformat(record["started"]).tzinfo is not None
    assert {"python", "torch", "verl", "ray", "transformers"} <= set(record["versions"])
    assert set(record["machine"]) == {"system", "processor", "cores", "memory_gb"}
    assert record["starts"] == [{key: value for key, value in record.items() if key != "starts"}]


def test_the_configuration_is_written_resolved(tmp_path: Path, config: DictConfig) -> None:
    RunRecord(tmp_path, config)
    assert yaml.safe_load((tmp_path / "config.yaml").read_text()) == {"run": {"seed": 3, "name": "seed3"}}


@pytest.mark.parametrize("reason", ["finished", "interrupted", "failed: the vLLM engine (process 7) died"])
def test_the_end_is_recorded_with_its_reason(tmp_path: Path, config: DictConfig, reason: str) -> None:
    RunRecord(tmp_path, config).end(reason)
    record = read(tmp_path)
    assert record["exit_reason"] == reason
    assert datetime.fromisoformat(record["ended"]) >= datetime.fromisoformat(record["started"])
    assert [start["exit_reason"] for start in record["starts"]] == [reason]


@pytest.mark.parametrize("hours", [5, -5])
def test_a_clock_that_jumps_does_not_change_what_a_start_took(
    tmp_path: Path, config: DictConfig, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    started = datetime(2026, 3, 29, 12, tzinfo=timezone.utc)
    times = iter([started, started + timedelta(hours=hours)])
    monkeypatch.setattr(record_module, "timestamp", lambda: next(times).isoformat())
    monkeypatch.setattr(record_module.time, "monotonic", iter([100.0, 160.0]).__next__)
    RunRecord(tmp_path, config).end("finished")
    assert read(tmp_path)["seconds"] == 60.0


def test_starts_accumulate_and_the_last_one_is_the_records_own(tmp_path: Path, config: DictConfig) -> None:
    RunRecord(tmp_path, config).end("interrupted")
    RunRecord(tmp_path, config)  # killed: nobody recorded its end
    RunRecord(tmp_path, config).end("finished")
    record = read(tmp_path)
    assert [start["exit_reason"] for start in record["starts"]] == ["interrupted", "running", "finished"]
    assert record["exit_reason"] == "finished"
    assert all("starts" not in start for start in record["starts"])


def test_a_write_that_fails_leaves_the_earlier_record_whole(
    tmp_path: Path, config: DictConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = RunRecord(tmp_path, config)
    before = (tmp_path / "run.json").read_text()

    def fail(self: Path, target: Path) -> Path:
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="No space left"):
        record.end("finished")
    assert (tmp_path / "run.json").read_text() == before


@pytest.mark.parametrize("content", ['{"exit_reason": "finished"}', '{"starts": ', "[]"])
def test_a_file_that_is_no_record_is_moved_aside(tmp_path: Path, config: DictConfig, content: str) -> None:
    (tmp_path / "run.json").write_text(content)
    RunRecord(tmp_path, config)
    assert len(read(tmp_path)["starts"]) == 1
    assert (tmp_path / "run.json.unreadable").read_text() == content


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false"]
    answer = subprocess.run(["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return answer.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with one committed file, and a virtual environment that it ignores."""
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "record.py").write_text("one\n")
    (tmp_path / ".gitignore").write_text(".venv/\n")
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "record.py").write_text("installed\n")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "-m", "first")
    return tmp_path


def test_the_commit_is_that_of_the_source(checkout: Path) -> None:
    commit = source_commit(checkout / "package" / "record.py")
    assert commit == git(checkout, "rev-parse", "HEAD")
    assert commit is not None
    assert re.fullmatch("[0-9a-f]{40}", commit)


def test_a_tag_does_not_hide_the_commit_and_changes_show(checkout: Path) -> None:
    git(checkout, "tag", "v1")
    (checkout / "package" / "record.py").write_text("two\n")
    assert source_commit(checkout / "package" / "record.py") == git(checkout, "rev-parse", "HEAD") + "-dirty"


def test_a_package_installed_below_another_repository_has_no_commit(checkout: Path) -> None:
    assert source_commit(checkout / ".venv" / "record.py") is None


def test_outside_a_repository_there_is_no_commit(tmp_path: Path) -> None:
    (tmp_path / "record.py").touch()
    assert source_commit(tmp_path / "record.py") is None
