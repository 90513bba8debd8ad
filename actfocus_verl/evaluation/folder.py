"""The folder of one evaluation, and resuming it.

`evaluation.json` has the settings, where and when they were used, and the summary once all episodes are done;
`episodes.jsonl` one episode per line, appended as it ends. A line is complete or absent, even after a kill.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from actfocus_verl.errors import ConfigurationError
from actfocus_verl.evaluation.episodes import EpisodeRecord
from actfocus_verl.files import append_json, json_text, timestamp, write_json
from actfocus_verl.launch.claim import CLAIM_FILE, LOCK_FILE, FolderClaim
from actfocus_verl.launch.record import installed_versions, source_commit
from actfocus_verl.run_files import complete_lines, kept_lines

EVALUATION_FILE = "evaluation.json"
EPISODES_FILE = "episodes.jsonl"
_NOT_OF_OTHERS = (CLAIM_FILE, LOCK_FILE, ".lock")
"""Files that may exist in a folder without an evaluation; the last is from earlier versions."""


def read_finished(path: Path) -> tuple[dict[str, Any], list[EpisodeRecord]]:
    """The settings and the episodes of a finished evaluation, which is only read.

    Raises ConfigurationError for another folder, and for an evaluation that is not finished: its episodes are the ones
    that end first.
    """
    entry = _read_json(path / EVALUATION_FILE, "evaluation")
    if not entry:
        remedy = "Name the out= of an evaluation"
        raise ConfigurationError("evaluation", str(path), f"holds no {EVALUATION_FILE}", remedy)
    if entry.get("status") != "finished":
        remedy = "Repeat the command that evaluates: it continues"
        raise ConfigurationError("evaluation", str(path), f"is not finished ({entry.get('status')})", remedy)
    lines = complete_lines((path / EPISODES_FILE).read_bytes())
    return dict(entry["settings"]), [_record(path, number, line) for number, line in enumerate(lines, start=1)]


def _read_json(path: Path, key: str) -> dict[str, Any]:
    """The object in a file, empty where there is none."""
    if not path.exists():
        return {}
    try:
        return dict(json.loads(path.read_bytes()))
    except (ValueError, TypeError) as error:
        raise ConfigurationError(key, str(path), f"is damaged ({error})", "Name a new folder") from error


def _record(folder: Path, number: int, line: bytes) -> EpisodeRecord:
    try:
        return EpisodeRecord.from_json(json.loads(line))
    except (ValueError, KeyError, TypeError) as error:
        where = f"{folder / EPISODES_FILE}, line {number}"
        raise ConfigurationError("out", where, f"is not an episode ({error!r})", "Remove the line") from error


class EvaluationFolder:
    """A context manager that keeps a second process from writing to the folder.

    Raises ConfigurationError for a folder that holds something else, or an evaluation with other settings.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.path = path
        self._settings = dict(settings)
        self._claims = ExitStack()
        self._start: dict[str, Any] = {}
        self._earlier_starts: list[dict[str, Any]] = []
        self.is_finished = False
        """Whether the summary of all episodes is written."""
        self.records: list[EpisodeRecord] = []
        """Finished episodes, in the order in which they ended."""

    def __enter__(self) -> EvaluationFolder:
        if self.path.exists() and not self.path.is_dir():
            raise ConfigurationError("out", str(self.path), "is a file", "Name a folder")
        strangers = self._strangers()
        if strangers:
            problem = f"holds other files ({', '.join(strangers[:3])})"
            raise ConfigurationError("out", str(self.path), problem, "Name a new folder")
        self._claims.enter_context(FolderClaim("out", self.path))
        try:
            earlier = _read_json(self.path / EVALUATION_FILE, "out")
            self._require_same_settings(earlier)
            self._earlier_starts = list(earlier.get("starts", []))
            self.is_finished = earlier.get("status") == "finished"
            self.records = self._read_records()
        except BaseException:
            self._claims.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._claims.close()

    def begin(self, **facts: Any) -> None:
        """Write the settings, before the first episode of this start. facts: further ones about this start."""
        self._start = {"started": timestamp(), "commit": source_commit(), "versions": installed_versions(), **facts}
        self._write("running", None)

    def append(self, record: EpisodeRecord) -> None:
        """Keep an episode that has ended."""
        self.records.append(record)
        append_json(self.path / EPISODES_FILE, record.to_json())

    def end(self, status: str, summary: Mapping[str, Any] | None = None) -> None:
        """Write how it ended: `finished` with a summary; `interrupted` or `failed: ...` without.

        Short episodes end first, so metrics of a part would be biased.
        """
        self._write(status, summary)

    def _strangers(self) -> list[str]:
        if not self.path.is_dir() or (self.path / EVALUATION_FILE).is_file():
            return []
        return sorted(path.name for path in self.path.iterdir() if path.name not in _NOT_OF_OTHERS)

    def _require_same_settings(self, earlier: Mapping[str, Any]) -> None:
        if not earlier:
            return
        ours, theirs = json.loads(json_text(self._settings)), earlier.get("settings", {})
        for key in dict.fromkeys([*ours, *theirs]):
            if ours.get(key) != theirs.get(key):
                problem = f"{self.path} holds an evaluation with {key}={theirs.get(key)!r}"
                raise ConfigurationError(key, ours.get(key), problem, "Use the same settings, or another out=")

    def _read_records(self) -> list[EpisodeRecord]:
        """The episodes of the file, from which a line cut short at its end is removed."""
        lines = kept_lines(self.path / EPISODES_FILE)
        return [_record(self.path, number, line) for number, line in enumerate(lines, start=1)]

    def _write(self, status: str, summary: Mapping[str, Any] | None) -> None:
        starts = [
            *self._earlier_starts,
            {**self._start, "ended": None if status == "running" else timestamp(), "status": status},
        ]
        entry = {"settings": self._settings, "status": status, "starts": starts, "summary": summary}
        write_json(self.path / EVALUATION_FILE, entry)
