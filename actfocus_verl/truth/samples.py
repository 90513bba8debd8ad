"""What a measurement has sampled: `samples.jsonl`, appended to as it comes in, so that the same command goes on.

The first line has the settings; then a line an episode and, once all continuations of a boundary have ended, a line a
boundary. A line is complete or absent, even after a kill.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
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


class SettingsFile(ABC):
    """Lines of JSON after one with the settings: all that the samples depend on.

    Reading it raises ConfigurationError where the file has other settings, or is damaged.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self._path = path
        self.settings = json.loads(json_text(dict(settings)))
        lines = kept_lines(self._path)
        if not lines:
            append_json(self._path, {"settings": self.settings})
        for number, line in enumerate(lines, start=1):
            try:
                entry = dict(json.loads(line))
                if number == 1:
                    self._require_same(dict(entry["settings"]))
                else:
                    self._take(entry)
            except (ValueError, KeyError, TypeError) as error:
                if isinstance(error, ConfigurationError):
                    raise
                where = f"{self._path}, line {number}"
                raise ConfigurationError("out", where, f"is damaged ({error!r})", "Name a new folder") from error

    @abstractmethod
    def _take(self, entry: Mapping[str, Any]) -> None:
        """Read one line."""

    def _require_same(self, theirs: Mapping[str, Any]) -> None:
        for key in dict.fromkeys([*self.settings, *theirs]):
            if self.settings.get(key) != theirs.get(key):
                problem = f"{self._path} was sampled with {key}={theirs.get(key)!r}"
                remedy = "Use the same settings, or another out="
                raise ConfigurationError(key, self.settings.get(key), problem, remedy)


class SampleFile(SettingsFile):
    """episodes: by key. returns: of the continuations, by episode and boundary."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.episodes: dict[EpisodeKey, Sampled] = {}
        self.returns: dict[tuple[EpisodeKey, int], list[float]] = {}
        super().__init__(folder / SAMPLES_FILE, settings)

    def add_episode(self, key: EpisodeKey, sampled: Sampled) -> None:
        """Keep an episode."""
        self.episodes[key] = sampled
        append_json(self._path, {"board": key.board, "episode": key.repeat, **asdict(sampled)})

    def add_returns(self, key: EpisodeKey, boundary: int, returns: list[float]) -> None:
        """Keep the returns of a boundary's continuations, in the order of their seeds."""
        self.returns[key, boundary] = returns
        line = {"board": key.board, "episode": key.repeat, "boundary": boundary, "returns": returns}
        append_json(self._path, line)

    def _take(self, entry: Mapping[str, Any]) -> None:
        key = entry_key(entry)
        if "boundary" in entry:
            self.returns[key, int(entry["boundary"])] = entry_returns(entry)
        else:
            self.episodes[key] = Sampled.from_json(entry)


def entry_key(entry: Mapping[str, Any]) -> EpisodeKey:
    return EpisodeKey(int(entry["board"]), int(entry["episode"]))


def entry_returns(entry: Mapping[str, Any]) -> list[float]:
    return [float(value) for value in entry["returns"]]
