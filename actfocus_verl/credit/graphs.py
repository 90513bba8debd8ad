"""GraphGPO (arXiv 2605.26684): turns judged by how near the state they led to is to success; GAGPO's values of states.

The turns of a prompt's episodes are the edges of one graph, from the state a turn saw to the state it led to. B
episodes of up to K turns; float64 over the whole batch.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor
from torch.nn.functional import pad

from actfocus_verl.checks import require_choice, require_number
from actfocus_verl.columns import ANCHORS, GROUP_IDS, NEXT_ANCHORS, SOLVED, TURN_IDS, TURN_REWARDS
from actfocus_verl.credit.episodes import Episodes
from actfocus_verl.credit.estimation import Step, register_estimator
from actfocus_verl.credit.gigpo import STATISTICS, episode_advantages
from actfocus_verl.credit.groups import deviations, numbered, within_states
from actfocus_verl.credit.registry import Params

SCALE: Final = 10.0
"""What a turn into success is worth in the authors' code."""
DISTANCES: Final = "distances"
GROUPED: Final = "grouped"
STATE_VALUES: Final = (DISTANCES, GROUPED)
"""What a state is worth: its distance to success (GraphGPO), or the mean return of the turns that saw it (GAGPO)."""


def graph_step_advantages(
    episodes: Episodes, anchors: Tensor, next_anchors: Tensor, group_ids: Tensor, *, gamma: float, by_std: bool
) -> tuple[Tensor, float, float]:
    """Worth of turns, 10 * gamma^d of the state each led to, less the mean of the turns that saw the same state.

    d is the fewest turns from a state to success that the prompt's episodes know of: 0 for success, and one more than
    the prompt's largest where they know none.

    Args:
        anchors: (B, K), integer: the state each turn saw; read at the turns that were played.
        next_anchors: (B, K), integer: the state each turn led to, SOLVED for success; likewise.
        group_ids: (B,), integer: the prompt group of each row. Graphs of two groups share nothing.
        gamma: discount of a turn of distance.
        by_std: divide by the standard deviation (unbiased) of a state's turns as well.

    Returns:
        (B, T), float32: 0 outside the sampled tokens and for a state met once; the share of turns whose state was met
        more than once; and that of turns that led to a state from which a way to success is known.
    """
    played, width = episodes.played, episodes.played.shape[1]
    if not played.any():
        return episodes.turns.to_tokens(torch.zeros_like(episodes.rewards)), 0.0, 0.0
    prompts = group_ids[:, None].expand(played.shape)
    seen = torch.stack([prompts, pad(anchors, (0, width - anchors.shape[1]))], dim=2)
    reached = torch.stack([prompts, pad(next_anchors, (0, width - next_anchors.shape[1]))], dim=2)
    start, distances, known = _distances(seen[played], reached[played])
    states, worth = torch.zeros_like(played, dtype=torch.int64), torch.zeros_like(episodes.rewards)
    states[played], worth[played] = start, SCALE * torch.full_like(distances, gamma) ** distances
    advantages, shared = within_states(states, played, worth, by_std=by_std)
    share = float(shared[played].double().mean())
    return episodes.turns.to_tokens(advantages), share, float(known.double().mean())


def _distances(seen: Tensor, reached: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(N,) each: a number of the state where each of N edges starts; d where it ends, float64; whether that is known.

    seen, reached: (N, 2), integer: prompt and state at the two ends of each edge.
    """
    nodes, ends = torch.unique(torch.cat([seen, reached]), dim=0, return_inverse=True)
    start, end = ends.chunk(2)
    distances = torch.where(nodes[:, 1] == SOLVED, 0.0, torch.inf).double()
    while True:  # as often as the longest way has turns
        nearer = distances.scatter_reduce(0, start, distances[end] + 1, "amin")
        if torch.equal(nearer, distances):
            break
        distances = nearer
    known = distances.isfinite()
    prompt = torch.unique(nodes[:, 0], return_inverse=True)[1]
    farthest = distances.new_zeros(int(prompt.max()) + 1)
    farthest.scatter_reduce_(0, prompt, torch.where(known, distances, 0.0), "amax")
    return start, torch.where(known, distances, farthest[prompt] + 1)[end], known[end]


def grouped_step_advantages(
    episodes: Episodes, anchors: Tensor, group_ids: Tensor, *, gamma: float, lam: float, by_std: bool
) -> tuple[Tensor, float]:
    """GAGPO's advantages (arXiv 2605.13217): GAE over turns with the mean return of a state's turns for its value.

    Less their mean over the turns of the prompt. With lam 1 these are GiGPO's of a step. A turn without tokens is none;
    its reward goes to the turn before.

    Args:
        anchors: (B, K), integer: the state each turn saw; read at turns with tokens.
        group_ids: (B,), integer: the prompt group of each row.
        gamma, lam: GAE's, of a turn.
        by_std: divide by the standard deviation (unbiased) of the prompt's turns as well.

    Returns:
        (B, T), float32: 0 outside the sampled tokens; and the share of turns whose state was met more than once.
    """
    present = episodes.turns.present
    if not present.any():
        return episodes.turns.to_tokens(torch.zeros_like(episodes.rewards)), 0.0
    prompts = group_ids[:, None].expand(present.shape)
    seen = torch.stack([prompts, pad(anchors, (0, present.shape[1] - anchors.shape[1]))], dim=2)
    rewards = episodes.rewards_with_tokens()
    returns = episodes.gae(rewards, torch.zeros_like(rewards), gamma, 1.0)
    above, shared = within_states(numbered(seen, present), present, returns, by_std=False)
    advantages = episodes.gae(rewards, torch.where(present, returns - above, 0.0), gamma, lam)
    centred, _ = within_states(numbered(prompts[:, :, None], present), present, advantages, by_std=False)
    if by_std:
        centred[present] /= deviations(advantages[present], prompts[present], torch.ones_like(prompts[present]) > 0)
    return episodes.turns.to_tokens(centred), float(shared[present].double().mean())


def _check_graphgpo(*, step_weight: object, episode_weight: object, values: object, episode_statistics: object) -> None:
    require_number("step_weight", step_weight, low=0.0)
    require_number("episode_weight", episode_weight, low=0.0)
    require_choice("values", values, choices=STATE_VALUES)
    require_choice("episode_statistics", episode_statistics, choices=STATISTICS)


def _columns(params: Params) -> tuple[str, ...]:
    columns = TURN_IDS, TURN_REWARDS, ANCHORS, GROUP_IDS
    return columns if params["values"] == GROUPED else (*columns, NEXT_ANCHORS)


@register_estimator(
    "graphgpo", required_columns=_columns, check=_check_graphgpo, granularity="turn", family="Monte Carlo"
)
def graphgpo(
    step: Step,
    *,
    step_weight: float = 1.0,
    episode_weight: float = 1.0,
    values: str = DISTANCES,
    episode_statistics: str = "episodes",
) -> Tensor:
    """verl's GRPO plus ``step_weight`` times how much nearer to success than its siblings a turn led.

    With ``values="grouped"``, the second is GAGPO's; ``episode_weight=0`` leaves it alone.
    """
    episode = episode_weight * episode_advantages(step, episode_statistics)
    columns, gamma, by_std = step.columns, step.gamma, step.by_std
    if values == GROUPED:
        of_states, share = grouped_step_advantages(
            step.episodes, columns[ANCHORS], step.group_ids, gamma=gamma, lam=step.lam, by_std=by_std
        )
    else:
        of_states, share, known = graph_step_advantages(
            step.episodes, columns[ANCHORS], columns[NEXT_ANCHORS], step.group_ids, gamma=gamma, by_std=by_std
        )
        step.metrics["estimator/turns_to_success"] = known
    step.metrics["estimator/compared_turns"] = share
    return episode + step_weight * of_states * step.response_mask
