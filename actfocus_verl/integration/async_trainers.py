"""Our trainers on verl's two asynchronous schedules (docs/schedules.md).

Token weights need nothing of them but what `TokenCreditMixin` does in any mode. Added is what only stale episodes have:
their staleness in the log, and an end for a run whose episodes all fail, which verl would replace for ever.
"""

from __future__ import annotations

from typing import Any, Final

import ray
import torch
import transfer_queue as tq
from omegaconf import OmegaConf
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.utils import Role
from verl.trainer.ppo.v1.trainer_base import register_trainer
from verl.trainer.ppo.v1.trainer_colocate_async import PPOTrainerColocateAsync
from verl.trainer.ppo.v1.trainer_separate_async import PPOTrainerSeparateAsync

from actfocus_verl.columns import TOKEN_ROLES, TOKEN_WEIGHTS
from actfocus_verl.credit.staleness import staleness_metrics
from actfocus_verl.integration.columns import padded_columns, valid_rows_of
from actfocus_verl.integration.half_chosen import TRAINER_PREFIX
from actfocus_verl.integration.local_updates import LocalUpdates
from actfocus_verl.integration.trainer import TokenCreditMixin

_CORRECTION: Final = "algorithm.rollout_correction"
_MASK: Final = "response_mask"


class AsyncScheduleMixin(TokenCreditMixin):
    """Token weights in an asynchronous trainer of verl's. Mix in before the trainer class."""

    def _build_replay_buffer(self) -> Any:
        buffer = super()._build_replay_buffer()
        self._failed_groups = FailedGroups(buffer, limit=self.config.data.train_batch_size)
        return buffer

    def on_sample_end(self) -> None:
        self._failed_groups.forget()
        super().on_sample_end()  # type: ignore[misc]

    def _compute_advantage(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        """Advantages and token weights; and how stale the tokens are that they weigh."""
        batch = super()._compute_advantage(batch, metrics)
        metrics.update(measure_staleness(batch, self.config, self.global_steps))  # type: ignore[attr-defined]
        return batch


class FailedGroups:
    """Ends a run in which more prompt groups failed in one sampling than a step has: another attempt would fail, too.

    buffer: verl's, whose evictions it counts from then on.
    """

    def __init__(self, buffer: Any, limit: int) -> None:
        self._limit = limit
        self._failed = 0
        self._evict = buffer._evict_terminal_groups
        buffer._evict_terminal_groups = self._counted

    def forget(self) -> None:
        """A batch was sampled."""
        self._failed = 0

    def _counted(self, global_steps: int, partition_id: str, eviction_reasons: Any) -> Any:
        self._failed += len(eviction_reasons[2])
        if self._failed > self._limit:
            raise RuntimeError(
                f"{self._failed} prompt groups of step {global_steps} ended in an error, one after the other; see the "
                "logs of the agent-loop workers (run.verbose=true prints them)"
            )
        return self._evict(global_steps, partition_id, eviction_reasons)


def measure_staleness(batch: KVBatchMeta, config: Any, step: int) -> dict[str, float]:
    """`staleness_metrics` of a batch whose token weights are written; step: its number, from 1."""
    names = [TOKEN_WEIGHTS, TOKEN_ROLES, _MASK, "old_log_probs", "rollout_log_probs", "rollout_is_weights"]
    data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=names)
    columns = padded_columns(data)
    oldest = torch.tensor([tag["min_global_steps"] for tag in batch.tags])
    ages = (step - 1 - oldest).clamp(min=0)  # the servers' first weights are version 0, those that step 1 trains
    return staleness_metrics(
        columns.pop(TOKEN_WEIGHTS), columns, ages, valid_rows_of(batch), threshold=_threshold(config)
    )


def _threshold(config: Any) -> float | None:
    """Where importance weights are cut off; None where they are dropped instead (verl's `low_high`), or rescaled."""
    correction = OmegaConf.select(config, _CORRECTION) or {}
    if correction.get("rollout_is") is None or correction.get("rollout_is_batch_normalize"):
        return None
    try:
        return float(correction["rollout_is_threshold"])
    except ValueError:
        return None


@register_trainer(f"{TRAINER_PREFIX}colocate_async")
class TokenCreditTrainerColocateAsync(AsyncScheduleMixin, PPOTrainerColocateAsync):
    """verl's trainer that takes turns with its servers and lets unfinished episodes go on, with token weights."""

    verl_mode = "colocate_async"


@register_trainer(f"{TRAINER_PREFIX}separate_async")
class TokenCreditTrainerSeparateAsync(AsyncScheduleMixin, PPOTrainerSeparateAsync):
    """verl's trainer beside servers of their own, with token weights.

    A step has `parameter_sync_step` local updates, each with weights of its own over its share of the episodes.
    """

    verl_mode = "separate_async"

    def _init_resource_pool_mgr(self) -> None:
        super()._init_resource_pool_mgr()
        if self.config.trainer.device != "cpu":
            return
        from actfocus_verl.platforms.detached_worker import CPUDetachActorWorker

        for role in (Role.Actor, Role.ActorRolloutRef, Role.ActorRollout, Role.RefPolicy):
            if role in self.role_worker_mapping:
                self.role_worker_mapping[role] = ray.remote(CPUDetachActorWorker)

    def step(self, metrics: dict[str, Any], timing_raw: dict[str, Any]) -> KVBatchMeta:
        """verl's local updates of a step."""
        self._local_updates = LocalUpdates()
        return super().step(metrics, timing_raw)

    def _note_played(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> None:
        """As the mixin does, with our metrics of the local updates joined by what they are."""
        metrics.update(self._local_updates.joined())
        super()._note_played(batch, metrics)
        self.run_log.local_updates(self._local_updates.lines(), self.global_steps)

    def _step_once(self, metrics: dict[str, Any], timing_raw: dict[str, Any], sample_batch_size: int) -> KVBatchMeta:
        batch = super()._step_once(metrics, timing_raw, sample_batch_size)
        self._local_updates.add(metrics, int(valid_rows_of(batch).sum()))
        return batch
