"""The metrics of an evaluation, from its episodes. Pure; an unknown value is None."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actfocus_verl.evaluation.episodes import EpisodeRecord
from actfocus_verl.reporting.statistics import (
    Interval,
    cluster_interval,
    cluster_rate_interval,
    mean_interval,
    wilson_interval,
)

Figure = dict[str, Any]
Amount = Callable[[EpisodeRecord], float]

WILSON, STUDENT, BOOTSTRAP = "Wilson", "Student's t", "bootstrap over boards"
WILSON_BOARDS = "Wilson, one trial a board"


def summarise(records: Sequence[EpisodeRecord]) -> dict[str, Any]:
    """Summarise at least one episode; the order of the episodes does not matter. All intervals are 95 %."""
    records = sorted(records, key=lambda record: record.key)
    whole = _results(records)
    strata = sorted({record.stratum for record in records})
    return {
        **whole,
        "valid_turns": _rate_of_turns(records, lambda record: record.valid_turns),
        "parsed_turns": _rate_of_turns(records, lambda record: record.parsed_turns),
        "turns": _mean(record.turns for record in records),
        "actions": _mean(record.actions for record in records),
        "tokens": {name: _mean(record.tokens[name] for record in records) for name in records[0].tokens},
        "outcome": {name: _mean_known(record.outcome.get(name) for record in records) for name in _outcomes(records)},
        "stop_reasons": dict(sorted(Counter(record.stop_reason for record in records).items())),
        "strata": {
            str(stratum): _results([record for record in records if record.stratum == stratum]) for stratum in strata
        },
    }


def _results(records: Sequence[EpisodeRecord]) -> Figure:
    known = [record for record in records if record.optimal_return is not None]
    return {
        "episodes": len(records),
        "boards": len({record.board for record in records}),
        "success": _success(records),
        "return": _amount(records, lambda record: record.episode_return),
        "regret": {**_amount(known, _regret), "left_out": len(records) - len(known)},
    }


def _regret(record: EpisodeRecord) -> float:
    return math.nan if record.optimal_return is None else record.optimal_return - record.episode_return


def _success(records: Sequence[EpisodeRecord]) -> Figure:
    successes, boards = sum(record.success for record in records), {record.board for record in records}
    if len(boards) == len(records):
        return _figure("rate", successes / len(records), wilson_interval(successes, len(records)), WILSON)
    return _rate(records, lambda record: record.success, lambda _: 1)


def _amount(records: Sequence[EpisodeRecord], amount: Amount) -> Figure:
    """A mean over episodes."""
    if not records:
        return {"mean": None, "low": None, "high": None, "interval": None}
    values = [amount(record) for record in records]
    if len({record.board for record in records}) == len(records):
        return _figure("mean", float(np.mean(values)), mean_interval(values), STUDENT)
    interval = cluster_interval(_by_board(records, amount), _by_board(records, lambda _: 1))
    return _figure("mean", float(np.mean(values)), interval, BOOTSTRAP)


def _rate_of_turns(records: Sequence[EpisodeRecord], amount: Amount) -> Figure:
    """A share of all turns: those of one board depend on each other."""
    return _rate(records, amount, lambda record: record.turns)


def _rate(records: Sequence[EpisodeRecord], successes: Amount, trials: Amount) -> Figure:
    """A rate over trials, with several per board."""
    hits, tries = _by_board(records, successes), _by_board(records, trials)
    method = WILSON_BOARDS if hits.sum() in (0.0, tries.sum()) else BOOTSTRAP
    return _figure("rate", float(hits.sum() / tries.sum()), cluster_rate_interval(hits, tries), method)


def _by_board(records: Sequence[EpisodeRecord], amount: Amount) -> NDArray[np.float64]:
    """Sums of an amount over the episodes of each board, (boards,), in the order of boards."""
    boards = np.unique([record.board for record in records], return_inverse=True)[1]
    return np.bincount(boards, weights=[amount(record) for record in records]).astype(np.float64)


def _figure(name: str, value: float, interval: Interval, method: str) -> Figure:
    ends = [float(end) if math.isfinite(end) else None for end in interval]
    return {name: value, "low": ends[0], "high": ends[1], "interval": method}


def _outcomes(records: Sequence[EpisodeRecord]) -> list[str]:
    return sorted({name for record in records for name in record.outcome})


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


def _mean_known(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return _mean(known) if known else None
