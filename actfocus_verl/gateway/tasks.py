"""Files of tasks: what an agent is given, one row a conversation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_tasks(path: Path) -> list[dict[str, Any]]:
    """The rows of a .parquet, .jsonl or .json file. Raises OSError and ValueError for what is none."""
    if path.suffix == ".parquet":
        from pyarrow import parquet

        return list(parquet.read_table(path).to_pylist())
    text = path.read_text(encoding="utf-8")
    if text.lstrip().startswith("["):
        rows = json.loads(text)
    else:
        rows = [json.loads(line) for line in text.splitlines() if line.strip()]
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("every row must be an object")
    return list(rows)
