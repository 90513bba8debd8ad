"""What is written for others to read: JSON that every parser takes, times, and files that are replaced in one go.

Every JSON text of this package comes from `json_text`, as a test checks.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any


def json_text(content: Any, **options: Any) -> str:
    """Return `content` as JSON, on one line by default. A float that is not finite becomes null: JSON has no NaN.

    options: those of `json.dumps`.
    """
    return json.dumps(_finite(content), allow_nan=False, **options)


def append_json(path: Path, content: Mapping[str, Any]) -> None:
    """Append a line with a JSON object to a file, creating its folder if missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.write(json_text(content).encode() + b"\n")


def write_json(path: Path, content: Mapping[str, Any], *, indent: int = 2) -> None:
    """Replace a file by a JSON object, as `write_text` does."""
    write_text(path, json_text(content, indent=indent) + "\n")


def write_text(path: Path, text: str) -> None:
    """Replace a file, creating its folder if missing. A file must not have two writers at a time.

    Even after a kill the file holds the old content or the new one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def timestamp() -> str:
    """The time now as records have it: UTC, ISO 8601, in whole seconds."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return value
