"""A second training in a folder that another process writes to is refused before anything is written there."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from rich.console import Console

from actfocus_verl.errors import ConfigurationError
from actfocus_verl.train import prepare
from tests.config.conftest import compose_config

_HOLD = """
import sys
from pathlib import Path
from actfocus_verl.launch.claim import FolderClaim
with FolderClaim("run.dir", Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def hold(run_folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that writes to the run's folder, or to a folder in it."""
    command = [sys.executable, "-c", _HOLD, str(run_folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def start(*overrides: str) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught, ExitStack() as claims:
        prepare(compose_config("platform=cpu", "model=tiny", *overrides), Console(quiet=True), claims)
    return caught.value


def test_a_second_run_is_refused_before_it_writes(hold: subprocess.Popen[str], run_folder: Path) -> None:
    """With other settings, too: that the folder holds another run, to be deleted, would be bad advice."""
    (run_folder / "config.yaml").write_text("env: {name: other}\n")
    (run_folder / "metrics.jsonl").touch()
    before = {path: path.stat().st_mtime_ns for path in run_folder.iterdir() if path.suffix != ".lock"}

    error = start(f"run.dir={run_folder}")

    assert (error.key, error.value) == ("run.dir", str(run_folder))
    assert error.problem.startswith(f"process {hold.pid} on host ")
    assert before == {path: path.stat().st_mtime_ns for path in run_folder.iterdir() if path.suffix != ".lock"}


def test_another_run_s_checkpoints_are_its_own(hold: subprocess.Popen[str], run_folder: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    error = start(f"run.dir={mine}", f"trainer.default_local_dir={run_folder}")
    assert (error.key, error.value) == ("trainer.default_local_dir", str(run_folder))
    assert not (mine / "claim.json").exists()


def test_a_refused_start_gives_its_folder_back(run_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    error = start(f"run.dir={run_folder}", f"trainer.default_local_dir={tmp_path / 'file'}")
    assert error.key == "trainer.default_local_dir"
    assert not (run_folder / "claim.json").exists()
