"""PyTorch's cache of compiled kernels, which every run of a user on a machine loads from."""

from __future__ import annotations

import getpass
import logging
import os
import re
import struct
import tempfile
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

logger = logging.getLogger(__name__)

_ELF: Final = b"\x7fELF"
_HEADER: Final = struct.Struct("<40xQ10xHH2x")
"""Of 64-bit ELF: where the table of sections begins, an entry's size, their number. The table is written last."""


def compile_cache() -> Path:
    """The folder of torch inductor's cache, as `torch._inductor.runtime.cache_dir_utils` finds it."""
    chosen = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    if chosen:
        return Path(chosen)
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = f"uid_{os.getuid()}"
    return Path(tempfile.gettempdir()) / ("torchinductor_" + re.sub(r'[\\/:*?"<>|]', "_", user))


def remove_cut_short(cache: Path) -> list[Path]:
    """Delete the cache's libraries that were not written to their end, and return them.

    A compiler that is killed leaves a part of a library under its final name; PyTorch loads it without a look, and
    vLLM's engine dies of that in every run until it is gone. One that is being written, whose lock is held, stays.
    """
    removed = []
    for library in cache.glob("*/*.so"):
        try:
            if _whole(library):
                continue
            with FileLock(cache / "locks" / f"{library.name.partition('.')[0]}.lock", timeout=0):
                if not _whole(library):
                    library.unlink()
                    removed.append(library)
        except (OSError, Timeout):  # in use, removed in this moment, or another user's
            continue
    if removed:
        logger.warning("removed %d compiled libraries that were cut short, such as %s", len(removed), removed[0])
    return removed


def _whole(library: Path) -> bool:
    with library.open("rb") as file:
        header = file.read(64)
    if len(header) < 64 or not header.startswith(_ELF):
        return False
    begin, size, count = _HEADER.unpack_from(header)
    return library.stat().st_size >= begin + size * count
