"""The measurement as a self-contained HTML page: its figures, and M_t of single episodes over their tokens.

Made of the parts of a run's page (`reporting.html_page`), with a template, a script and a style of its own in `page/`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import groupby
from typing import Any, Final

import numpy as np

from actfocus_verl import __version__
from actfocus_verl.files import json_text
from actfocus_verl.reporting.curves import finite
from actfocus_verl.reporting.html_page import assemble, page_part
from actfocus_verl.rollout import ChatCodec
from actfocus_verl.truth.checks import checks, remarks
from actfocus_verl.truth.continuations import Replayed
from actfocus_verl.truth.decomposition import KINDS, Floats, Json, MeasuredEpisode, board_changes
from actfocus_verl.truth.segments import Kind

SHOWN: Final = 12
"""Episodes on the page."""

_SHARED_SCRIPTS: Final = ("base.js", "charts.js")


@dataclass(frozen=True)
class ShownEpisode:
    """An episode of S segments with means, errors (S + 1): m at its boundaries and R, and their standard errors."""

    replayed: Replayed
    means: Floats
    errors: Floats

    @property
    def largest_change(self) -> float:
        """The largest absolute change of m within a reply."""
        own = [segment.kind is not Kind.LUCK for segment in self.replayed.segments]
        return float(np.abs(np.diff(self.means))[own].max())


def with_largest_changes(
    measured: Sequence[MeasuredEpisode], replayed: Sequence[Replayed], count: int = SHOWN
) -> list[ShownEpisode]:
    """The `count` episodes with the largest change within a reply, in descending order.

    measured, replayed: the same episodes in one order, those of a board together.
    """
    found: list[ShownEpisode] = []
    for _, pairs in groupby(zip(measured, replayed, strict=True), key=lambda pair: pair[0].board):
        figures, played = zip(*pairs, strict=True)
        for episode, along in zip(played, board_changes(figures), strict=True):
            found.append(ShownEpisode(episode, along.means, np.sqrt(along.noise)))
    return sorted(found, key=lambda episode: -episode.largest_change)[:count]


def build_page(found: Mapping[str, Any], episodes: Sequence[ShownEpisode], codec: ChatCodec) -> str:
    """The page as text. found: the content of truth.json. episodes: to show one by one."""
    settings = found["settings"]
    data = {
        "version": __version__,
        "name": f"{settings['env']}/{settings['preset']}/{settings['split']}",
        "runs": [],  # the shared scripts are those of a run's page
        "kinds": [kind.value for kind in KINDS],
        "found": found,
        "checks": [
            {"name": check.name, "figure": check.figure, "expected": check.beside or str(check.expected)}
            for check in checks(found)
        ],
        "remarks": remarks(found),
        "facts": _facts(found),
        "episodes": [_episode(episode, codec) for episode in episodes],
    }
    own = resources.files("actfocus_verl.truth").joinpath("page")
    template, style, script = (
        own.joinpath(f"truth.{kind}").read_text(encoding="utf-8") for kind in ("html", "css", "js")
    )
    scripts = [*(page_part(name) for name in _SHARED_SCRIPTS), script]
    return assemble(template, scripts, page_part("page.css") + style, {"page-data": data})


def _facts(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Label and value of the settings that are set, and where the figures come from."""
    facts = {**found["settings"], "commit": found["commit"], "versions": found["versions"]}
    values = {label: value for label, value in facts.items() if value not in (None, {}, "")}
    return [(label, value if isinstance(value, str) else json_text(value)) for label, value in values.items()]


def _episode(episode: ShownEpisode, codec: ChatCodec) -> Json:
    replayed = episode.replayed
    trajectory = replayed.played.trajectory
    return {
        "board": replayed.key.board,
        "episode": replayed.key.repeat,
        "means": [finite(float(value)) for value in episode.means],
        "errors": [finite(float(value)) for value in episode.errors],
        "segments": _segments(replayed, codec),
        "states": [text.state for text in trajectory.texts],
        "final_state": trajectory.final_state,
    }


def _segments(replayed: Replayed, codec: ChatCodec) -> list[Json]:
    """Kind, turn, number of tokens and text of each segment; luck has no tokens."""
    found: list[Json] = []
    replies = [reply.token_ids for reply in replayed.played.trajectory.replies]
    ends = [segment.start for segment in replayed.segments[1:]]
    for segment, end in zip(replayed.segments, [*ends, None], strict=True):
        turn, start = segment.start.turn, segment.start.tokens
        stop = start if segment.kind is Kind.LUCK or end is None else end.tokens
        text, spans = codec.offsets(replies[turn])
        first = spans[start - 1][1] if start else 0
        found.append(
            {
                "kind": segment.kind.value,
                "turn": turn,
                "tokens": stop - start,
                "text": text[first : spans[stop - 1][1]] if stop > start else "",
            }
        )
    return found
