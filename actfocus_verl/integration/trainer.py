"""Token-level credit as a mixin over verl's v1 trainers.

What it adds to a step: drop prompt groups before anything is computed on them, ask the reference pass for the energy or
another signal, turn the columns into `token_weights` once the advantages are known, and log both. Everything else is
verl's.
"""

from __future__ import annotations

from functools import cached_property, partial
from typing import Any, ClassVar

import torch
import transfer_queue as tq
from omegaconf import OmegaConf
from transfer_queue import KVBatchMeta
from verl.trainer.distillation import is_distillation_enabled
from verl.trainer.ppo.v1.trainer_base import register_trainer
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync
from verl.utils.config import omega_conf_to_dataclass
from verl.workers.config import ActorConfig

from actfocus_verl.columns import (
    GROUP_IDS,
    INFLUENCE,
    PASSED_ON,
    TOKEN_ROLES,
    TOKEN_WEIGHTS,
    TRAINING_STEP,
)
from actfocus_verl.config import (
    action_span,
    drops_nonfinite,
    is_diagnosed,
    require_deviation,
    require_estimator,
    require_weighting_columns,
    section,
)
from actfocus_verl.credit.diagnostics import credit_metrics, group_metrics, prompt_groups
from actfocus_verl.credit.early_stop import REASON, build_early_stop
from actfocus_verl.credit.filters import build_filter
from actfocus_verl.credit.influence import UNKNOWN
from actfocus_verl.credit.registry import build_weighting
from actfocus_verl.credit.signals import ENERGY
from actfocus_verl.credit.token_weights import compute_token_credit
from actfocus_verl.errors import ConfigurationError
from actfocus_verl.integration.columns import (
    conversation_ids,
    conversation_rows,
    fetch_episodes,
    group_ids,
    last_outputs,
    method_columns,
    plain,
    require_columns,
    require_lengths,
    valid_rows_of,
    write_columns,
)
from actfocus_verl.integration.episode_metrics import episode_metrics
from actfocus_verl.integration.estimators import fetch_inputs, lent, register, require_single_outputs
from actfocus_verl.integration.group_filter import apply_filter, filter_metrics, row_factors
from actfocus_verl.integration.half_chosen import CREDIT, TRAINER_PREFIX
from actfocus_verl.integration.loss import token_weighted_ppo_loss
from actfocus_verl.integration.lost_episodes import failed_episodes, naming_the_cause, require_all
from actfocus_verl.integration.method_passes import MethodPasses
from actfocus_verl.integration.mini_batches import mini_batch_ids
from actfocus_verl.integration.requirements import (
    rejects_tokens,
    require_weights_in_effect,
)
from actfocus_verl.integration.rewards import CheckedRewards, RewardCheck, Validation
from actfocus_verl.integration.run_log import RunLog
from actfocus_verl.integration.span_columns import SpanColumns
from actfocus_verl.integration.update_set import keep_only

POLL_SECONDS = 0.1
"""verl polls the replay buffer every 2 s, which puts a lower bound on generation time."""

_ADVANTAGES = "advantages"
_SCORES = "rm_scores"


class TokenCreditMixin(MethodPasses):
    """Give a verl v1 trainer token weights. Mix in before the trainer class."""

    config: Any
    verl_mode: ClassVar[str]
    """verl's mode name for the trainer class."""

    def __init__(self, config: Any) -> None:
        self.is_diagnosed = is_diagnosed(config)
        self._choose_credit(config)
        self.action_span = action_span(config)
        self.reward_check = RewardCheck(config, drops=drops_nonfinite(config))
        self._group_factors: dict[str, float] = {}
        self._nothing_to_update = False
        self._influence = UNKNOWN
        self.run_log = RunLog(config)
        super().__init__(config)  # type: ignore[call-arg]

    def _choose_credit(self, config: Any) -> None:
        """Build the weighting, the filter, the estimator and the early-stop rules that a configuration names."""
        self.weighting = build_weighting(section(config, "credit"))
        self.group_filter = build_filter(section(config, "filter") or {"name": "none"})
        self.estimator = require_estimator(config)
        if self.estimator is not None:
            register(self.estimator.name)
        self.early_stop = build_early_stop(section(config, "early_stop"))
        require_weighting_columns(config, self.weighting)
        require_weights_in_effect(config, self.weighting, self.group_filter, diagnosed=self.is_diagnosed)

    # verl compares `trainer_mode` with its own names in several places; ours only select the class.
    @property
    def trainer_mode(self) -> str:
        return self.verl_mode

    @trainer_mode.setter
    def trainer_mode(self, name: str) -> None:
        """verl sets the configured name, which is one of ours."""

    @cached_property
    def span_columns(self) -> SpanColumns:
        """Completes the columns of an agent loop that is not ours; needs the tokenizer, loaded in `_setup`."""
        return SpanColumns(self.action_span, self.tokenizer)  # type: ignore[attr-defined]

    def _build_replay_buffer(self) -> Any:
        buffer = super()._build_replay_buffer()  # type: ignore[misc]
        buffer.poll_interval = POLL_SECONDS
        buffer.sample = naming_the_cause(buffer.sample, self.run_log.last_failure)
        return buffer

    def _setup(self) -> None:
        require_deviation(self.config, self.group_filter)
        super()._setup()  # type: ignore[misc]
        if is_distillation_enabled(self.config.get("distillation")):
            raise ConfigurationError(
                "distillation.enabled",
                True,
                "distillation replaces the loss that token weights enter",
                "Switch one off.",
            )
        actor_config: ActorConfig = omega_conf_to_dataclass(self.config.actor_rollout_ref.actor)
        self.actor_rollout_wg.set_loss_fn(partial(token_weighted_ppo_loss, config=actor_config))  # type: ignore[attr-defined]

    def on_init_end(self) -> None:
        step = int(self.global_steps)  # type: ignore[attr-defined]
        if self.run_log.recover(step) and self._evaluates_after(step):
            self.config.trainer.val_before_train = self.run_log.evaluates_first = True
        self.run_log.continue_from(step)
        if self.early_stop.reason(self.run_log.history):  # an earlier start had come to its end
            self.total_training_steps = self.global_steps  # type: ignore[attr-defined]
        super().on_init_end()  # type: ignore[misc]

    def _evaluates_after(self, step: int) -> bool:
        frequency = self.config.trainer.test_freq
        return bool(frequency > 0 and (step % frequency == 0 or step >= self.total_training_steps))  # type: ignore[has-type]

    def step(self, metrics: dict[str, Any], timing_raw: dict[str, Any]) -> KVBatchMeta:
        """verl's step; its record is on the disk before its checkpoint is: verl logs after saving and evaluating."""
        batch: KVBatchMeta = super().step(metrics, timing_raw)  # type: ignore[misc]
        self._note_played(batch, metrics)
        return batch

    def _note_played(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> None:
        keys = [key for key, valid in zip(batch.keys, valid_rows_of(batch).tolist(), strict=True) if valid]
        self.run_log.rollouts(batch, keys, self.global_steps, self.tokenizer)  # type: ignore[attr-defined]
        self.run_log.played(metrics, self.global_steps)  # type: ignore[attr-defined]

    def get_reward_handles(self) -> list[CheckedRewards] | None:
        """verl's reward workers for the agent loops, with their results checked."""
        handles = super().get_reward_handles()  # type: ignore[misc]
        return None if handles is None else [CheckedRewards(handle) for handle in handles]

    def _balance_batch(self, batch: KVBatchMeta, metrics: dict[str, Any], *args: Any, **kwargs: Any) -> KVBatchMeta:
        """Log what was played, drop the filtered groups, then let verl pad and balance what is left.

        Success and the like are over all episodes: the groups that a filter keeps are a biased sample of the boards.

        Raises RuntimeError when episodes are missing (verl would train on what is left of their groups), or when none
        has a token to train; ValueError when the columns of a row differ in length; ConfigurationError for rewards that
        are not finite numbers.
        """
        self._require_all_episodes(batch)
        require_single_outputs(str(self.config.algorithm.adv_estimator), batch.keys)
        data = fetch_episodes(batch)
        require_lengths(batch, data)
        rewarded, counts = self.reward_check.training(batch, data, self.global_steps)  # type: ignore[attr-defined]
        metrics.update(counts)
        if len(rewarded.keys) < len(batch.keys):
            batch, data = rewarded, fetch_episodes(rewarded)
        data = self.span_columns.complete(batch, data)
        infos = [plain(data["extra_fields"][row]) for row in conversation_rows(batch.keys)]
        metrics.update(episode_metrics(infos, data[TOKEN_ROLES]))
        returns = [float(row.sum()) for row in data["rm_scores"].unbind()]
        positions, selection = apply_filter(batch.keys, returns, self.group_filter)
        masks = data["response_mask"].unbind()
        if not any(bool(masks[position].any()) for position in positions):
            raise RuntimeError(
                f"no episode of step {self.global_steps} has a token to train: "  # type: ignore[attr-defined]
                "every reply was empty, or cut off before its first token"
            )
        self._group_factors = selection.factors
        metrics.update(filter_metrics(selection))
        if len(positions) < len(batch.keys):
            kept = set(positions)
            dropped = [key for position, key in enumerate(batch.keys) if position not in kept]
            tq.kv_clear(keys=dropped, partition_id=batch.partition_id)
            batch = batch.select_keys([batch.keys[position] for position in positions])
        return super()._balance_batch(batch, metrics, *args, **kwargs)  # type: ignore[misc]

    def _require_all_episodes(self, batch: KVBatchMeta) -> None:
        groups = self.config.data.train_batch_size // self.parameter_sync_step  # type: ignore[attr-defined]
        require_all(batch, groups * self.config.actor_rollout_ref.rollout.n, self.global_steps, self.run_log)  # type: ignore[attr-defined]

    def _compute_advantage(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        """verl's advantages, and the token weights; EMPG alone adds to the advantages.

        Tokens outside an estimator's update set are dropped in between, so that no weighting sees them. Those that a
        rollout correction rejects are out of verl's response mask already; they leave its count of tokens here.
        """
        inputs = None if self.estimator is None else fetch_inputs(self.estimator, batch)
        with lent(inputs):
            batch = super()._compute_advantage(batch, metrics)  # type: ignore[misc]
        if inputs is not None:
            metrics.update(inputs.metrics)
            if inputs.written:
                write_columns(batch, inputs.written, inputs.nested_mask)
        self._nothing_to_update = False
        update_set = None if inputs is None else inputs.update_set
        if update_set is not None or rejects_tokens(self.config):
            batch, kept = keep_only(batch, update_set)
            self._nothing_to_update = kept == 0
            by = "rollout_corr" if update_set is None else "estimator"
            metrics[f"{by}/steps_without_update"] = float(self._nothing_to_update)
        return self._write_token_weights(batch, metrics)

    @property
    def _placebo_seed(self) -> tuple[int, ...]:
        """Of run, step and local update: the first of a step, mostly the only one, is not counted."""
        run = OmegaConf.select(self.config, "run.seed", default=0)
        update = self.local_trigger_step  # type: ignore[attr-defined]
        return (run, self.global_steps, *((update,) if update else ()))  # type: ignore[attr-defined]

    def _update_actor(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        """verl's update; skipped, optimizer momentum included, in a step without a token to train on."""
        if self._nothing_to_update:
            return batch
        return super()._update_actor(batch, metrics)  # type: ignore[misc]

    def _write_token_weights(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        of_trainer = {
            GROUP_IDS: group_ids(batch.keys),
            INFLUENCE: torch.full((len(batch.keys),), self._influence),
            TRAINING_STEP: torch.full((len(batch.keys),), self.global_steps),  # type: ignore[attr-defined]
        }
        required = [name for name in self.weighting.required_columns if name not in of_trainer]
        names = list(dict.fromkeys([*PASSED_ON, *required, *((_SCORES,) if self.is_diagnosed else ())]))
        data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=names)
        require_columns(data, required, CREDIT, self.weighting.name, otherwise="credit=uniform")
        nested_mask = data["response_mask"]
        valid_rows = valid_rows_of(batch)
        columns = method_columns(data, valid_rows) | of_trainer
        ids = None
        if self.weighting.normalize == "mini_batch":
            ids = mini_batch_ids(len(batch.keys), self.config, self.actor_rollout_wg)  # type: ignore[attr-defined]
        weights, shift = compute_token_credit(
            columns, self.weighting, valid_rows=valid_rows, mini_batch_ids=ids, placebo_seed=self._placebo_seed
        )
        weights = weights * row_factors(batch.keys, self._group_factors)  # after the normalisation, which would undo it
        written = {TOKEN_WEIGHTS: weights}
        if shift is not None:
            columns[_ADVANTAGES] = written[_ADVANTAGES] = columns[_ADVANTAGES] + shift
        metrics.update(credit_metrics(weights, columns, columns.get(_ADVANTAGES), valid_rows))
        if self.is_diagnosed:
            groups = prompt_groups(
                columns[ENERGY],
                columns,
                columns[_SCORES].sum(dim=1)[last_outputs(batch.keys)],
                columns[GROUP_IDS],
                valid_rows,
                conversation_ids(batch.keys),
            )
            metrics.update(group_metrics(groups))
        return write_columns(batch, written, nested_mask)  # naming the new column: the actor fetches only named ones

    def _compute_metrics(self, batch: KVBatchMeta, metrics: dict[str, Any], timing_raw: Any, **kwargs: Any) -> None:
        super()._compute_metrics(batch, metrics, timing_raw, **kwargs)  # type: ignore[misc]
        step = int(metrics["training/global_step"])
        self.run_log.history.add_step(metrics)
        self.run_log.metrics(metrics | self._end_early(step), step)

    def _end_early(self, step: int) -> dict[str, str]:
        """If an early-stop rule holds, make the next step the last, so that verl saves and evaluates it.

        Returns the reason, for the log.
        """
        reason = self.early_stop.reason(self.run_log.history)
        if reason is None or step + 1 >= self.total_training_steps:
            return {}
        self.total_training_steps = step + 1
        return {REASON: reason}

    def _val_metrics_update(
        self,
        data_sources: list[str],
        sample_uids: list[str],
        reward_extra_infos_dict: dict[str, list[Any]],
        sample_turns: list[int],
        expected_acc_counts: dict[tuple[str, str], int] | None = None,
    ) -> dict[str, float]:
        step = self.global_steps  # type: ignore[attr-defined]
        expected = sum((expected_acc_counts or {}).values())
        if len(data_sources) < expected:
            where, cause = f"the evaluation at step {step}", self.run_log.last_failure()
            raise RuntimeError(failed_episodes(len(data_sources), expected, where, cause))
        played = Validation(data_sources, sample_uids, reward_extra_infos_dict, sample_turns, expected_acc_counts)
        played, counts = self.reward_check.validation(played, step)
        self.run_log.evaluations(played.data_sources, played.uids, played.infos, step)
        metrics: dict[str, float] = super()._val_metrics_update(  # type: ignore[misc]
            played.data_sources, played.uids, played.infos, played.turns, expected_acc_counts=played.expected
        )
        return metrics | counts


@register_trainer(f"{TRAINER_PREFIX}sync")
class TokenCreditTrainerSync(TokenCreditMixin, PPOTrainerSync):
    """verl's synchronous trainer with token weights."""

    verl_mode = "sync"
