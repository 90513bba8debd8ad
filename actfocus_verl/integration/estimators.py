"""Our advantage estimators in verl's registry, and the columns they need.

verl hands a registered estimator the token rewards, the response mask, the prompt ids and the configuration, and
fetches no other column for it: neither ours nor the critic's values. So the trainer fetches them (`step_inputs`) and
keeps them while verl's `_compute_advantage` runs, which calls the estimator. KL in the reward, rollout correction and
what is written back stay verl's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
import transfer_queue as tq
from tensordict import TensorDict
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.core_algos import AdvantageEstimator, compute_grpo_outcome_advantage, register_adv_est
from verl.workers.utils.padding import response_to_nested

from actfocus_verl.columns import ANCHORS, ANSWER_SCORES, CLIP_SCALES, REPLAYED, STATES, TURN_IDS, TURN_REWARDS
from actfocus_verl.credit import estimators as formulas
from actfocus_verl.credit import information_gain
from actfocus_verl.credit.estimators import ESTIMATORS, Episodes, EstimatorSpec
from actfocus_verl.credit.information_gain import Gains
from actfocus_verl.credit.trees import tree_advantages
from actfocus_verl.errors import ConfigurationError
from actfocus_verl.integration.columns import (
    conversation_rows,
    group_ids,
    padded_columns,
    padded_turns,
    require_columns,
    valid_rows_of,
)

_ESTIMATOR = "algorithm.adv_estimator"
_BY_CONVERSATION = ("grpo", "gae")
_OF_TURNS = (TURN_REWARDS, ANCHORS, ANSWER_SCORES, STATES, REPLAYED)
_KNOWN_SUM = 1e-3
"""How far turn rewards may sum from the score, for float32 and long episodes."""


@dataclass
class StepInputs:
    """One step's columns beyond those verl passes on, in the order of its rows."""

    spec: EstimatorSpec
    episodes: Episodes
    scores: torch.Tensor
    """(B, T): verl's rewards without a KL penalty."""
    columns: dict[str, torch.Tensor]
    group_ids: torch.Tensor
    nested_mask: torch.Tensor
    """The response mask, jagged."""
    metrics: dict[str, float] = field(default_factory=dict)
    written: dict[str, torch.Tensor] = field(default_factory=dict)
    """(B, T) each: columns of the estimator's for the loss, beside the advantages."""
    update_set: torch.Tensor | None = None
    """(B, T), bool: the tokens that train, set by an estimator that drops others."""


_STEP: ContextVar[StepInputs | None] = ContextVar("actfocus_verl_step_inputs", default=None)


def require_single_outputs(name: str, keys: Sequence[str]) -> None:
    """Raise ConfigurationError when conversations have several rows and the estimator `name` takes each for an episode.

    verl's GRPO compares conversations, and its GAE compares nothing. An estimator that is neither verl's nor ours knows
    for itself.
    """
    if len(conversation_rows(keys)) == len(keys) or name in _BY_CONVERSATION:
        return
    if name in ESTIMATORS or name in {each.value for each in AdvantageEstimator}:
        raise ConfigurationError(
            _ESTIMATOR,
            name,
            "takes each output of the agent loop for an episode of its own, and this loop gives several a conversation",
            "Use algorithm=grpo or algorithm=ppo, or a loop that gives one output",
        )


@contextmanager
def step_inputs(spec: EstimatorSpec | None, batch: KVBatchMeta, metrics: dict[str, Any]) -> Iterator[StepInputs | None]:
    """Fetch what the estimator needs of a batch, keep it for its call, and store the columns that it adds.

    None for an estimator of verl's.

    Raises ConfigurationError when the agent loop gives no such columns, ValueError when they contradict each other.
    """
    if spec is None:
        yield None
        return
    inputs = _fetch(spec, batch)
    token = _STEP.set(inputs)
    try:
        yield inputs
    finally:
        _STEP.reset(token)
    metrics.update(inputs.metrics)
    if inputs.written:
        nested = {name: response_to_nested(column, inputs.nested_mask) for name, column in inputs.written.items()}
        fields = TensorDict(nested, batch_size=len(batch.keys))
        tq.kv_batch_put(keys=batch.keys, partition_id=batch.partition_id, fields=fields)


def _fetch(spec: EstimatorSpec, batch: KVBatchMeta) -> StepInputs:
    names = [*spec.columns, "response_mask", "rm_scores"]
    data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=names)
    require_columns(data, names, _ESTIMATOR, spec.name, otherwise="algorithm=grpo")
    valid_rows = valid_rows_of(batch)
    turns = padded_turns(data.select(*(name for name in _OF_TURNS if name in spec.columns)), valid_rows)
    per_token = [name for name in names if name not in turns]
    columns = padded_columns(data.select(*per_token)) | turns
    episodes = Episodes.of(
        columns[TURN_IDS], columns["response_mask"], turns[TURN_REWARDS], turns["turn_counts"], valid_rows
    )
    _check_sums(episodes.rewards.sum(dim=1), columns["rm_scores"].double().sum(dim=1), valid_rows)
    return StepInputs(spec, episodes, columns["rm_scores"], columns, group_ids(batch.keys), data["response_mask"])


def _check_sums(turn_sums: torch.Tensor, scores: torch.Tensor, valid_rows: torch.Tensor) -> None:
    """A reward function of the user's replaces the score, and the turns' rewards would still be the world's."""
    wrong = valid_rows & ~((turn_sums - scores).abs() <= _KNOWN_SUM * (1 + scores.abs()))
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0, 0])
        raise ValueError(
            f"the turn rewards of {int(wrong.sum())} episodes do not sum to their score "
            f"({float(turn_sums[row]):g} and {float(scores[row]):g}); an estimator over turns needs both to agree"
        )


def _inputs(name: str) -> StepInputs:
    inputs = _STEP.get()
    if inputs is None:
        raise ConfigurationError(
            _ESTIMATOR,
            name,
            "reads columns that verl's own trainer does not pass on",
            "Set trainer.v1.trainer_mode=actfocus_sync",
        )
    return inputs


def _of_outcomes(
    token_level_rewards: torch.Tensor, response_mask: torch.Tensor, index: Any, config: Any
) -> torch.Tensor:
    """verl's GRPO, (B, T), with `algorithm.norm_adv_by_std_in_grpo`."""
    by_std = bool(config.get("norm_adv_by_std_in_grpo", True))
    return compute_grpo_outcome_advantage(token_level_rewards, response_mask, index, norm_adv_by_std_in_grpo=by_std)[0]


@register_adv_est("gigpo")
def gigpo(
    token_level_rewards: torch.Tensor, response_mask: torch.Tensor, index: Any, config: Any, **_: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """verl's GRPO plus `estimator.step_weight` times the advantage within the states that episodes share."""
    inputs = _inputs("gigpo")
    by_std = bool(config.get("norm_adv_by_std_in_grpo", True))
    episode = _of_outcomes(token_level_rewards, response_mask, index, config)
    step, share = formulas.gigpo_step_advantages(
        inputs.episodes, inputs.columns[ANCHORS], inputs.group_ids, gamma=config.gamma, by_std=by_std
    )
    inputs.metrics["estimator/compared_turns"] = share
    advantages = episode + inputs.spec.parameters["step_weight"] * step * response_mask
    return advantages, advantages


@register_adv_est("turn_ppo")
def turn_ppo(
    token_level_rewards: torch.Tensor, response_mask: torch.Tensor, config: Any, **_: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """GAE over turns; the KL penalties of a turn's tokens are part of its reward."""
    inputs = _inputs("turn_ppo")
    penalties = None if torch.equal(token_level_rewards, inputs.scores) else token_level_rewards - inputs.scores
    return formulas.turn_gae(
        inputs.episodes, inputs.columns["values"], penalties, response_mask, gamma=config.gamma, lam=config.lam
    )


@register_adv_est("bilevel_gae")
def bilevel_gae(response_mask: torch.Tensor, config: Any, **_: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """GAE over turns with `estimator.high_level_gamma`, then over the tokens of each turn."""
    inputs = _inputs("bilevel_gae")
    return formulas.bilevel_gae(
        inputs.episodes,
        inputs.columns["values"],
        response_mask,
        gamma=config.gamma,
        lam=config.lam,
        high_level_gamma=inputs.spec.parameters["high_level_gamma"],
    )


@register_adv_est("igpo")
def igpo(
    token_level_rewards: torch.Tensor, response_mask: torch.Tensor, index: Any, config: Any, **_: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """The outcome at the last turn and the information gain at the others, normalised, then summed to come."""
    inputs, returns = _inputs("igpo"), token_level_rewards.sum(dim=-1)
    advantages = information_gain.igpo_advantages(
        inputs.episodes,
        _gains(inputs),
        returns,
        _by_episode(returns, index, config),
        inputs.group_ids,
        gamma=config.gamma,
        information_weight=inputs.spec.parameters["information_weight"],
        pool=inputs.spec.parameters["pool"],
    )
    advantages *= response_mask
    return advantages, advantages


@register_adv_est("a2tgpo")
def a2tgpo(
    token_level_rewards: torch.Tensor, response_mask: torch.Tensor, index: Any, config: Any, **_: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """verl's GRPO plus `estimator.alpha` times the rescaled gains to come; beside them the scales of the clip range."""
    inputs = _inputs("a2tgpo")
    parameters, gains = inputs.spec.parameters, _gains(inputs)
    normal = information_gain.turn_group_gains(gains, inputs.group_ids, min_group_size=parameters["min_group_size"])
    advantages = information_gain.a2tgpo_advantages(
        inputs.episodes,
        gains,
        normal,
        _by_episode(token_level_rewards.sum(dim=-1), index, config),
        gamma=config.gamma,
        alpha=parameters["alpha"],
    )
    advantages *= response_mask
    inputs.written[CLIP_SCALES] = information_gain.clip_scales(
        inputs.episodes, normal, clip_beta=parameters["clip_beta"]
    )
    return advantages, advantages


def _by_episode(returns: torch.Tensor, index: Any, config: Any) -> torch.Tensor:
    """verl's GRPO of the episodes' returns, (B,) like them: what it gives to each token of an episode."""
    column = returns[:, None]
    return _of_outcomes(column, torch.ones_like(column), index, config)[:, 0]


def _gains(inputs: StepInputs) -> Gains:
    gains = Gains.of(inputs.episodes, inputs.columns[ANSWER_SCORES], first_turn=inputs.spec.parameters["first_turn"])
    inputs.metrics.update(gains.metrics)
    return gains


@register_adv_est("carl")
def carl(token_level_rewards: torch.Tensor, response_mask: torch.Tensor, **_: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """CARL's tree of values; the tokens outside its update set are dropped by the trainer."""
    inputs = _inputs("carl")
    tree = tree_advantages(
        inputs.episodes,
        inputs.columns[STATES],
        inputs.columns[REPLAYED],
        token_level_rewards.double().sum(dim=1),
        inputs.group_ids,
    )
    inputs.update_set = tree.update_set
    inputs.metrics["estimator/critical_draws"] = float(tree.critical_draws)
    inputs.metrics["estimator/critical_share"] = tree.critical_draws / max(tree.draws, 1)
    advantages = tree.advantages * response_mask
    return advantages, advantages
