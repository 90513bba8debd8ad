"""A run's files, its lock, and its state.

==============================================  ====================================================================
``results/<matrix>/<experiment>/seed<k>.json``  the summary of a finished run, which is committed
``outputs/<matrix>/<experiment>/seed<k>/``      the run's folder, as ``actfocus_verl.train`` writes it
``.../seed<k>.lock``                            held by the runner and by the training it started
``.../seed<k>.start.json``                      the last start: code, settings, which runner, how the command ended
``.../seed<k>.log``                             what the training printed
==============================================  ====================================================================

The lock is a `flock` on a descriptor that the training inherits, so it is held while either process lives: after a
runner is killed, the run stays locked until its training has ended. The training also claims its folder itself
(launch/claim.py), which keeps out a training that is started by hand.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Any

from actfocus_verl.errors import ConfigurationError
from actfocus_verl.launch.claim import ProcessIdentity
from actfocus_verl.reproduction.matrix import Matrix, Run
from actfocus_verl.run_files import RUN_FILE


class State(Enum):
    """A run's state."""

    DONE = "done"
    """Its summary is written."""
    RUNNING = "running"
    """A training, or the runner about to start it, holds its lock."""
    FINISHED = "finished"
    """The training finished, but its summary is not yet written."""
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    """It was started and interrupted; it resumes from its last checkpoint."""
    SUBMITTED = "submitted"
    """Submitted to a cluster that has not started it yet."""
    MISSING = "missing"


@dataclass(frozen=True)
class Places:
    """The files of one run."""

    summary: Path
    folder: Path

    @property
    def lock(self) -> Path:
        return self.folder.with_suffix(".lock")

    @property
    def start(self) -> Path:
        return self.folder.with_suffix(".start.json")

    @property
    def submission(self) -> Path:
        return self.folder.with_suffix(".submission.json")

    @property
    def job(self) -> Path:
        """The script submitted to a cluster."""
        return self.folder.with_suffix(".sh")

    @property
    def log(self) -> Path:
        return self.folder.with_suffix(".log")

    @property
    def final_evaluation(self) -> Path:
        """The last policy on other boards than the training's, where the matrix asks for it."""
        return self.folder / "final_evaluation"


@dataclass(frozen=True)
class Workspace:
    """The folders a matrix works in."""

    matrix: Matrix
    results: Path
    outputs: Path

    def places(self, run: Run) -> Places:
        """The run's files, as absolute paths: the training may start in another folder."""
        within = Path(self.matrix.name) / run.experiment.name
        return Places(
            summary=(self.results / within / f"seed{run.seed}.json").absolute(),
            folder=(self.outputs / within / f"seed{run.seed}").absolute(),
        )

    def state(self, run: Run) -> State:
        """A run's current state."""
        places = self.places(run)
        if places.summary.exists():
            return State.DONE
        if is_locked(places.lock):
            return State.RUNNING
        started = read_json(places.start)
        reason = str(read_json(places.folder / RUN_FILE).get("exit_reason"))
        if started and reason == "finished":
            return State.FINISHED
        if started.get("exit_status") not in (None, 0, -2, -15, 130) or reason.startswith("failed"):
            return State.FAILED
        if started:
            return State.INTERRUPTED
        return State.SUBMITTED if places.submission.exists() else State.MISSING


class RunLock:
    """The right to work on a run; see the top of this file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    @property
    def descriptor(self) -> int:
        """The descriptor that the training inherits."""
        assert self._descriptor is not None
        return self._descriptor

    def acquire(self) -> bool:
        """Try once; False when another process holds it."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        return True

    def release(self) -> None:
        """Release this process's share: closing leaves the lock with a living training, unlocking would not."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> RunLock:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.release()


def is_locked(path: Path) -> bool:
    """Whether another process holds the run's lock."""
    if not path.exists():
        return False
    with RunLock(path) as lock:
        return not lock.acquire()


def is_orphan(start: Mapping[str, Any]) -> bool:
    """Whether the runner of this start was on this machine and is dead."""
    try:
        return ProcessIdentity.from_json(start["runner"]).is_running() is False
    except (KeyError, TypeError):  # no start, or that of an earlier version, which named it in another way
        return False


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file; empty where there is no file.

    Raises:
        ConfigurationError: the file is damaged; ours cannot be, since they are replaced atomically.
    """
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ConfigurationError("file", str(path), f"is damaged ({error})", "Delete it") from error
    if not isinstance(content, dict):
        raise ConfigurationError("file", str(path), "is not a JSON object", "Delete it")
    return content
