"""The continuations at single tokens of drawn segments, once the boundaries of all episodes have theirs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from actfocus_verl.evaluation.episodes import EpisodeKey, play_episodes
from actfocus_verl.evaluation.sampling import Sampler
from actfocus_verl.files import append_json
from actfocus_verl.launch.progress import StageProgress
from actfocus_verl.rollout import ChatCodec
from actfocus_verl.truth.continuations import Continuations, Replayed
from actfocus_verl.truth.decomposition import Json, MeasuredEpisode, decompose
from actfocus_verl.truth.samples import SettingsFile, entry_key, entry_returns
from actfocus_verl.truth.tokens import DrawnSegment, MeasuredTokens, decisive_kind, draw_segments, token_figures

TOKENS_FILE: Final = "tokens.jsonl"

Place = tuple[DrawnSegment, int]
"""A segment, and how many tokens of its reply stand."""


class TokenFile(SettingsFile):
    """returns: of the continuations, by episode, segment, and the number of its reply's tokens that stand."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.returns: dict[tuple[EpisodeKey, int, int], list[float]] = {}
        super().__init__(folder / TOKENS_FILE, settings)

    def add_returns(self, key: EpisodeKey, boundary: int, tokens: int, returns: list[float]) -> None:
        """Keep the returns of a place's continuations, in the order of their seeds."""
        self.returns[key, boundary, tokens] = returns
        place = {"board": key.board, "episode": key.repeat, "boundary": boundary, "tokens": tokens}
        append_json(self._path, {**place, "returns": returns})

    def _take(self, entry: Mapping[str, Any]) -> None:
        self.returns[entry_key(entry), int(entry["boundary"]), int(entry["tokens"])] = entry_returns(entry)


class TokenStage:
    """Draws segments of the kind of token with the largest share, samples what is missing of them, and sums them up.

    file: what was sampled before. measured, replayed: all episodes, in one order. count: segments to draw.
    """

    def __init__(
        self,
        file: TokenFile,
        continuations: Continuations,
        measured: Sequence[MeasuredEpisode],
        replayed: Sequence[Replayed],
        *,
        count: int,
        seed: int,
    ) -> None:
        self._file = file
        self._continuations = continuations
        self._measured = {episode.key: figures for episode, figures in zip(replayed, measured, strict=True)}
        self.kind = decisive_kind(decompose(measured, resamples=1))
        self._segments = draw_segments(replayed, self.kind, count, seed)

    @property
    def places(self) -> list[Place]:
        """All places within the segments."""
        return [(segment, tokens) for segment in self._segments for tokens in segment.inner]

    @property
    def missing(self) -> list[Place]:
        """Those that have no continuations yet."""
        return [(segment, at) for segment, at in self.places if self._key(segment, at) not in self._file.returns]

    async def sample(self, sampler: Sampler, progress: StageProgress, *, concurrency: int, tool_timeout: float) -> None:
        """Sample what is missing. concurrency: places at a time. tool_timeout: as `play_episodes` takes it."""
        missing, total = self.missing, len(self.places)
        done = total - len(missing)

        async def play(place: Place) -> None:
            segment, tokens = place
            returns = await self._continuations.returns_within(segment.episode, segment.boundary, tokens, sampler)
            self._file.add_returns(*self._key(segment, tokens), returns)

        def count(_: None) -> None:
            nonlocal done
            done += 1
            progress("tokens", done, total)

        await play_episodes(
            missing,
            play,
            concurrency=concurrency,
            record=count,
            tool_timeout=tool_timeout,
            name=lambda place: f"continuations of {place[0].episode.key}",
        )

    def figures(self, codec: ChatCodec) -> Json:
        """What `token_figures` says, the kind, and each drawn segment with its tokens and m before and after them."""
        found = [self._tokens(segment, codec) for segment in self._segments]
        drawn = [
            {
                "board": segment.episode.key.board,
                "episode": segment.episode.key.repeat,
                "turn": segment.episode.segments[segment.boundary].start.turn + 1,
                "tokens": tokens.texts,
                "means": tokens.means.tolist(),
                "errors": np.sqrt(tokens.noise).tolist(),
            }
            for segment, tokens in zip(self._segments, found, strict=True)
        ]
        return {"kind": self.kind.value, **token_figures(found), "drawn": drawn}

    def _tokens(self, segment: DrawnSegment, codec: ChatCodec) -> MeasuredTokens:
        ends = self._measured[segment.episode.key].continuations
        inner = [self._file.returns[self._key(segment, tokens)] for tokens in segment.inner]
        returns = np.array([ends[segment.boundary].ravel(), *inner, ends[segment.boundary + 1].ravel()])
        turn = segment.episode.segments[segment.boundary].start.turn
        text, spans = codec.offsets(segment.episode.played.trajectory.replies[turn].token_ids)
        cuts = [0, *(end for _, end in spans)]
        return MeasuredTokens(
            board=segment.episode.key.board,
            texts=[text[cuts[at] : cuts[at + 1]] for at in segment.tokens],
            means=returns.mean(axis=1),
            noise=returns.var(axis=1, ddof=1) / returns.shape[1],
        )

    @staticmethod
    def _key(segment: DrawnSegment, tokens: int) -> tuple[EpisodeKey, int, int]:
        return segment.episode.key, segment.boundary, tokens
