"""The log-prob passes of a step, and those that a method needs beside them."""

from __future__ import annotations

from typing import Any

import transfer_queue as tq
from transfer_queue import KVBatchMeta
from verl.workers.utils.padding import response_from_nested

from actfocus_verl.columns import ANSWER_SCORES, HINDSIGHT_LOG_PROBS, RELEVANCE
from actfocus_verl.credit.hindsight import has_faded, hindsight_weighting
from actfocus_verl.credit.registry import WeightingSpec
from actfocus_verl.integration.answer_probes import score_answers
from actfocus_verl.integration.engine import CALCULATE
from actfocus_verl.integration.first_answers import measure_influence
from actfocus_verl.integration.half_chosen import CREDIT, ESTIMATOR
from actfocus_verl.integration.hindsight import add_hindsight
from actfocus_verl.integration.relevance import add_relevance
from actfocus_verl.integration.requirements import logit_signals, no_signals
from actfocus_verl.integration.run_log import RunLog


class MethodPasses:
    """A part of `TokenCreditMixin`, which sets the attributes: what is computed on a batch before its advantages."""

    config: Any
    weighting: WeightingSpec
    estimator: Any
    is_diagnosed: bool
    run_log: RunLog
    _influence: float

    @property
    def reference_signals(self) -> list[str]:
        """Signals of the reference's logits that the methods and the diagnostic need."""
        return logit_signals(self._columns_read, diagnosed=self.is_diagnosed)

    @property
    def _columns_read(self) -> set[str]:
        of_estimator = () if self.estimator is None else self.estimator.required_columns
        return {*self.weighting.required_columns, *of_estimator}

    def _compute_old_log_prob(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        """verl's log-prob pass of the sampling policy, what is measured on it, and other passes that a method needs."""
        batch = super()._compute_old_log_prob(batch, metrics)  # type: ignore[misc]
        self._influence, found = measure_influence(batch, self.run_log.influence)
        metrics.update(found)
        if RELEVANCE in self._columns_read:
            batch = add_relevance(batch, self.config, self.actor_rollout_wg.compute_log_prob)  # type: ignore[attr-defined]
        if HINDSIGHT_LOG_PROBS in self._columns_read:
            reader, skip = self._reader(HINDSIGHT_LOG_PROBS), self._hindsight_has_faded
            batch, found = add_hindsight(batch, *reader, self._log_prob_pass, skip=skip)
            metrics.update(found)
        if ANSWER_SCORES in self._columns_read:
            batch = score_answers(batch, *self._reader(ANSWER_SCORES), self._log_prob_pass)
        return batch

    def _reader(self, column: str) -> tuple[str, str]:
        """The setting, key and value, of a method that reads the column."""
        if self.estimator is not None and column in self.estimator.required_columns:
            return ESTIMATOR, self.estimator.name
        return CREDIT, self.weighting.name

    @property
    def _hindsight_has_faded(self) -> bool:
        """Whether nothing would come of the hindsight's pass from this step on."""
        if self.estimator is not None and HINDSIGHT_LOG_PROBS in self.estimator.required_columns:
            return False
        ours = self.weighting.definition.function is hindsight_weighting
        return ours and has_faded(self.weighting.params, self.global_steps)  # type: ignore[attr-defined]

    def _log_prob_pass(self, batch: KVBatchMeta) -> KVBatchMeta:
        """Have the actor write `log_probs` to the rows of a batch that is not the step's; returns it with padding."""
        batch = super()._balance_batch(batch, metrics={})  # type: ignore[misc]
        batch.extra_info.update(
            calculate_entropy=False,
            compute_loss=False,
            temperature=self.config.actor_rollout_ref.rollout.temperature,
        )
        self.actor_rollout_wg.compute_log_prob(batch)  # type: ignore[attr-defined]
        return batch

    def _compute_ref_log_prob(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        """verl's reference pass; when energy or another signal is needed, the same pass returns it."""
        names = self.reference_signals
        if not names:
            return super()._compute_ref_log_prob(batch, metrics)  # type: ignore[misc]
        flags = {CALCULATE[name]: True for name in names}
        batch.extra_info.update(flags)
        batch = super()._compute_ref_log_prob(batch, metrics)  # type: ignore[misc]
        for flag in flags:
            batch.extra_info.pop(flag)
        data = tq.kv_batch_get(
            keys=batch.keys, partition_id=batch.partition_id, select_fields=[*names, "response_mask"]
        )
        missing = [name for name in names if name not in data.keys()]  # noqa: SIM118  (a TensorDict iterates over rows)
        if missing:
            raise no_signals(self.config, missing)
        for name in names:
            data[name] = response_from_nested(data.pop(name), data["response_mask"])
        tq.kv_batch_put(keys=batch.keys, partition_id=batch.partition_id, fields=data.select(*names))
        return batch
