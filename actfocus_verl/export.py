"""Hand a run's checkpoint on: a Hugging Face folder that transformers loads and vLLM serves.

    python -m actfocus_verl.export run=outputs/quickstart out=<folder>
    python -m actfocus_verl.export run=outputs/quickstart step=10 out=<folder> dtype=fp32

run          a run's folder
out          a new folder, or that of an earlier export, which is replaced
step=latest  or the number of a training step whose checkpoint the run has
dtype=bf16   number format of the weights; or fp32, as they were trained unless the run says otherwise

A LoRA run's adapter is folded into the weights. Exit status: 0 finished, 1 failed, 2 a mistake in the command, 130
interrupted. See docs/evaluation.md.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock
from rich.console import Console

from actfocus_verl.arguments import read_options
from actfocus_verl.environments.base import require_integer
from actfocus_verl.errors import ConfigurationError
from actfocus_verl.evaluate import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_MISTAKE
from actfocus_verl.evaluation.checkpoints import Checkpoint, appears_whole, find_checkpoint, write_model
from actfocus_verl.evaluation.engine import platform_environment
from actfocus_verl.evaluation.sampling import EvaluationError
from actfocus_verl.files import write_json
from actfocus_verl.launch.record import installed_versions, source_commit

EXPORT_FILE = "export.json"
"""Says where the folder comes from, and that it is ours to replace."""
LATEST = "latest"
DTYPES = ("bf16", "fp32")


@dataclass(frozen=True)
class Arguments:
    """The command line, checked. step: None is the latest."""

    run: Path
    out: Path
    step: int | None = None
    dtype: str = "bf16"


def read_arguments(words: Sequence[str]) -> Arguments:
    """Raises ConfigurationError for an unknown key, a value that cannot be, no run, or no folder."""
    options = {key: value for key, value in read_options(words).items() if value is not None}
    known = tuple(Arguments.__dataclass_fields__)
    for key, value in options.items():
        if key not in known:
            raise ConfigurationError(key, value, "unknown key", f"Known: {', '.join(known)}")
    for key in ("run", "out"):
        if key not in options:
            raise ConfigurationError(key, None, "is not given", f"Add {key}=<folder>")
        options[key] = Path(str(options[key])).expanduser()
    if options.get("step") == LATEST:
        del options["step"]
    if "step" in options:
        require_integer("step", options["step"], low=1)
    arguments = Arguments(**options)
    if arguments.dtype not in DTYPES:
        raise ConfigurationError("dtype", arguments.dtype, "is no such number format", f"Use {' or '.join(DTYPES)}")
    return arguments


def export(arguments: Arguments, console: Console) -> Checkpoint:
    """Write the folder; returns the checkpoint it was made of.

    The folder appears complete or not at all. console: for progress. Raises ConfigurationError, and EvaluationError
    when the checkpoint cannot be merged.
    """
    if not arguments.run.is_dir():
        raise ConfigurationError("run", str(arguments.run), "is no folder", "Name a run's folder")
    checkpoint = find_checkpoint(arguments.run.absolute(), arguments.step, "run")
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
    """Keep a second export out of the folder for as long as the first one writes it."""
    path = out.with_name(f".{out.name}.lock")
    lock = FileLock(path)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except OSError as error:  # filelock's Timeout is one as well, and comes also where no lock can be made
        problem, remedy = "cannot be made", "Name another folder: out=<folder>"
        if path.exists():
            problem, remedy = "another export writes to it", "Wait for it, or name another folder"
        raise ConfigurationError("out", str(out), problem, remedy) from error
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        lock.release()


def _require_ours(out: Path) -> None:
    """Raise ConfigurationError unless the folder is new, empty, or holds what an export wrote and nothing else."""
    if not out.exists():
        return
    if not out.is_dir():
        raise ConfigurationError("out", str(out), "is a file", "Name a folder")
    strangers = sorted({path.name for path in out.iterdir()} - _files_of_an_export(out))
    if strangers:
        problem = f"holds files that no export wrote ({', '.join(strangers[:3])})"
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


def main(words: Sequence[str]) -> int:
    """Export, with progress on stderr; returns the exit status."""
    if not words or words[0] in ("-h", "--help"):
        sys.stdout.write(__doc__ or "")
        return 0 if words else EXIT_MISTAKE
    console = Console(stderr=True, highlight=False)
    try:
        arguments = read_arguments(words)
        export(arguments, console)
    except KeyboardInterrupt:
        console.print("interrupted")
        return EXIT_INTERRUPTED
    except (ConfigurationError, EvaluationError) as error:
        console.print(f"error: {error}", style="red", markup=False, soft_wrap=True)
        return EXIT_MISTAKE if isinstance(error, ConfigurationError) else EXIT_FAILED
    console.print(f"written: {arguments.out}", soft_wrap=True)
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main(sys.argv[1:]))
