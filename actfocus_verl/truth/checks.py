"""Which figures of a decomposition are checks rather than results, and what has to be said of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from actfocus_verl.truth.decomposition import KINDS, SUM

FEW_BOARDS: Final = 10
"""Below about so many, the percentiles of a bootstrap over boards are too narrow an interval."""

Json = dict[str, Any]


class Check(NamedTuple):
    """expected: the number that the interval should hold; None for a second estimate of a share, compared by eye."""

    name: str
    figure: Json
    expected: int | None
    beside: str = ""
    """What is printed as expected, where that is no number known beforehand."""


def checks(found: Mapping[str, Any]) -> list[Check]:
    """The checks of a decomposition; a kind without segments has no drift."""
    rows = [Check("sum of the shares", found["shares"][SUM], 1)]
    rows.append(Check("null: each boundary against itself", found["null"], 0))
    drift = found["drift"]
    rows += [Check(f"drift of {kind.value}", drift[kind.value], 0) for kind in KINDS if drift[kind.value] is not None]
    for kind in KINDS:
        share = found["shares"][kind.value]["estimate"]
        rows.append(
            Check(f"{kind.value} by covariance", found["covariance"][kind.value], None, f"{share:.3f}, its share")
        )
    return rows


def remarks(found: Mapping[str, Any]) -> list[str]:
    """What a reader must know of the intervals."""
    said = []
    if found["boards"] < FEW_BOARDS:
        said.append(f"intervals are too narrow under about ten boards, and these are over {found['boards']}")
    tested = [check for check in checks(found) if check.expected is not None]
    missed = [check for check in tested if not _holds(check)]
    if missed:
        names = ", ".join(f"{check.name} excludes {check.expected}" for check in missed)
        chance = f"of {len(tested)} such intervals some miss by chance"
        said.append(f"{names}. The world's replay may be wrong, but {chance}: another seed= tells the two apart")
    return said


def _holds(check: Check) -> bool:
    low, high = check.figure["low"], check.figure["high"]
    return low is None or low <= check.expected <= high
