"""Single tokens: which of them decide, on a sample of the segments of one kind.

After every sampled token is a stopping time as well. Between the two boundaries of a segment M_t is therefore measured
at each token, and the squared changes of its tokens add up to that of the segment, in expectation.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from actfocus_verl.environments.splits import stable_hash
from actfocus_verl.truth.continuations import Replayed
from actfocus_verl.truth.decomposition import RESAMPLES, Floats, Json, board_draws, ratios, squared_change
from actfocus_verl.truth.segments import Kind

TOP: Final = 10
"""Tokens that are listed, by their share."""
_OF_REPLIES: Final = (Kind.REASONING, Kind.ACTION, Kind.FORMAT)


@dataclass(frozen=True)
class DrawnSegment:
    """A segment of a reply, of an episode that was measured. boundary: its number, and that of the boundary before."""

    episode: Replayed
    boundary: int

    @property
    def tokens(self) -> range:
        """Places of its tokens in the reply. Luck follows a reply, so there is always a next boundary."""
        segments = self.episode.segments
        return range(segments[self.boundary].start.tokens, segments[self.boundary + 1].start.tokens)

    @property
    def inner(self) -> range:
        """How many tokens of the reply stand at the boundaries within the segment."""
        return range(self.tokens.start + 1, self.tokens.stop)


@dataclass(frozen=True)
class MeasuredTokens:
    """A segment of T tokens: their texts, m before each and after the last (T + 1), and its squared errors (T + 1)."""

    board: int
    texts: Sequence[str]
    means: Floats
    noise: Floats


def decisive_kind(found: Mapping[str, Any]) -> Kind:
    """The kind of tokens with the largest share. found: as `decompose` gives it."""
    return max(_OF_REPLIES, key=lambda kind: found["shares"][kind.value]["estimate"])


def draw_segments(episodes: Sequence[Replayed], kind: Kind, count: int, seed: int) -> list[DrawnSegment]:
    """At most `count` segments of a kind, each as likely: the same for the same episodes and seed."""
    every = [
        DrawnSegment(episode, boundary)
        for episode in episodes
        for boundary, segment in enumerate(episode.segments)
        if segment.kind is kind
    ]
    every = [segment for segment in every if segment.tokens]
    return random.Random(stable_hash(f"truth/tokens/{seed}")).sample(every, min(count, len(every)))


def token_figures(segments: Sequence[MeasuredTokens], *, resamples: int = RESAMPLES, seed: int = 0) -> Json:
    """What the tokens of the segments decide, as JSON; intervals are those of a bootstrap over boards.

    - `top`: for the `TOP` texts with the largest share, how often they occur, and the sum of `squared_change` over
      these occurrences over that of all tokens.
    - `sum`: the sum over all tokens over the segments' own squared changes: a check, 1 in expectation.
    """
    boards = sorted({segment.board for segment in segments})
    rows = {board: row for row, board in enumerate(boards)}
    texts = sorted({text for segment in segments for text in segment.texts})
    columns = {text: column for column, text in enumerate(texts)}
    parts, own = np.zeros((len(boards), len(texts))), np.zeros(len(boards))
    for segment in segments:
        means, noise, row = segment.means, segment.noise, rows[segment.board]
        places = [columns[text] for text in segment.texts]
        np.add.at(parts[row], places, squared_change(means[:-1], noise[:-1], means[1:], noise[1:]))
        own[row] += squared_change(means[0], noise[0], means[-1], noise[-1])
    whole = parts.sum(axis=1)
    top = np.argsort(-parts.sum(axis=0), kind="stable")[:TOP]
    drawn = board_draws(len(boards), resamples, seed)
    shares = ratios(parts[:, top], np.broadcast_to(whole[:, None], (len(boards), len(top))), drawn)
    counts = Counter(text for segment in segments for text in segment.texts)
    return {
        "segments": len(segments),
        "tokens": counts.total(),
        "sum": ratios(whole[:, None], own[:, None], drawn)[0],
        "top": [
            {"token": texts[column], "count": counts[texts[column]], **share}
            for column, share in zip(top, shares, strict=True)
        ],
    }
