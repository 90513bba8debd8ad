"""GRPO over turns: each turn's return to come against a baseline that does not depend on where an episode stops.

A mean per turn number, taken over the episodes that got that far, is subtracted as often as the policy goes on: the
baseline depends on the action and biases the gradient wherever the policy can end the episode (verl RFC #7244). Here
episodes that have ended count 0. B episodes of up to K turns; float64 statistics over the whole batch.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from actfocus_verl.checks import require_choice, require_number
from actfocus_verl.columns import GROUP_IDS, TURN_IDS, TURN_REWARDS
from actfocus_verl.credit.episodes import Episodes, discounted_sums
from actfocus_verl.credit.estimation import Step, register_estimator
from actfocus_verl.credit.groups import deviations, sums_by

BASELINES: Final = ("group", "leave_one_out")
"""The mean over all episodes of the prompt, or over the others."""


def less_to_come(
    to_come: Tensor, played: Tensor, group_ids: Tensor, valid_rows: Tensor, *, leave_one_out: bool = False
) -> Tensor:
    """Sums to come minus their mean over the episodes of the prompt, of which those that have ended count 0.

    Args:
        to_come: (B, K), float64: of each turn; read at turns that were played.
        played: (B, K), bool.
        group_ids: (B,), integer: the prompt group of each row.
        valid_rows: (B,), bool: the episodes that count.
        leave_one_out: take the mean over the other episodes, n / (n - 1) times the difference from the mean over all.

    Returns:
        (B, K), float64: 0 where nothing was played. An episode alone has the baseline 0, as in verl's GRPO.
    """
    if not played.any():
        return torch.zeros_like(to_come)
    to_come = torch.where(played, to_come, 0.0)
    prompts = torch.unique(group_ids, return_inverse=True)[1]
    counts = sums_by(prompts, valid_rows.double())
    sums = to_come.new_zeros(len(counts), to_come.shape[1]).index_add_(0, prompts, to_come)
    means = torch.where(counts[:, None] > 1, sums / counts.clamp(min=1)[:, None], 0.0)
    centred = to_come - means[prompts]
    if leave_one_out:
        centred = centred * (counts / (counts - 1).clamp(min=1))[prompts, None]
    return torch.where(played, centred, 0.0)


def turn_grpo_advantages(
    episodes: Episodes,
    rewards: Tensor,
    group_ids: Tensor,
    valid_rows: Tensor,
    *,
    gamma: float,
    by_std: bool,
    leave_one_out: bool,
) -> Tensor:
    """A(i,k) = G(i,k) - b(k), G(i,k) = sum_{l >= k} gamma^(l-k) r(i,l), b of `less_to_come`.

    Args:
        rewards: (B, K), float64: r.
        group_ids, valid_rows: as in `less_to_come`.
        gamma: discount of a turn.
        by_std: divide by the standard deviation of G at the first turn, one factor for all turns of a prompt.

    Returns:
        (B, T), float32: 0 outside the sampled tokens.
    """
    to_come = discounted_sums(rewards, torch.full_like(rewards, gamma))
    advantages = less_to_come(to_come, episodes.played, group_ids, valid_rows, leave_one_out=leave_one_out)
    if by_std and to_come.numel():
        advantages = advantages / deviations(to_come[:, 0], group_ids, valid_rows)[:, None]
    return episodes.turns.to_tokens(advantages)


def redistributed(episodes: Episodes, *, gamma: float) -> Tensor:
    """prime-rl's turn credit (pull request #3282): what each turn earned, shared with the turns that led to it.

    c(i,k) = sum_{l >= k} gamma^(l-k) r(i,l) / (1 + gamma + ... + gamma^l), l counted from 0, minus its mean over the
    tokens of the episode, so that the tokens of an episode sum to 0.

    Args:
        gamma: how much of a reward goes a turn further back.

    Returns:
        (B, K), float64: 0 for a turn without tokens.
    """
    powers = torch.full_like(episodes.rewards[:1], gamma) ** torch.arange(episodes.rewards.shape[1])
    credit = discounted_sums(episodes.rewards / powers.cumsum(dim=1), torch.full_like(episodes.rewards, gamma))
    tokens = episodes.turns.lengths
    mean = (credit * tokens).sum(dim=1, keepdim=True) / tokens.sum(dim=1, keepdim=True).clamp(min=1)
    return torch.where(episodes.turns.present, credit - mean, 0.0)


def _check_turn_grpo(*, baseline: object, redistribute: object) -> None:
    require_choice("baseline", baseline, choices=BASELINES)
    if redistribute is not None:
        require_number("redistribute", redistribute, low=0.0)


@register_estimator(
    "turn_grpo",
    required_columns=(TURN_IDS, TURN_REWARDS, GROUP_IDS),
    check=_check_turn_grpo,
    granularity="turn",
    family="Monte Carlo",
)
def turn_grpo(step: Step, *, baseline: str = "group", redistribute: float | None = None) -> Tensor:
    """Each turn's return to come; or verl's GRPO plus ``redistribute`` times what `redistributed` moves."""
    episodes, leave_one_out = step.episodes, baseline == "leave_one_out"
    if redistribute is not None:
        advantages = step.grpo(step.rewards, step.response_mask)
        if leave_one_out:
            counts = sums_by(step.group_ids, step.valid_rows.double())
            advantages = advantages * (counts / (counts - 1).clamp(min=1)).float()[step.group_ids, None]
        moved = episodes.turns.to_tokens(redistribute * redistributed(episodes, gamma=step.gamma))
        return advantages + moved * step.response_mask
    rewards = episodes.rewards
    if not torch.equal(step.rewards, step.scores):  # a KL penalty of a token is part of its turn's reward
        rewards = rewards + episodes.turns.mean(step.rewards - step.scores) * episodes.turns.lengths
    advantages = turn_grpo_advantages(
        episodes,
        rewards,
        step.group_ids,
        step.valid_rows,
        gamma=step.gamma,
        by_std=step.by_std,
        leave_one_out=leave_one_out,
    )
    advantages *= step.response_mask
    return advantages
