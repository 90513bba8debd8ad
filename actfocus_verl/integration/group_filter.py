"""The group filter on verl's rows: which rows of a step stay, and metrics of that."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from actfocus_verl.credit.filters import GroupFilter, Selection
from actfocus_verl.integration.columns import conversation_rows, group_and_session


def apply_filter(
    keys: Sequence[str], returns: Sequence[float], group_filter: GroupFilter
) -> tuple[list[int], Selection]:
    """Return the positions of the kept rows and what was dropped.

    Args:
        keys: verl's row keys; rows of one uid are a group, and rows of one session in it a conversation.
        returns: one per row; a conversation counts once, with its last output's return.
    """
    by_group: dict[str, list[float]] = defaultdict(list)
    for position in conversation_rows(keys):
        by_group[group_and_session(keys[position])[0]].append(float(returns[position]))
    selection = group_filter(by_group)
    positions = [position for position, key in enumerate(keys) if group_and_session(key)[0] in selection.factors]
    return positions, selection


def row_factors(keys: Sequence[str], factors: Mapping[str, float]) -> torch.Tensor:
    """Return the factor of each row's group, float32 (B, 1); 1 for verl's padding rows, whose weights are 0."""
    return torch.tensor([[factors.get(group_and_session(key)[0], 1.0)] for key in keys], dtype=torch.float32)


def filter_metrics(selection: Selection) -> dict[str, float]:
    """How many groups stay and go, the factor of those that stay, and the deviations of all."""
    deviations, factors = list(selection.deviations.values()), list(selection.factors.values())
    return {
        "filter/kept_groups": float(len(factors)),
        "filter/dropped_groups": float(len(deviations) - len(factors)),
        "filter/nothing_left": float(selection.nothing_left),
        "filter/factor/mean": float(np.mean(factors)),
        "filter/group_std/mean": float(np.mean(deviations)),
        "filter/group_std/max": float(np.max(deviations)),
        "filter/zero_std_groups": float(deviations.count(0.0)),
    }
