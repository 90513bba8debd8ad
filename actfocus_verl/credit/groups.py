"""Statistics of groups: the turns that saw one state, the episodes of one prompt. Float64, over the whole batch."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

STD_EPS: Final = 1e-6
"""Added to a group's standard deviation, as verl's GRPO and GiGPO's authors do."""


def numbered(keys: Tensor, selected: Tensor) -> Tensor:
    """(B, K), int64: numbers from 0, equal for equal keys (B, K, ...) of selected turns; 0 elsewhere."""
    numbers = torch.zeros(selected.shape, dtype=torch.int64, device=keys.device)
    numbers[selected] = torch.unique(keys[selected], dim=0, return_inverse=True)[1]
    return numbers


def within_states(states: Tensor, selected: Tensor, returns: Tensor, *, by_std: bool) -> tuple[Tensor, Tensor]:
    """(B, K), float64: returns of selected turns less their state's mean, 0 for one alone; and which have peers."""
    state, values = states[selected], returns[selected]
    counts = sums_by(state, torch.ones_like(values))
    centred = values - (sums_by(state, values) / counts)[state]
    if by_std:
        variance = sums_by(state, centred**2) / (counts - 1).clamp(min=1)
        centred = centred / (variance.sqrt() + STD_EPS)[state]
    advantages, shared = torch.zeros_like(returns), torch.zeros_like(selected)
    shared[selected] = counts[state] > 1
    advantages[selected] = torch.where(counts[state] > 1, centred, 0.0)
    return advantages, shared


def sums_by(index: Tensor, values: Tensor) -> Tensor:
    """(G,): sums of the (N,) values of equal index, (N,) integers from 0; N > 0, G the largest index plus 1."""
    return torch.zeros(int(index.max()) + 1, dtype=values.dtype, device=values.device).index_add_(0, index, values)


def over_turns(returns: Tensor, turns: Tensor, group_ids: Tensor, *, by_std: bool) -> Tensor:
    """(B,), float32: returns less the mean of the prompt, in which an episode counts once for each of its turns.

    Args:
        returns: (B,): read at rows with turns.
        turns: (B,), integer: turns of each episode, 0 for a padding row.
        group_ids: (B,), integer: the prompt group of each row.
        by_std: divide by the standard deviation (unbiased, likewise over turns) plus 1e-6.
    """
    prompts = torch.unique(group_ids, return_inverse=True)[1]
    weights, values = turns.double(), torch.where(turns > 0, returns.double(), 0.0)
    counts = sums_by(prompts, weights)
    means = torch.where(counts > 1, sums_by(prompts, weights * values) / counts.clamp(min=1), 0.0)
    centred = values - means[prompts]
    if by_std:
        variance = sums_by(prompts, weights * centred**2) / (counts - 1).clamp(min=1)
        centred = centred / torch.where(counts > 1, variance.sqrt() + STD_EPS, 1.0)[prompts]
    return torch.where(turns > 0, centred, 0.0).float()


def deviations(returns: Tensor, group_ids: Tensor, valid_rows: Tensor) -> Tensor:
    """(B,), float64: standard deviation (unbiased) of the returns of each row's prompt, plus 1e-6; 1 without any.

    Episodes of equal returns may still differ in when they earned them. Dividing that by 1e-6 would let such a prompt
    outweigh all others, so a deviation up to 1e-6, which float32 returns have by rounding, counts as none.

    Args:
        returns: (B,), float64: read at valid rows.
    """
    prompts = torch.unique(group_ids, return_inverse=True)[1]
    counts = sums_by(prompts, valid_rows.double())
    returns = torch.where(valid_rows, returns, 0.0)
    centred = torch.where(valid_rows, returns - (sums_by(prompts, returns) / counts.clamp(min=1))[prompts], 0.0)
    variance = sums_by(prompts, centred**2) / (counts - 1).clamp(min=1)
    spread = variance.sqrt()
    return torch.where(spread > STD_EPS, spread + STD_EPS, 1.0)[prompts]
