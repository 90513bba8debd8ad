"""What is written for others to read: JSON that every parser takes, times, and files that are replaced in one go.

Every JSON text of this package comes from `json_text`, as a test checks.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any


def json_text(content: Any, **options: Any) -> str:
    """Return `content` as JSON, on one line by default. A float that is not finite becomes null: JSON has no NaN.

    options: those of `json.dumps`.
    """
    return json.dumps(_finite(content), allow_nan=False, **options)


def append_json(path: Path, content: Mapping[str, Any]) -> None:
    """Append a line with a JSON object to a file, creating its folder if missing.

    The line is complete or absent: where the disk is full, what went in of it is taken out again. Raises OSError that
    names the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    rest = memoryview(json_text(content).encode() + b"\n")
    with naming(path), path.open("ab", buffering=0) as file:
        start = end = file.tell()
        try:
            while rest:
                written = file.write(rest)
                rest, end = rest[written:], end + written
        except OSError:
            if os.fstat(file.fileno()).st_size == end > start:  # else another process has written after it
                file.truncate(start)
            raise


def write_json(path: Path, content: Mapping[str, Any], *, indent: int = 2) -> None:
    """Replace a file by a JSON object, as `write_text` does."""
    write_text(path, json_text(content, indent=indent) + "\n")


def write_text(path: Path, text: str) -> None:
    """Replace a file, creating its folder if missing. A file must not have two writers at a time.

    Even after a kill, or on a full disk, the file holds the old content or the new one. Raises OSError that names it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    with naming(path):
        try:
            with temporary.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        except OSError:  # a full disk needs the space
            temporary.unlink(missing_ok=True)
            raise
        temporary.replace(path)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Give an OSError that names no file, as that of a write does not, the file's name."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def timestamp() -> str:
    """The time now as records have it: UTC, ISO 8601, in whole seconds."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")  # noqa: TID251  (here)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return value
