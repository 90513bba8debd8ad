"""The user's data files, by their first rows: that there are rows, with the columns that verl reads.

A file is never read in full: of Parquet the footer and one row, of JSON lines as many as requested.
"""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from actfocus_verl.errors import ConfigurationError, first_line

_REMOTE: Final = re.compile(r"[a-z0-9]+://")
_ARRAY_BYTES: Final = 1 << 22
"""How much of a file that is one JSON array is read to find its first element."""


def is_remote(path: str) -> bool:
    """Whether verl copies the file from elsewhere (`hdfs://...`) before it reads it."""
    return _REMOTE.match(path) is not None


@dataclass(frozen=True)
class Sample:
    """The beginning of a data file."""

    row: dict[str, Any]
    """The first row."""
    columns: tuple[str, ...]
    """Names of its columns; in JSON lines of the first row's."""
    rows: int | None
    """Number of rows, capped at the number requested; None where counting would mean reading the file."""


def read_sample(key: str, path: str, *, rows: int) -> Sample | None:
    """Return the beginning of a .parquet, .json or .jsonl file; None if finding its first row would be costly.

    Args:
        key: the configuration key that names the file.
        path: an existing file.
        rows: up to how many rows to count.

    Raises:
        ConfigurationError: it cannot be read, or has no rows.
    """
    file = Path(path).expanduser()
    sample = _parquet(key, file) if path.endswith(".parquet") else _json(key, file, rows)
    if sample is not None and not sample.row:
        raise ConfigurationError(key, path, "the file has no rows", f"Correct {key}")
    return sample


def _parquet(key: str, path: Path) -> Sample:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            names, count = tuple(file.schema_arrow.names), file.metadata.num_rows
            batch = next(file.iter_batches(batch_size=1), None) if count else None
    except (OSError, pyarrow.ArrowException) as error:
        raise _unreadable(key, path, f"invalid Parquet ({first_line(error)})") from error
    found = batch.to_pylist() if batch is not None else []
    return Sample(found[0] if found else {}, names, count)


def _json(key: str, path: Path, rows: int) -> Sample | None:
    with path.open(encoding="utf-8", errors="replace") as file:
        lines = list(itertools.islice((line for line in file if not line.isspace()), max(rows, 1)))
    if not lines:
        return Sample({}, (), 0)
    first, count = lines[0].lstrip(), len(lines)
    if first.startswith("["):
        return _array(path)
    try:
        row = json.loads(first)
    except ValueError as error:
        if first.rstrip() == "{":  # one object over several lines, whose end may be far
            return None
        raise _unreadable(key, path, f"invalid JSON in its first line ({error})") from error
    if not isinstance(row, dict):
        raise _unreadable(key, path, f"a {type(row).__name__} in its first line; each row must be an object")
    return Sample(row, tuple(row), count)


def _array(path: Path) -> Sample | None:
    with path.open(encoding="utf-8", errors="replace") as file:
        text = file.read(_ARRAY_BYTES).lstrip()[1:].lstrip()
    if text.startswith("]"):
        return Sample({}, (), 0)
    try:
        row, _ = json.JSONDecoder().raw_decode(text)
    except ValueError:  # cut short, or none: verl will say
        return None
    return Sample(row, tuple(row), None) if isinstance(row, dict) else None


def _unreadable(key: str, path: Path, what: str) -> ConfigurationError:
    return ConfigurationError(key, str(path), f"the file holds {what}", f"Correct {key}")
