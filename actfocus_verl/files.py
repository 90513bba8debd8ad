"""Files that are replaced in one go: whatever ends the process, they hold the old content or the new one."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_json(path: Path, content: Mapping[str, Any], *, indent: int = 2) -> None:
    """Replace a file by a JSON object, as `write_text` does.

    Raises ValueError for a number that is not finite, which JSON has not.
    """
    write_text(path, json.dumps(content, indent=indent, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Replace a file, and make its folder where there is none. Two writers of one file must not meet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
