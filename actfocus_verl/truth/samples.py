"""What a measurement has sampled: `samples.jsonl`, appended to as it comes in, so that the same command goes on.

The first line has the settings; then a line an episode and, once all continuations of a boundary have ended, a line a
boundary. A line is complete or absent, even after a kill.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from actfocus_verl.errors import ConfigurationError
from actfocus_verl.evaluation.episodes import EpisodeKey
from actfocus_verl.files import append_json, json_text
from actfocus_verl.run_files import kept_lines
from actfocus_verl.truth.continuations import Sampled

SAMPLES_FILE: Final = "samples.jsonl"


class SampleFile:
    """episodes: by key. returns: of the continuations, by episode and boundary.

    settings: all that the samples depend on. Raises ConfigurationError where the file has others, or is damaged.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self._path = folder / SAMPLES_FILE
        self._settings = json.loads(json_text(dict(settings)))
        self.episodes: dict[EpisodeKey, Sampled] = {}
        self.returns: dict[tuple[EpisodeKey, int], list[float]] = {}
        lines = kept_lines(self._path)
        if not lines:
            append_json(self._path, {"settings": self._settings})
        for number, line in enumerate(lines, start=1):
            try:
                self._read(dict(json.loads(line)), first=number == 1)
            except (ValueError, KeyError, TypeError) as error:
                if isinstance(error, ConfigurationError):
                    raise
                where = f"{self._path}, line {number}"
                raise ConfigurationError("out", where, f"is damaged ({error!r})", "Name a new folder") from error

    def add_episode(self, key: EpisodeKey, sampled: Sampled) -> None:
        """Keep an episode."""
        self.episodes[key] = sampled
        append_json(self._path, {"board": key.board, "episode": key.repeat, **asdict(sampled)})

    def add_returns(self, key: EpisodeKey, boundary: int, returns: list[float]) -> None:
        """Keep the returns of a boundary's continuations, in the order of their seeds."""
        self.returns[key, boundary] = returns
        line = {"board": key.board, "episode": key.repeat, "boundary": boundary, "returns": returns}
        append_json(self._path, line)

    def _read(self, entry: Mapping[str, Any], *, first: bool) -> None:
        if first:
            self._require_same(dict(entry["settings"]))
            return
        key = EpisodeKey(int(entry["board"]), int(entry["episode"]))
        if "boundary" in entry:
            self.returns[key, int(entry["boundary"])] = [float(value) for value in entry["returns"]]
        else:
            self.episodes[key] = Sampled.from_json(entry)

    def _require_same(self, theirs: Mapping[str, Any]) -> None:
        for key in dict.fromkeys([*self._settings, *theirs]):
            if self._settings.get(key) != theirs.get(key):
                problem = f"{self._path} was sampled with {key}={theirs.get(key)!r}"
                remedy = "Use the same settings, or another out="
                raise ConfigurationError(key, self._settings.get(key), problem, remedy)
