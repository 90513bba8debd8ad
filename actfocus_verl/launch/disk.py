"""What to say of a full disk, which libraries report in words that do not tell (torch: `unexpected pos 576 vs 534`)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from actfocus_verl.errors import FREE_SPACE, no_space_behind

_FULL_BYTES: Final = 64 << 20
_FULL_SHARE: Final = 0.01
"""A disk with less than both is full: what failed for want of space may be gone, and a little is free again."""


def written_folders(config: Any) -> dict[str, Path]:
    """Where a run writes on this machine, by the setting that names the place."""
    return {
        "run.dir": Path(config.run.dir),
        "trainer.default_local_dir": Path(config.trainer.default_local_dir),
        "RAY_TMPDIR": Path(os.environ.get("RAY_TMPDIR", "/tmp")),
        "Ray's shared memory": Path("/dev/shm"),
    }


def no_space(folders: Mapping[str, Path], error: BaseException) -> str:
    """One line that names the full disks and the remedy; empty where none is full and `error` speaks of none."""
    full: dict[int, str] = {}
    for key, folder in folders.items():
        try:
            disk, usage = folder.stat().st_dev, shutil.disk_usage(folder)
        except OSError:  # not there, or not here
            continue
        if usage.free < min(_FULL_BYTES, _FULL_SHARE * usage.total):
            free, total = usage.free / 1e6, usage.total / 1e6
            full.setdefault(disk, f"{key} ({folder}: {free:.0f} of {total:.0f} MB free)")
    if not full and no_space_behind(error) is None:
        return ""
    where = f"no space left for {', '.join(full.values())}" if full else "a disk was full"
    return f"{where}. {FREE_SPACE}, and start the same command again: it resumes from the last checkpoint"
