"""Export a run's checkpoint: a Hugging Face folder that transformers loads and vLLM serves.

    python -m actfocus_verl.export run=outputs/quickstart out=<folder>
    python -m actfocus_verl.export run=outputs/quickstart step=10 out=<folder> dtype=fp32

A LoRA run's adapter is merged into the weights. Exit status: 0 finished, 1 failed, 2 a mistake in the command, 130
interrupted. See docs/evaluation.md.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock
from rich.console import Console

from actfocus_verl.arguments import help_text, option, read_arguments
from actfocus_verl.command import run_command, start
from actfocus_verl.errors import ConfigurationError
from actfocus_verl.evaluation.checkpoints import Checkpoint, appears_whole, find_checkpoint, write_model
from actfocus_verl.evaluation.engine import platform_environment
from actfocus_verl.files import write_json
from actfocus_verl.launch.record import installed_versions, source_commit

EXPORT_FILE = "export.json"
"""Records where the folder comes from, and marks it as ours to replace."""
LATEST = "latest"
DTYPES = ("bf16", "fp32")


@dataclass(frozen=True)
class Arguments:
    """The command line."""

    run: Path = option("a run's folder")
    out: Path = option("new folder, or that of an earlier export, which is replaced")
    step: str = option("training step whose checkpoint is exported", LATEST)
    dtype: str = option("dtype of the weights; fp32 keeps them as trained", "bf16", choices=DTYPES)

    @property
    def step_number(self) -> int | None:
        """None is the latest. Raises ConfigurationError."""
        if self.step == LATEST:
            return None
        if not re.fullmatch("[1-9][0-9]*", self.step):
            raise ConfigurationError("step", self.step, "must be an integer >= 1", f"Write step=10, or step={LATEST}")
        return int(self.step)


def export(arguments: Arguments, console: Console) -> Checkpoint:
    """Write the folder; returns the checkpoint it was made of.

    The folder appears complete or not at all. console: for progress. Raises ConfigurationError, and EvaluationError
    when the checkpoint cannot be merged.
    """
    if not arguments.run.is_dir():
        raise ConfigurationError("run", str(arguments.run), "is not a folder", "Name a run's folder")
    checkpoint = find_checkpoint(arguments.run.absolute(), arguments.step_number, "run")
    out = arguments.out.resolve()
    with _claimed(out):
        _require_ours(out)
        console.print(f"writing step {checkpoint.step} in {arguments.dtype}: {out}", soft_wrap=True)
        with appears_whole(out) as unfinished:
            write_model(checkpoint, unfinished, arguments.dtype, platform_environment("cpu"))
            write_json(unfinished / EXPORT_FILE, _record(checkpoint, arguments.dtype, unfinished))
    return checkpoint


@contextmanager
def _claimed(out: Path) -> Iterator[None]:
    """Keep a second export out of the folder while the first one writes it."""
    path = out.with_name(f".{out.name}.lock")
    lock = FileLock(path)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except OSError as error:  # filelock's Timeout is one as well, and comes also where no lock can be made
        problem, remedy = "cannot be created", "Name another folder: out=<folder>"
        if path.exists():
            problem, remedy = "is being written by another export", "Wait for it, or name another folder"
        raise ConfigurationError("out", str(out), problem, remedy) from error
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        lock.release()


def _require_ours(out: Path) -> None:
    """Raise ConfigurationError unless the folder is new, empty, or holds only files of an export."""
    if not out.exists():
        return
    if not out.is_dir():
        raise ConfigurationError("out", str(out), "is a file", "Name a folder")
    strangers = sorted({path.name for path in out.iterdir()} - _files_of_an_export(out))
    if strangers:
        problem = f"holds other files than an export's ({', '.join(strangers[:3])})"
        raise ConfigurationError("out", str(out), problem, "Name a new folder")


def _files_of_an_export(out: Path) -> set[str]:
    try:
        return {EXPORT_FILE, *json.loads((out / EXPORT_FILE).read_bytes())["files"]}
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def _record(checkpoint: Checkpoint, dtype: str, folder: Path) -> dict[str, Any]:
    return {
        "run": str(checkpoint.run),
        "step": checkpoint.step,
        "dtype": dtype,
        "commit": source_commit(),
        "versions": installed_versions(),
        "files": sorted(path.name for path in folder.iterdir()),
    }


def _read_and_export(words: Sequence[str], console: Console) -> None:
    arguments = read_arguments(Arguments, words)
    export(arguments, console)
    console.print(f"written: {arguments.out}", soft_wrap=True)


def main(words: Sequence[str]) -> int:
    """Export, with progress on stderr; returns the exit status."""
    return run_command(words, _read_and_export, lambda: help_text(__doc__ or "", Arguments))


if __name__ == "__main__":
    start(main)
