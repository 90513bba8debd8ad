"""Which method finds the credit: its turns against the true advantages, and its gradient against the true one.

NumPy alone. Every figure has the 95 % interval (percentiles) of a bootstrap over boards, and the same resamples serve
all methods, so differences between methods are paired.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from actfocus_verl.truth.decomposition import Changes, board_draws
from actfocus_verl.truth.gradients import Products
from actfocus_verl.truth.segments import Kind

RESAMPLES: Final = 4_000
SURE: Final = 2.0
"""A turn's advantage is sure where it is so many standard errors from 0."""

Floats = NDArray[np.float64]
Json = dict[str, Any]


def resampled_boards(count: int, *, resamples: int = RESAMPLES, seed: int = 0) -> Floats:
    """(resamples + 1, P): how often each board is drawn; the first row is the sample itself."""
    return np.vstack([np.ones(count), board_draws(count, resamples, seed)])


def estimate(values: Floats) -> Json | None:
    """The figure of the sample, and its interval, from the values of all resamples, the first being the sample's.

    Undefined resamples are left out; None where the sample's own value is undefined.
    """
    if not np.isfinite(values[0]):
        return None
    low, high = np.quantile(values[1:][np.isfinite(values[1:])], [0.025, 0.975])
    return {"estimate": float(values[0]), "low": float(low), "high": float(high)}


@dataclass(frozen=True)
class Turns:
    """The N turns of all episodes, in their order.

    board (N). advantage (N): M after the reply, before the world's luck, minus M before it. noise (N): variance of its
    error. luck (N): the change of M by the luck after it; NaN where the episode has none.
    """

    board: NDArray[np.int64]
    advantage: Floats
    noise: Floats
    luck: Floats


def turns_of(changes: Sequence[Changes], boards: Sequence[int]) -> Turns:
    """The turns of these episodes, each with the number of its board."""
    rows = []
    for board, along in zip(boards, changes, strict=True):
        for first, last in _turn_edges(along):
            luck = along.means[last + 1] - along.means[last]
            advantage = along.means[last] - along.means[first]
            rows.append((board, advantage, along.noise[last] + along.noise[first], luck))
    board_column, *figures = (np.array(column) for column in zip(*rows, strict=True))
    return Turns(board_column, *figures)


def turn_sums(sums: Floats, along: Changes) -> list[float]:
    """Per turn of an episode: the sum over its segments of (S,) values."""
    return [float(sums[first:last].sum()) for first, last in _turn_edges(along)]


def _turn_edges(along: Changes) -> list[tuple[int, int]]:
    """Per turn: the number of its first segment, and of its luck, which ends it."""
    lasts = [number for number, kind in enumerate(along.kinds) if kind is Kind.LUCK]
    return list(zip([0, *(last + 1 for last in lasts[:-1])], lasts, strict=True))


def turn_figures(credit: Floats, turns: Turns, drawn: Floats) -> Json:
    """How a method's credit of N turns agrees with their true advantages, within boards.

    Both are centred on the mean of their board. With x the credit, y the measured advantage and s the variance of its
    error, the noise is taken out without bias:

    - `correlation`: sum xy / sqrt(sum x^2 (sum y^2 - sum s)).
    - `slope`: sum xy / (sum y^2 - sum s): the credit that a method gives for a unit of true advantage.
    - `luck`: the correlation of the credit with the luck after the turn, noise not taken out.
    - `sign`: the fraction of sure turns, |y| > 2 sqrt(s), not centred, whose credit has the same sign.

    drawn: from `resampled_boards`.
    """
    _, place = np.unique(turns.board, return_inverse=True)
    count = np.bincount(place).astype(np.float64)

    def total(values: Floats) -> Floats:
        """(resamples + 1,): the sum over the turns of the drawn boards."""
        summed: Floats = drawn @ np.bincount(place, weights=values, minlength=len(count))
        return summed

    def centred(values: Floats) -> Floats:
        result: Floats = values - (np.bincount(place, weights=values) / count)[place]
        return result

    x, y, luck = centred(credit), centred(turns.advantage), centred(turns.luck)
    noise = turns.noise * (1 - 1 / count)[place]
    xy, xx, yy = total(x * y), total(x**2), total(y**2) - total(noise)
    sure = np.abs(turns.advantage) > SURE * np.sqrt(turns.noise)
    agree = sure & (np.sign(credit) == np.sign(turns.advantage))
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "correlation": estimate(xy / np.sqrt(xx * yy)),
            "slope": estimate(xy / yy),
            "luck": estimate(total(x * luck) / np.sqrt(xx * total(luck**2))),
            "sign": estimate(total(agree.astype(float)) / total(sure.astype(float))),
            "sure_turns": int(sure.sum()),
        }


def segment_cosine(sums: Sequence[Floats], changes: Sequence[Changes], boards: Sequence[int], drawn: Floats) -> Any:
    """The cosine of the credit of segments (tokens' sum) and their true changes, the changes' noise taken out.

    Not centred: it also tells weightings apart, which move credit within a reply only. Luck has no tokens.
    """
    number = {board: place for place, board in enumerate(dict.fromkeys(boards))}
    parts = np.zeros((len(number), 3))
    for of_episode, along, board in zip(sums, changes, boards, strict=True):
        own = np.array([kind is not Kind.LUCK for kind in along.kinds])
        noise = (along.noise[1:] + along.noise[:-1])[own]
        x, y = of_episode[own], along.values[own]
        parts[number[board]] += (x @ y, x @ x, y @ y - noise.sum())
    xy, xx, yy = (drawn @ column for column in parts.T)
    with np.errstate(invalid="ignore", divide="ignore"):
        return estimate(xy / np.sqrt(xx * yy))


@dataclass(frozen=True)
class Alignment:
    """Of each resample (R,): <E g, G> / (|G| sqrt(E |g|^2)), g being the mean gradient of a batch of boards."""

    values: Floats

    @property
    def efficiency(self) -> Floats:
        """Its square, with its sign: the gain of a step of given length, relative to one along G, squared."""
        squared: Floats = np.sign(self.values) * self.values**2
        return squared


def alignment(products: Products, reference: Floats, batch: int, drawn: Floats) -> Alignment:
    """The alignment of a method's gradient for batches of `batch` boards with the reference, without bias.

    Products of different boards only: those of a board share episodes, and so their noise.

        <E g, G> = mean of <g_p, G_q>, p != q        |G|^2 = mean of <G_p, G_q>, p != q
        E |g|^2  = (1 - 1 / batch) mean of <g_p, g_q>, p != q  +  mean of |g_p|^2 / batch

    reference (P, P): <G_p, G_q>. NaN where an estimated squared length is not above 0.
    """

    pairs = drawn.sum(axis=1) ** 2 - (drawn**2).sum(axis=1)  # 0 where one board alone was drawn

    def between(gram: Floats) -> Floats:
        sums = ((drawn @ gram) * drawn).sum(axis=1) - drawn**2 @ np.diag(gram)
        return np.divide(sums, pairs, out=np.full_like(sums, np.nan), where=pairs > 0)

    within = drawn @ np.diag(products.own) / drawn.sum(axis=1)
    length = (1 - 1 / batch) * between(products.own) + within / batch
    with np.errstate(invalid="ignore", divide="ignore"):
        # Two roots: an estimated squared length may be negative, and the product of two such would look like a length.
        return Alignment(between(products.with_reference) / (np.sqrt(between(reference)) * np.sqrt(length)))


def agreement(products: Products, reference: Floats, drawn: Floats) -> Json | None:
    """The cosine of two expected gradients: the alignment of infinitely large batches."""
    return estimate(alignment(products, reference, 2**62, drawn).values)


def compared(found: Mapping[str, Alignment], base: str) -> dict[str, Json]:
    """Per method: `alignment`, `efficiency`, `gain` (its alignment minus the base's), and `worth`.

    worth: its efficiency over the base's, the steps of the base that a step is worth while noise dominates. None where
    the base's alignment is not above 0 in 97.5 % of the resamples: a ratio to what may be nothing says nothing.
    """
    of_base = found[base].values
    known = np.isfinite(of_base)
    clear = bool(known.all()) and float(np.quantile(of_base[1:], 0.025)) > 0
    rows = {}
    for name, each in found.items():
        with np.errstate(invalid="ignore", divide="ignore"):
            worth = estimate(each.efficiency / found[base].efficiency) if clear else None
        rows[name] = {
            "alignment": estimate(each.values),
            "efficiency": estimate(each.efficiency),
            "gain": estimate(each.values - of_base),
            "worth": worth,
        }
    return rows
