"""How much of the variance of the return is decided by reasoning, action, format and luck: NumPy alone.

At the boundaries b_0 ... b_S of an episode (`segments`) let M_i = E[return | the episode up to b_i]. b_0 is the board's
start, and M_S the return R. Boundaries are stopping times, so M is a martingale: its changes are uncorrelated, and

    Var(R | board) = E[(M_S - M_0)^2] = sum over segments of E[(M_after - M_before)^2].

A kind's share is the sum of its segments' terms over Var(R | board). M is estimated by continuations; how their noise
is taken out is said at `squared_change`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from actfocus_verl.truth.segments import Kind

KINDS: Final = tuple(Kind)
SUM: Final = "sum"
RESAMPLES: Final = 10_000
_FIGURE: Final = ("estimate", "low", "high")

Floats = NDArray[np.float64]
Json = dict[str, Any]


@dataclass(frozen=True)
class MeasuredEpisode:
    """An episode of S segments with the continuations of its boundaries.

    episode_return: R, its own. kinds, turns (S): of each segment. continuations (S, 2, N): returns of two independent
    sets of N continuations from the boundary before each segment. The first boundary is the board's start. stratum: the
    board's difficulty class, `World.stratum`.
    """

    board: int
    episode_return: float
    kinds: Sequence[Kind]
    turns: Sequence[int]
    continuations: Floats
    stratum: int = 0


@dataclass(frozen=True)
class Changes:
    """The estimated expected returns along an episode of S segments.

    kinds, turns (S): of each segment. means (S + 1): m at each boundary, the last one being the episode's own return.
    noise (S + 1): the variance of each mean's error, which are independent; 0 for the last.
    """

    kinds: Sequence[Kind]
    turns: Sequence[int]
    means: Floats
    noise: Floats

    @property
    def values(self) -> Floats:
        """(S,): m_after - m_before of each segment, the estimate of its true advantage."""
        values: Floats = np.diff(self.means)
        return values


@dataclass(frozen=True)
class _Boards:
    """Sums over the episodes of each of B boards, divided by their number; K kinds, T turns.

    squares (B, T, K), changes (B, K), segments (B, K): of the segments of a kind, their squared changes, their changes,
    their number. covariance (B, K), null (B,), variance (B,): see `decompose`. reached (B, T): episodes with that turn.
    strata (B,): the stratum.
    """

    squares: Floats
    changes: Floats
    segments: Floats
    covariance: Floats
    null: Floats
    variance: Floats
    reached: Floats
    strata: Floats


def squared_change(before: Floats, before_noise: Floats, after: Floats, after_noise: Floats) -> Floats:
    """An unbiased estimate of (M_after - M_before)^2, elementwise.

    With m the mean of n independent continuations, E[(m_after - m_before)^2] is (M_after - M_before)^2 + Var(m_after) +
    Var(m_before), and s^2 / n is an unbiased estimate of Var(m). So (m_after - m_before)^2 - s^2/n - s^2/n.
    The product of the differences of two independent halves is unbiased as well. But a half's difference has twice the
    variance v of the whole one's, and where M does not change the product then has the variance (2 v)^2, twice the
    2 v^2 of the square: so the square is taken, over both sets.

    before, after: means m. before_noise, after_noise: s^2 / n of each, 0 where M is known.
    """
    squares: Floats = (after - before) ** 2 - before_noise - after_noise
    return squares


def decompose(episodes: Sequence[MeasuredEpisode], *, resamples: int = RESAMPLES, seed: int = 0) -> Json:
    """The decomposition, as JSON; every estimate with the 95 % interval of a bootstrap over boards (percentiles).

    - `variance`: Var(R | board), the sample variance of the continuations from a board's start, mean over boards. All
      episodes of a board start there, so their first boundaries share all those continuations, for M_0 as well.
    - `shares`, `by_turn`: the sum of `squared_change` over the segments of a kind, mean over episodes, over `variance`.
    - `null`: each boundary against itself, the square of the difference of its two sets' means without their noise,
      summed and divided in the same way. Its expectation is 0, whatever the policy.
    - `strata`: the shares on the boards of each stratum, by its name; a stratum of one board has no intervals.
    - `drift`: mean of m_after - m_before over the segments of a kind, in the unit of returns. 0 for a martingale.
    - `covariance`: Cov(R, M_after - M_before | board) over `variance`. As R - M_0 is the sum of the changes, which are
      uncorrelated, this is the same share. It is linear in m, whose noise is independent of R, so nothing is
      subtracted. It is a cross-check, not the estimate: R itself is noisy, and the sum only compares two variances.

    Raises ValueError where a board has one episode or another number than the rest, a set one continuation, or where
    the return of no board varies.
    """
    boards = _tables(episodes)
    if not boards.variance.sum() > 0:
        raise ValueError("the return of no board varies")
    count, turns = boards.squares.shape[:2]
    drawn = board_draws(count, resamples, seed)

    def by_kind(parts: Floats) -> Json:
        return _by_kind(parts, boards.variance, drawn)

    return {
        "boards": count,
        "episodes": len(episodes),
        "segments": sum(len(episode.kinds) for episode in episodes),
        "variance": float(boards.variance.mean()),
        "shares": by_kind(boards.squares.sum(axis=1)),
        "null": ratios(boards.null[:, None], boards.variance[:, None], drawn)[0],
        "drift": {
            kind.value: found if boards.segments[:, place].any() else None
            for place, (kind, found) in enumerate(
                zip(KINDS, ratios(boards.changes, boards.segments, drawn), strict=True)
            )
        },
        "covariance": by_kind(boards.covariance),
        "by_turn": [
            {"turn": turn + 1, "reached": float(boards.reached[:, turn].mean()), **by_kind(boards.squares[:, turn])}
            for turn in range(turns)
        ],
        "strata": {
            str(int(stratum)): {
                "boards": int((boards.strata == stratum).sum()),
                "episodes": int((boards.strata == stratum).sum()) * (len(episodes) // count),
                **_stratum(boards, boards.strata == stratum, resamples, seed),
            }
            for stratum in np.unique(boards.strata)
        },
    }


def _stratum(boards: _Boards, chosen: NDArray[np.bool_], resamples: int, seed: int) -> Json:
    """Variance and shares on the chosen boards."""
    squares, variance = boards.squares[chosen].sum(axis=1), boards.variance[chosen]
    drawn = board_draws(len(variance), resamples, seed)
    return {"variance": float(variance.mean()), **_by_kind(squares, variance, drawn)}


def board_draws(count: int, resamples: int, seed: int) -> Floats:
    """How often each of `count` boards is in each resample, (resamples, count); none of a single board."""
    if count == 1:
        return np.zeros((0, 1))
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples)
    return drawn.astype(float)


def _by_kind(parts: Floats, variance: Floats, drawn: Floats) -> Json:
    """The shares of (B, K) parts in the variance (B,), and their sum."""
    parts = np.column_stack([parts, parts.sum(axis=1)])
    names = [*(kind.value for kind in KINDS), SUM]
    return dict(zip(names, ratios(parts, np.broadcast_to(variance[:, None], parts.shape), drawn), strict=True))


def ratios(parts: Floats, wholes: Floats, drawn: Floats) -> list[Json]:
    """For each column of (B, M) parts and wholes the ratio of their sums over boards, and its interval.

    drawn (resamples, B): how often each board is in a resample. A ratio to 0 is None, and left out of the interval.
    """

    def ratio(top: Floats, bottom: Floats) -> Floats:
        found: Floats = np.divide(top, bottom, out=np.full_like(top, np.nan), where=bottom != 0)
        return found

    value = ratio(parts.sum(axis=0), wholes.sum(axis=0))
    resampled = ratio(drawn @ parts, drawn @ wholes)
    known = ~np.isnan(resampled).all(axis=0)
    low, high = np.full((2, parts.shape[1]), np.nan)
    if known.any():
        low[known], high[known] = np.nanquantile(resampled[:, known], [0.025, 0.975], axis=0)
    return [
        {name: float(number) if np.isfinite(number) else None for name, number in zip(_FIGURE, figure, strict=True)}
        for figure in zip(value, low, high, strict=True)
    ]


def _tables(episodes: Sequence[MeasuredEpisode]) -> _Boards:
    turns = max(max(episode.turns) for episode in episodes) + 1
    ordered = sorted(episodes, key=lambda episode: episode.board)
    boards = [_board(list(group), turns) for _, group in groupby(ordered, key=lambda episode: episode.board)]
    if len({int(board.reached[0, 0]) for board in boards}) > 1:
        raise ValueError("boards have different numbers of episodes")
    columns = (np.concatenate(column) for column in zip(*(vars(board).values() for board in boards), strict=True))
    sums = _Boards(*columns)
    number = sums.reached[:, :1]
    return _Boards(
        squares=sums.squares / number[:, None],
        changes=sums.changes / number,
        segments=sums.segments / number,
        covariance=sums.covariance,
        null=sums.null / number[:, 0],
        variance=sums.variance,
        reached=sums.reached / number,
        strata=sums.strata,
    )


def board_changes(episodes: Sequence[MeasuredEpisode]) -> list[Changes]:
    """The changes of one board's episodes, whose first boundaries share all continuations from there."""
    starts = _starts(episodes)
    found = []
    for episode in episodes:
        both = episode.continuations.reshape(len(episode.kinds), -1)
        means = np.append(both.mean(axis=1), episode.episode_return)
        noise = np.append(both.var(axis=1, ddof=1) / both.shape[1], 0.0)
        means[0], noise[0] = starts.mean(), starts.var(ddof=1) / len(starts)
        found.append(Changes(episode.kinds, episode.turns, means, noise))
    return found


def episode_changes(episodes: Sequence[MeasuredEpisode]) -> list[Changes]:
    """The changes of all episodes, in their order; those of a board are neighbours."""
    boards = groupby(episodes, key=lambda episode: episode.board)
    return [changes for _, group in boards for changes in board_changes(list(group))]


def _starts(episodes: Sequence[MeasuredEpisode]) -> Floats:
    """The returns of all continuations from the start of these episodes' board."""
    return np.concatenate([episode.continuations[0].ravel() for episode in episodes])


def _board(episodes: Sequence[MeasuredEpisode], turns: int) -> _Boards:
    """The sums of one board's episodes, each with a leading axis of 1."""
    if len(episodes) < 2 or min(episode.continuations.shape[2] for episode in episodes) < 2:
        raise ValueError("a board needs two episodes, and a set two continuations")
    variance = _starts(episodes).var(ddof=1)
    squares, segments = np.zeros((2, turns, len(KINDS)))
    changes = np.zeros((len(episodes), len(KINDS)))
    null, reached = 0.0, np.zeros(turns)
    for row, (episode, along) in enumerate(zip(episodes, board_changes(episodes), strict=True)):
        means, noise = along.means, along.noise
        places = np.asarray(episode.turns), np.array([KINDS.index(kind) for kind in episode.kinds])
        np.add.at(squares, places, squared_change(means[:-1], noise[:-1], means[1:], noise[1:]))
        np.add.at(segments, places, 1.0)
        np.add.at(changes[row], places[1], along.values)
        halves = episode.continuations.mean(axis=2)
        half_noise = episode.continuations.var(axis=2, ddof=1) / episode.continuations.shape[2]
        null += float(squared_change(halves[:, 0], half_noise[:, 0], halves[:, 1], half_noise[:, 1]).sum())
        reached[: max(episode.turns) + 1] += 1
    returns = np.array([episode.episode_return for episode in episodes])
    covariance = (returns - returns.mean()) @ (changes - changes.mean(axis=0)) / (len(episodes) - 1)
    return _Boards(
        squares=squares[None],
        changes=changes.sum(axis=0)[None],
        segments=segments.sum(axis=0)[None],
        covariance=covariance[None],
        null=np.array([null]),
        variance=np.array([variance]),
        reached=reached[None],
        strata=np.array([float(episodes[0].stratum)]),
    )
