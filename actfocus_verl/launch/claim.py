"""The right to write to a folder: one process at a time has it, and a file names that process.

While a process writes to a folder, `claim.json` in it names host, process and since when. It is created exclusively,
touched every few seconds, and always removed at the end; only a process that is killed leaves it behind.

- A process of this machine's current boot can be looked up by its id and start time, so a reused id is not mistaken for
  it. The claim of a dead process is taken over.
- A process elsewhere cannot be looked up: on another host of a shared file system, in another container, before a
  reboot. Its claim is respected. When it was not touched for five minutes the refusal says that the process is probably
  gone, and the user deletes the file; where the host has this host's name (a reboot, a restarted container), it is
  taken over unless it is touched while one waits for it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from actfocus_verl.errors import ConfigurationError, not_writable
from actfocus_verl.files import json_text, timestamp

CLAIM_FILE: Final = "claim.json"
LOCK_FILE: Final = ".claim.lock"
"""Held briefly, so that no two processes of a host take over one stale claim. Never deleted: that would race."""

HEARTBEAT_SECONDS = 10.0
JOB_VARIABLE: Final = "ACTFOCUS_JOB"
"""An environment variable that a scheduler's recipe sets, equal in every attempt of a job. It promises that one attempt
runs at a time: the claim of an earlier one, whose process cannot be looked up from here, is stale."""
SILENT_SECONDS = 300.0
"""The process of a claim that was not touched for this long is probably gone."""


@dataclass(frozen=True)
class ProcessIdentity:
    """Identifies a process uniquely, even when its id is reused."""

    host: str
    boot: str
    """The kernel's boot id: host names repeat, above all in containers."""
    namespace: str
    """The namespace of its process id: every container has its own process 1."""
    pid: int
    started: int | None
    """Clock ticks from boot to its start, which setting the clock does not change."""

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> ProcessIdentity:
        """Raises KeyError or TypeError for an invalid entry."""
        return cls(**{name: entry[name] for name in cls.__dataclass_fields__})

    def is_running(self) -> bool | None:
        """Whether it runs; None where that cannot be seen from here."""
        here = this_process()
        if (self.boot, self.namespace) != (here.boot, here.namespace):
            return None
        try:
            started = _start_ticks(self.pid)
        except FileNotFoundError:
            return _may_be_hidden(self.pid)
        return started is not None and started == self.started


def this_process() -> ProcessIdentity:
    boot, namespace = _boot()
    return ProcessIdentity(platform.node(), boot, namespace, os.getpid(), _start_ticks(os.getpid()))


@cache
def _boot() -> tuple[str, str]:
    """Boot id and process namespace; without them, the host's name."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return boot, str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return platform.node(), ""


def _start_ticks(pid: int) -> int | None:
    """When a process started, in ticks after boot; None if it has ended.

    Raises FileNotFoundError if no process has this id, or it is hidden.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except ProcessLookupError:  # it ended between opening and reading
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def _may_be_hidden(pid: int) -> bool:
    """Whether a process that /proc does not show is another user's, on a machine that hides those."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except ProcessLookupError:
        pass
    return False


class FolderClaim:
    """Holds the claim of a folder while its `with` block runs; the folder is created if missing.

    key: the setting that names the folder, for errors. Entering raises ConfigurationError when another process has the
    claim, or when the folder cannot be written.
    """

    def __init__(self, key: str, folder: Path) -> None:
        self._key = key
        self._folder = folder
        self._path = folder / CLAIM_FILE
        self._descriptor = -1
        self._content = b""
        self._ended = threading.Event()
        self._heartbeat = threading.Thread(target=self._touch, name="actfocus-claim", daemon=True)

    def __enter__(self) -> FolderClaim:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with _locked(self._folder) as lock:
                self._require_free(lock)
                while not self._create():
                    self._require_free(lock)
        except OSError as error:
            raise not_writable(self._key, self._folder, error, self._path) from error
        self._heartbeat.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._ended.set()
        self._heartbeat.join()
        os.close(self._descriptor)
        with contextlib.suppress(OSError), _locked(self._folder):  # OSError: the folder is gone
            if self._path.read_bytes() == self._content:  # not another's, made after this one was deleted by hand
                self._path.unlink()

    def _require_free(self, lock: int) -> None:
        """Remove a stale claim; raise for a valid one."""
        holder = self._read()
        if holder is None:
            return
        process, since, job = holder
        running, silence = process.is_running(), _silence(self._path, lock)
        restarted = running is None and process.host == platform.node() and silence >= SILENT_SECONDS
        attempted = running is None and job is not None and job == _job()
        if running is False or attempted or (restarted and not self._is_touched()):
            self._path.unlink(missing_ok=True)
            return
        raise self._refusal(process, since, None if running else _silence(self._path, lock))

    def _is_touched(self) -> bool:
        """Whether somebody touches the claim now. A clock that was set forward makes a living one look silent."""
        try:
            before = self._path.stat().st_mtime_ns
            time.sleep(1.5 * HEARTBEAT_SECONDS)
            return self._path.stat().st_mtime_ns != before
        except FileNotFoundError:  # released in this moment
            return False

    def _create(self) -> bool:
        """Create the claim; False when another host did so at the same moment."""
        try:
            self._descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError:
            return False
        self._content = json_text({**asdict(this_process()), "since": timestamp(), "job": _job()}).encode() + b"\n"
        try:
            os.write(self._descriptor, self._content)
            os.fsync(self._descriptor)
        except OSError:  # a full disk: an empty claim would keep everyone out once there is space again
            os.close(self._descriptor)
            self._path.unlink()
            raise
        return True

    def _read(self) -> tuple[ProcessIdentity, str, str | None] | None:
        try:
            entry = json.loads(self._path.read_bytes())
            return ProcessIdentity.from_json(entry), str(entry["since"]), entry.get("job")
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            problem = f"{self._path} is not a readable claim, so another process may be writing there"
            remedy = f"Make sure that none is, and delete that file; or choose another {self._key}"
            raise ConfigurationError(self._key, str(self._folder), problem, remedy) from error

    def _refusal(self, process: ProcessIdentity, since: str, silence: float | None) -> ConfigurationError:
        """silence: seconds since the last sign of a process that cannot be looked up; None if it is known to run."""
        name = f"process {process.pid} on host {process.host}"
        if silence is None:
            problem = f"{name} has been writing to it since {since}"
            remedy = f"Wait for it to end, or choose another {self._key}"
        elif silence < SILENT_SECONDS:
            problem = f"{name} has been writing to it since {since} (last sign of life {silence:.0f} s ago)"
            remedy = f"Wait for it to end, or choose another {self._key}; if that process is gone, delete {self._path}"
        else:
            problem = f"{name} began to write to it at {since} and has given no sign of life for {silence / 60:.0f} min"
            remedy = f"It is probably gone: make sure, and delete {self._path}, or choose another {self._key}"
        return ConfigurationError(self._key, str(self._folder), problem, remedy)

    def _touch(self) -> None:
        while not self._ended.wait(HEARTBEAT_SECONDS):
            with contextlib.suppress(OSError):  # one that fails is one beat less, no reason to end a run
                os.utime(self._descriptor)


def _job() -> str | None:
    return os.environ.get(JOB_VARIABLE) or None


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[int]:
    """Exclude this host's other processes; yields the lock file's descriptor."""
    descriptor = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        with contextlib.suppress(OSError):  # a file system without locks: creating a claim is exclusive all the same
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


def _silence(path: Path, lock: int) -> float:
    """Seconds since a claim was touched, by the file system's clock, which may differ from the host's."""
    os.utime(lock)
    try:
        return max(0.0, os.fstat(lock).st_mtime - path.stat().st_mtime)
    except FileNotFoundError:  # released in this moment
        return 0.0
