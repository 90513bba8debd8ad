"""Our trainer with its parts put in place instead of launched: verl's engine over a local queue. No Ray, no vLLM."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from verl.utils import tensordict_utils as tu

from actfocus_verl.integration.trainer import TokenCreditTrainerSync
from tests.helpers.queue import LocalQueue

EOS = 2
SECONDS = dict.fromkeys(("gen", "old_log_prob", "ref", "adv", "update_actor", "step"), 1.0)
"""What verl's metrics want to know of a step's phases."""


class EngineWorkers:
    """verl's worker group as far as the two log-prob passes go: verl's engine over the queue's rows."""

    _dispatch_info = {"actor": [0]}
    micro_batch = 2

    def __init__(self, engine: Any, queue: LocalQueue) -> None:
        self.engine, self.queue = engine, queue

    def compute_log_prob(self, batch: Any) -> Any:
        names = ["input_ids", "position_ids", "prompts", "responses", "response_mask", "loss_mask", "token_roles"]
        columns = self.queue.kv_batch_get(batch.keys, batch.partition_id, names)
        worker_settings = {
            "use_remove_padding": False,
            "use_dynamic_bsz": False,
            "micro_batch_size_per_gpu": self.micro_batch,
        }
        data = tu.get_tensordict(dict(columns.items()), worker_settings | batch.extra_info)
        with self.engine.eval_mode():
            output = self.engine.infer_batch(data)["model_output"]
        return self.queue.kv_batch_put(batch.keys, batch.partition_id, tu.get_tensordict(output))

    compute_ref_log_prob = compute_log_prob


class Trainer(TokenCreditTrainerSync):
    """Ours, with its parts put in place instead of launched."""

    def _get_n_gpus_for_throughput(self) -> int:
        return 1


MakeTrainer = Callable[..., Trainer]
"""The trainer of some Hydra overrides."""


def to_advantages(trainer: Trainer, batch: Any) -> tuple[Any, dict[str, Any]]:
    """The steps of verl's `_step_once` from the sampled batch to the advantages."""
    metrics: dict[str, Any] = {}
    batch = trainer._balance_batch(batch, metrics=metrics)
    batch = trainer._compute_old_log_prob(batch, metrics=metrics)
    batch = trainer._compute_ref_log_prob(batch, metrics=metrics)
    return trainer._compute_advantage(batch, metrics=metrics), metrics
