"""The advantage estimators of `credit.estimation` in verl's registry, and the columns they need.

verl hands a registered estimator the token rewards, the response mask, the prompt ids and the configuration, and
fetches no other column for it: neither ours nor the critic's values. So the trainer fetches them (`fetch_inputs`) and
lends them while verl's `_compute_advantage` runs, which calls the estimator. KL in the reward, rollout correction and
the advantages written back stay verl's; the columns that an estimator adds are written by the trainer.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
import transfer_queue as tq
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.core_algos import AdvantageEstimator, compute_grpo_outcome_advantage, register_adv_est

from actfocus_verl.columns import CLIP_SCALES, GROUP_IDS, TURN_IDS, TURN_REWARDS
from actfocus_verl.credit.episodes import Episodes
from actfocus_verl.credit.estimation import ESTIMATORS, VERLS, EstimatorSpec, Step, is_ours
from actfocus_verl.errors import ConfigurationError
from actfocus_verl.integration.columns import (
    conversation_rows,
    group_ids,
    method_columns,
    require_columns,
    valid_rows_of,
)
from actfocus_verl.integration.half_chosen import ESTIMATOR

_KNOWN_SUM = 1e-3
"""How far turn rewards may sum from the score, for float32 and long episodes."""


@dataclass
class StepInputs:
    """One step's columns beyond those verl passes on, in the order of its rows, and what the estimator made of them."""

    spec: EstimatorSpec
    columns: dict[str, torch.Tensor]
    valid_rows: torch.Tensor
    group_ids: torch.Tensor
    turns: Episodes | None
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

    verl's GRPO compares conversations, and its GAE compares nothing. An estimator that somebody else registered with
    verl knows for itself.
    """
    if len(conversation_rows(keys)) == len(keys) or name in VERLS:
        return
    if is_ours(name) or name in {each.value for each in AdvantageEstimator}:
        raise ConfigurationError(
            ESTIMATOR,
            name,
            "takes each output of the agent loop for an episode of its own, and this loop gives several a conversation",
            "Use algorithm=grpo or algorithm=ppo, or a loop that gives one output",
        )


@contextmanager
def lent(inputs: StepInputs | None) -> Iterator[None]:
    """Let the registered estimator find its inputs while the block runs; None for an estimator of verl's.

    What it made is in the inputs afterwards: whoever lent them writes it.
    """
    token = _STEP.set(inputs)
    try:
        yield
    finally:
        _STEP.reset(token)


def fetch_inputs(spec: EstimatorSpec, batch: KVBatchMeta) -> StepInputs:
    """Fetch the columns of a batch that the estimator declares.

    Raises ConfigurationError when the agent loop gives no such columns, ValueError when they contradict each other.
    """
    declared = [name for name in spec.required_columns if name != GROUP_IDS]
    names = list(dict.fromkeys([*declared, "response_mask", "rm_scores"]))
    data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=names)
    require_columns(data, names, ESTIMATOR, spec.name, otherwise="algorithm=grpo")
    valid_rows = valid_rows_of(batch)
    columns = method_columns(data, valid_rows)
    turns = None
    if {TURN_IDS, TURN_REWARDS} <= set(declared):
        turns = Episodes.of(
            columns[TURN_IDS], columns["response_mask"], columns[TURN_REWARDS], columns["turn_counts"], valid_rows
        )
        _check_sums(turns.rewards.sum(dim=1), columns["rm_scores"].double().sum(dim=1), valid_rows)
    return StepInputs(spec, columns, valid_rows, group_ids(batch.keys), turns, data["response_mask"])


def _check_sums(turn_sums: torch.Tensor, scores: torch.Tensor, valid_rows: torch.Tensor) -> None:
    """A reward function of the user's replaces the score, and the turns' rewards would still be the world's."""
    wrong = valid_rows & ~((turn_sums - scores).abs() <= _KNOWN_SUM * (1 + scores.abs()))
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0, 0])
        raise ValueError(
            f"the turn rewards of {int(wrong.sum())} episodes do not sum to their score "
            f"({float(turn_sums[row]):g} and {float(scores[row]):g}); an estimator over turns needs both to agree"
        )


def register(name: str) -> None:
    """Make an estimator of `credit.estimation`, by its name or path, known to verl. Idempotent."""
    register_adv_est(name)(_adapter(name))


@functools.cache
def _adapter(name: str) -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
    """The estimator as verl calls it; it looks like the function of the method, so that one sees where that is."""

    @functools.wraps(ESTIMATORS.get(name).function)
    def estimate(
        token_level_rewards: torch.Tensor, response_mask: torch.Tensor, config: Any, index: Any = None, **_: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        inputs = _STEP.get()
        if inputs is None:
            raise ConfigurationError(
                ESTIMATOR,
                name,
                "reads columns that verl's own trainer does not pass on",
                "Set trainer.v1.trainer_mode=actfocus_sync",
            )
        step = Step(
            rewards=token_level_rewards,
            scores=inputs.columns["rm_scores"],
            response_mask=response_mask,
            group_ids=inputs.group_ids,
            valid_rows=inputs.valid_rows,
            columns=inputs.columns,
            gamma=config.gamma,
            lam=config.lam,
            by_std=bool(config.get("norm_adv_by_std_in_grpo", True)),
            grpo=functools.partial(_grpo, index, config),
            turns=inputs.turns,
        )
        result = inputs.spec(step)
        inputs.metrics, inputs.update_set = step.metrics, result.update_set
        if result.clip_scales is not None:
            inputs.written[CLIP_SCALES] = result.clip_scales
        return result.advantages, result.advantages if result.targets is None else result.targets

    return estimate


def _grpo(index: Any, config: Any, rewards: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """verl's GRPO, (B, N), with `algorithm.norm_adv_by_std_in_grpo`."""
    by_std = bool(config.get("norm_adv_by_std_in_grpo", True))
    return compute_grpo_outcome_advantage(rewards, mask, index, norm_adv_by_std_in_grpo=by_std)[0]


for _name in ESTIMATORS.known():
    register(_name)
