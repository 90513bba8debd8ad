"""Tokens that a rollout correction rejects leave both the sum and the divisor of Eq. 6: verl's trainer and engine."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

from actfocus_verl.integration.loss import LOSS_MODE, token_weighted_ppo_loss
from tests.helpers.engines import to_batch
from tests.helpers.losses import actor_config
from tests.helpers.queue import LocalQueue
from tests.helpers.trainer import MakeTrainer, Trainer, to_advantages

ONE_MINI_BATCH = "actor_rollout_ref.actor.ppo_mini_batch_size=6"
REJECTION = (
    "algorithm.rollout_correction.rollout_rs=token_k2",  # (log pi_old - log pi_rollout)^2 / 2
    "algorithm.rollout_correction.rollout_rs_threshold=1.0",
    "actor_rollout_ref.rollout.calculate_log_probs=true",
)
COLUMNS = ("prompts", "responses", "input_ids", "position_ids", "response_mask", "loss_mask")


@pytest.fixture
def old_log_probs(make_trainer: MakeTrainer, queue: LocalQueue, rows: dict[str, Any]) -> dict[str, torch.Tensor]:
    to_advantages(make_trainer(ONE_MINI_BATCH), queue.fill(rows))
    return {key: queue.rows[key]["old_log_probs"].clone() for key in rows}


def rolled_out(rows: dict[str, Any], old: dict[str, torch.Tensor], rejected: Any) -> dict[str, Any]:
    """The rows with rollout log-probs as the actor's, and 5 nats off at the tokens `rejected(tokens)`."""
    return {key: row | {"rollout_log_probs": old[key] + 5.0 * rejected(len(old[key]))} for key, row in rows.items()}


def loss_of(engine: Any, rows: list[dict[str, torch.Tensor]]) -> float:
    """verl's engine over all rows: it counts the tokens that the loss is divided by."""
    losses = []

    def loss(**arguments: Any) -> Any:
        value, metrics = token_weighted_ppo_loss(config=actor_config(LOSS_MODE), **arguments)
        losses.append(float(value))
        return value, metrics

    with engine.train_mode():
        engine.optimizer_zero_grad()
        engine.forward_backward_batch(to_batch(rows, temperature=0.9, micro_batch_size_per_gpu=2), partial(loss))
    assert len(losses) == len(rows) // 2
    return sum(losses)


def test_the_divisor_is_the_sum_of_the_kept_weights(
    make_trainer: MakeTrainer, queue: LocalQueue, engine: Any, rows: dict[str, Any], old_log_probs: Any
) -> None:
    every_third = lambda tokens: (torch.arange(tokens) % 3 == 1).float()  # noqa: E731
    trainer: Trainer = make_trainer(ONE_MINI_BATCH, *REJECTION)
    batch, metrics = to_advantages(trainer, queue.fill(rolled_out(rows, old_log_probs, every_third)))

    # By hand: rho is 1, so L = -(sum w A) / (sum w), over sampled tokens that are not rejected.
    above = below = 0.0
    for key, row in rows.items():
        stored = queue.rows[key]
        for token, sampled in enumerate(row["response_mask"].tolist()):
            if sampled and token % 3 != 1:
                above -= float(stored["token_weights"][token] * stored["advantages"][token])
                below += float(stored["token_weights"][token])
    names = [*COLUMNS, "old_log_probs", "advantages", "token_weights"]
    found = loss_of(engine, [{name: queue.rows[key][name] for name in names} for key in batch.keys])

    assert abs(above / below) > 0.01
    assert found == pytest.approx(above / below, rel=1e-4)
    assert metrics["rollout_corr/steps_without_update"] == 0.0
    for key in rows:
        assert queue.rows[key]["loss_mask"].tolist() == queue.rows[key]["response_mask"].tolist()


def test_a_step_of_which_nothing_is_left_makes_no_update(
    make_trainer: MakeTrainer, queue: LocalQueue, rows: dict[str, Any], old_log_probs: Any
) -> None:
    trainer: Trainer = make_trainer(ONE_MINI_BATCH, *REJECTION)
    batch, metrics = to_advantages(trainer, queue.fill(rolled_out(rows, old_log_probs, torch.ones)))

    assert metrics["rollout_corr/steps_without_update"] == 1.0
    assert trainer._update_actor(batch, metrics) is batch  # there are no workers to call
    assert all(not queue.rows[key]["token_weights"].any() for key in rows)
