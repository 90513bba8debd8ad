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
from actfocus_verl.reporting.statistics import spearman


@dataclass(frozen=True)
class Group:
    """One prompt group. energy: its mean over each of `GROUP_PARTS` in nats, None without such a token."""

    step: int
    name: str
    return_std: float
    energy: dict[str, float | None]


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
                groups.append(Group(sample.step, name, float(found.return_std[number]), energy))
    return groups, cut


def correlations(groups: Sequence[Group]) -> dict[str, Any]:
    """Per part of `GROUP_PARTS`: rho, p, low, high and groups, over all steps (`pooled`) and `by_step`.

    The values are None where undefined: fewer than `LEAST_GROUPS` groups, or one side constant.
    """
    steps = sorted({group.step for group in groups})
    return {
        "pooled": _parts(groups),
        "by_step": {str(step): _parts([group for group in groups if group.step == step]) for step in steps},
    }


def _parts(groups: Sequence[Group]) -> dict[str, Any]:
    return {part: _correlation(groups, part) for part in GROUP_PARTS}


def _correlation(groups: Sequence[Group], part: str) -> dict[str, float | None]:
    pairs = [(group.energy[part], group.return_std) for group in groups if group.energy[part] is not None]
    if len(pairs) < LEAST_GROUPS:
        return {"rho": None, "p": None, "low": None, "high": None, "groups": len(pairs)}
    energy, spread = np.array(pairs, dtype=np.float64).T
    found = spearman(energy, spread)
    figures = {"rho": found.rho, "p": found.p, "low": found.low, "high": found.high}
    return {name: _known(value) for name, value in figures.items()} | {"groups": found.n}


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None
