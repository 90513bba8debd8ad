"""A trainer that changes its credit from step to step, for `scripts/benchmark.py`: what an arm costs beside its neighbours."""

from __future__ import annotations

import dataclasses
import threading
from functools import partial
from typing import Any

import psutil
import ray
from verl.trainer.ppo.v1.trainer_base import register_trainer
from verl.utils.config import omega_conf_to_dataclass

from actfocus_verl.credit.registry import build_weighting
from actfocus_verl.integration.loss import token_weighted_ppo_loss
from actfocus_verl.integration.trainer import TRAINER_PREFIX, TokenCreditTrainerSync

ARMS = ("uniform", "actfocus", "no_reference")
_SAMPLE_SECONDS = 0.02


@register_trainer(f"{TRAINER_PREFIX}benchmark")
class BenchmarkTrainer(TokenCreditTrainerSync):
    """Cycles through ARMS: uniform weights with a reference pass, ActFocus, and uniform weights without a reference pass."""

    @property
    def trainer_mode(self) -> str:
        return "sync"

    @trainer_mode.setter
    def trainer_mode(self, name: str) -> None:
        """Only `sync` is measured."""

    def _setup(self) -> None:
        super()._setup()
        self._weightings = {
            "actfocus": self.weighting,
            "uniform": build_weighting({"name": "uniform"}),
            "no_reference": build_weighting({"name": "uniform"}),
        }
        config = omega_conf_to_dataclass(self.config.actor_rollout_ref.actor)
        self._losses = {True: config, False: dataclasses.replace(config, use_kl_loss=False)}
        workers = ray.get([worker.__ray_call__.remote(_process_id) for worker in self.actor_rollout_wg.workers])
        self._memory = _PeakMemory(workers)

    def on_step_begin(self) -> None:
        super().on_step_begin()
        self._arm = ARMS[self.global_steps % len(ARMS)]
        self.weighting = self._weightings[self._arm]
        self.use_reference_policy = self._arm != "no_reference"
        loss = partial(token_weighted_ppo_loss, config=self._losses[self.use_reference_policy])
        self.actor_rollout_wg.set_loss_fn(loss)
        self._memory.start()

    def on_step_end(self) -> None:
        self._peak = self._memory.stop()
        super().on_step_end()

    def _compute_metrics(self, batch: Any, metrics: dict[str, Any], timing_raw: Any, **kwargs: Any) -> None:
        metrics.update({"benchmark/arm": self._arm, "benchmark/peak_memory_gb": self._peak / 2**30})
        super()._compute_metrics(batch, metrics, timing_raw, **kwargs)
        metrics.pop("benchmark/arm")  # verl's loggers take numbers only


def _process_id(worker: Any) -> int:
    import os

    return os.getpid()


class _PeakMemory:
    """Largest sum of the workers' resident sets between start and stop, sampled; bytes."""

    def __init__(self, process_ids: list[int]) -> None:
        self._processes = [psutil.Process(process_id) for process_id in process_ids]

    def start(self) -> None:
        self._peak, self._stopping = 0, threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def _sample(self) -> None:
        while not self._stopping.wait(_SAMPLE_SECONDS):
            self._peak = max(self._peak, sum(process.memory_info().rss for process in self._processes))

    def stop(self) -> int:
        self._stopping.set()
        self._thread.join()
        return self._peak
