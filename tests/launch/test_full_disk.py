"""A disk that fills: what was written stays whole, and the last words name the file, the disk and the remedy."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

import actfocus_verl.train as command
from actfocus_verl.command import EXIT_FAILED, run_command
from actfocus_verl.errors import ConfigurationError, no_space_behind
from actfocus_verl.files import append_json, naming, write_json, write_text
from actfocus_verl.launch import disk
from actfocus_verl.launch.claim import CLAIM_FILE, FolderClaim
from actfocus_verl.launch.record import RunRecord
from actfocus_verl.run_files import CONFIG_FILE, METRICS_FILE, RUN_FILE
from tests.helpers.disk import fill, small_disk

FULL = OSError(28, "No space left on device")
LONG = "x" * 9000
"""More than two pages: some of it fits where one is left."""


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk") as folder:
        yield folder


class Filling(io.FileIO):
    """A file on a disk with room for five more bytes."""

    room = 5

    def write(self, data: Any) -> int:
        part = bytes(data)[: self.room]
        if not part:
            raise FULL
        self.room -= len(part)
        return super().write(part)


class TestLines:
    def test_a_line_that_does_not_fit_leaves_nothing(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        path = tmp_path / METRICS_FILE
        append_json(path, {"step": 1})
        with monkeypatch.context() as patched:
            patched.setattr(Path, "open", lambda self, *_, **__: Filling(self, "a"))
            with pytest.raises(OSError, match=r"No space left on device: '.*metrics\.jsonl'"):
                append_json(path, {"step": 2})
        assert path.read_bytes() == b'{"step": 1}\n'

    def test_what_another_process_wrote_after_it_stays(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """The agents of all workers append to one file."""
        path = tmp_path / "agents.jsonl"

        class Shared(Filling):
            def write(self, data: Any) -> int:
                if self.room:
                    return super().write(data)
                with io.FileIO(path, "a") as other:
                    other.write(b'\n{"step": 3}\n')
                raise FULL

        with monkeypatch.context() as patched:
            patched.setattr(Path, "open", lambda self, *_, **__: Shared(self, "a"))
            with pytest.raises(OSError, match="No space left"):
                append_json(path, {"step": 2})
        assert path.read_bytes().splitlines()[-1] == b'{"step": 3}'

    def test_on_a_disk_that_really_is_full(self, small: Path) -> None:
        path = small / METRICS_FILE
        append_json(path, {"step": 1})
        filling = fill(small, leave=1)
        for _ in range(2):
            with pytest.raises(OSError, match=r"metrics\.jsonl"):
                append_json(path, {"step": 2, "note": LONG})
        filling.unlink()
        append_json(path, {"step": 2})
        assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2]


class TestFiles:
    def test_the_old_content_stays_and_the_half_of_the_new_one_goes(self, small: Path) -> None:
        write_json(small / RUN_FILE, {"a": 1})
        fill(small, leave=1)
        with pytest.raises(OSError, match=r"run\.json"):
            write_text(small / RUN_FILE, LONG)
        assert json.loads((small / RUN_FILE).read_text()) == {"a": 1}
        assert sorted(path.name for path in small.iterdir()) == ["filling", RUN_FILE]

    def test_an_error_that_names_its_file_is_left_alone(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="other") as caught, naming(tmp_path / "this"):
            (tmp_path / "other").read_text()
        assert caught.value.filename == str(tmp_path / "other")

    def test_a_claim_that_cannot_be_written_keeps_nobody_out(self, small: Path) -> None:
        with FolderClaim("run.dir", small):
            pass
        filling = fill(small)
        with (
            pytest.raises(ConfigurationError, match="No space left on device") as caught,
            FolderClaim("run.dir", small),
        ):
            pass
        assert f"{CLAIM_FILE}). Free space on its disk, or choose another run.dir" in str(caught.value)
        filling.unlink()
        with FolderClaim("run.dir", small):
            assert (small / CLAIM_FILE).exists()

    def test_a_start_keeps_the_configuration_and_the_record_of_the_starts_before(self, small: Path) -> None:
        """The configuration says whose run it is: without it the run could not be resumed."""
        RunRecord(small, OmegaConf.create({"a": 1})).end("finished")
        fill(small)
        with pytest.raises(OSError, match=CONFIG_FILE):
            RunRecord(small, OmegaConf.create({"a": 2}))
        assert yaml.safe_load((small / CONFIG_FILE).read_text()) == {"a": 1}
        assert json.loads((small / RUN_FILE).read_text())["exit_reason"] == "finished"


class Record:
    """A record on a full disk."""

    def end(self, reason: str, **facts: object) -> None:
        raise OSError(28, "No space left on device", RUN_FILE)


def ended(monkeypatch: pytest.MonkeyPatch, folder: Path, error: Exception, record: Any) -> str:
    """What a run that ended with an error says on its terminal."""
    terminal = io.StringIO()
    config = OmegaConf.create({"run": {"dir": str(folder)}, "trainer": {"default_local_dir": str(folder)}})

    def train(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(command, "train", train)
    with pytest.raises(SystemExit):
        command._run(config, record, Console(file=terminal))
    return terminal.getvalue()


class TestRun:
    def test_torchs_riddle_is_read(self, monkeypatch: pytest.MonkeyPatch, small: Path) -> None:
        """`unexpected pos 576 vs 534` is all that torch says of a full disk."""
        record = RunRecord(small, OmegaConf.create({}))
        with pytest.raises(RuntimeError, match="unexpected pos") as caught:
            torch.save({"x": torch.zeros(1 << 19)}, small / "model.pt")
        said = ended(monkeypatch, small, caught.value, record)
        assert "unexpected pos" in said
        assert (
            f"no space left for run.dir ({small}: 0 of 1 MB free). Free space on its disk, and start the same" in said
        )

    def test_the_cause_is_told_where_the_record_cannot_keep_it(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        said = ended(monkeypatch, tmp_path, OSError(28, "No space left on device", "metrics.jsonl"), Record())
        assert f"{RUN_FILE} keeps no end of this run: [Errno 28]" in said
        assert "error: failed: [Errno 28] No space left on device: 'metrics.jsonl'" in said
        assert "Free space on its disk, and start the same command again: it resumes from the last checkpoint" in said

    def test_nothing_is_said_of_space_where_there_is_some(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr(disk, "_FULL_BYTES", 0)  # whatever the disk of the tests has left
        said = ended(monkeypatch, tmp_path, RuntimeError("4 of 16 episodes ended in an error"), RunRecord(tmp_path, {}))
        assert "4 of 16 episodes" in said
        assert "Free space" not in said
        assert "no space" not in said

    def test_one_that_cannot_begin_says_why(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        terminal = io.StringIO()

        def prepare(config: DictConfig, *_: object) -> DictConfig:
            return config

        def begin(config: DictConfig) -> None:
            raise OSError(28, "No space left on device", str(tmp_path / CONFIG_FILE))

        monkeypatch.setattr(command, "prepare", prepare)
        monkeypatch.setattr(command, "_begin_record", begin)
        monkeypatch.setattr(command, "Console", lambda **_: Console(file=terminal))
        with pytest.raises(SystemExit) as caught:
            command.run.__wrapped__(OmegaConf.create({"run": {"verbose": True}}))
        assert caught.value.code == 1
        assert (
            f"error: [Errno 28] No space left on device: '{tmp_path / CONFIG_FILE}'. Free space" in terminal.getvalue()
        )


class SafetensorError(Exception):
    """As the library's, which is no OSError."""


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (FULL, "[Errno 28] No space left on device"),
        (OSError(122, "Disk quota exceeded", "weights"), "[Errno 122] Disk quota exceeded: 'weights'"),
        (
            SafetensorError("Error:\nNo space left on device (os error 28)"),
            "Error: No space left on device (os error 28)",
        ),
    ],
)
def test_every_command_says_it_in_one_line(error: Exception, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    def work(words: Sequence[str], console: Console) -> None:
        try:
            raise error
        except type(error) as first:
            raise ValueError("the record of it failed as well") from first

    assert run_command(["a=1"], work, str) == EXIT_FAILED
    assert capsys.readouterr().err == f"error: {said}. Free space on its disk, and repeat the command\n"


def test_other_errors_are_not_taken_for_it() -> None:
    def work(words: Sequence[str], console: Console) -> None:
        raise ValueError("a mistake of ours")

    raised: Callable[[], int] = lambda: run_command(["a=1"], work, str)  # noqa: E731
    with pytest.raises(ValueError, match="ours"):
        raised()
    assert no_space_behind(ValueError("No room")) is None
