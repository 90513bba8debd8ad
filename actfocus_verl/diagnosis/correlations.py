"""Mean energy of a prompt group against the spread of its returns, over groups (the paper's Sec. 4)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from actfocus_verl.credit.diagnostics import GROUP_PARTS, LEAST_GROUPS, prompt_groups
from actfocus_verl.credit.signals import ENERGY
from actfocus_verl.diagnosis.samples import StepSample
from actfocus_verl.reporting.statistics import spearman, spearman_within


@dataclass(frozen=True)
class Group:
    """One prompt group. energy: its mean over each of `GROUP_PARTS` in nats, None without such a token.

    stratum: the difficulty of its board, None where it was not kept.
    """

    step: int
    name: str
    return_std: float
    energy: dict[str, float | None]
    stratum: int | None = None


def whole_groups(samples: Sequence[StepSample], size: int) -> tuple[list[Group], int]:
    """The groups with all their `size` episodes, and the number of those without, whose spread would be biased.

    A group of one episode has no spread and counts as neither. Every sample needs the energy.
    """
    groups, cut = [], 0
    for sample in samples:
        found = prompt_groups(
            sample.columns[ENERGY],
            sample.columns,
            sample.returns,
            sample.group_ids,
            conversation_ids=sample.conversation_ids,
        )
        names = sorted(set(sample.groups))
        for number, name in enumerate(names):
            if int(found.sizes[number]) < size:
                cut += 1
            elif size > 1:
                energy = {part: _known(float(means[number])) for part, means in found.means.items()}
                stratum = None if sample.strata is None else sample.strata[sample.groups.index(name)]
                groups.append(Group(sample.step, name, float(found.return_std[number]), energy, stratum))
    return groups, cut


def correlations(groups: Sequence[Group]) -> dict[str, Any]:
    """Per part of `GROUP_PARTS`: rho, p, low, high and groups, over all steps (`pooled`) and `by_step`.

    `equal_difficulty`: the same among the boards of one stratum (`spearman_within`), None where only one stratum was
    kept, or none. The paper does not have it: without it, boards that are easy to solve from the start on, whose
    returns differ more and whose states are others, would do for a correlation.

    The values are None where undefined: fewer than `LEAST_GROUPS` groups, or one side constant.
    """
    steps = sorted({group.step for group in groups})
    strata = {group.stratum for group in groups}
    return {
        "pooled": _parts(groups),
        "equal_difficulty": _parts(groups, within_strata=True) if None not in strata and len(strata) > 1 else None,
        "by_step": {str(step): _parts([group for group in groups if group.step == step]) for step in steps},
    }


def _parts(groups: Sequence[Group], *, within_strata: bool = False) -> dict[str, Any]:
    return {part: _correlation(groups, part, within_strata) for part in GROUP_PARTS}


def _correlation(groups: Sequence[Group], part: str, within_strata: bool) -> dict[str, float | None]:
    known = [group for group in groups if group.energy[part] is not None]
    if len(known) < LEAST_GROUPS:
        return {"rho": None, "p": None, "low": None, "high": None, "groups": len(known)}
    energy = np.array([group.energy[part] for group in known], dtype=np.float64)
    spread = np.array([group.return_std for group in known])
    if within_strata:
        found = spearman_within(energy, spread, np.array([group.stratum for group in known], dtype=np.float64))
    else:
        found = spearman(energy, spread)
    figures = {"rho": found.rho, "p": found.p, "low": found.low, "high": found.high}
    return {name: _known(value) for name, value in figures.items()} | {"groups": found.n}


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None
