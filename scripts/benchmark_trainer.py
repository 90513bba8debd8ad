"""A trainer that changes its credit from step to step, for `benchmark.py`, which has verl load it in every process of
the run: `VERL_USE_EXTERNAL_MODULES=benchmark_trainer`, with this folder on the path.

What ActFocus costs is a difference of a few per cent, less than the machine's moods from one run to the next: so the
arms take turns within one run.
"""

from __future__ import annotations

import dataclasses
import os
import threading
import time
from functools import partial
from typing import Any, Final

import psutil
import ray

import actfocus_verl.plugin  # noqa: F401  (verl loads this module before its plugins, and chooses its platform below)

# isort: split
from verl.trainer.ppo.v1.trainer_base import register_trainer
from verl.utils.config import omega_conf_to_dataclass

from actfocus_verl.credit.registry import WeightingSpec, build_weighting
from actfocus_verl.integration.half_chosen import TRAINER_PREFIX
from actfocus_verl.integration.loss import token_weighted_ppo_loss
from actfocus_verl.integration.trainer import TokenCreditTrainerSync

ARMS: Final = ("uniform", "credit", "no_reference")
"""Uniform weights with the reference pass and its KL; the configured credit with the same; uniform weights without."""

MODE: Final = f"{TRAINER_PREFIX}sync_benchmark"
SAMPLE_SECONDS: Final = 0.02


def arm_of(step: int) -> int:
    """Return the position in ARMS of a training step (from 1)."""
    return (step - 1) % len(ARMS)


@register_trainer(MODE)
class BenchmarkTrainer(TokenCreditTrainerSync):
    """Takes turns through ARMS; logs `benchmark/arm`, `benchmark/peak_memory_gb` (GiB, all training workers), and
    `benchmark/reference_seconds/plain` and `/credit`: the reference pass on the very same batch, both ways."""

    def _setup(self) -> None:
        super()._setup()
        self._credit: WeightingSpec = self.weighting
        self._uniform = build_weighting({"name": "uniform"})
        with_kl = omega_conf_to_dataclass(self.config.actor_rollout_ref.actor)
        self._losses = {True: with_kl, False: dataclasses.replace(with_kl, use_kl_loss=False)}
        workers = self.actor_rollout_wg.workers
        self._memory = PeakMemory(ray.get([worker.__ray_call__.remote(_process_id) for worker in workers]))

    def on_step_begin(self) -> None:
        super().on_step_begin()
        arm = ARMS[arm_of(self.global_steps)]
        self.weighting = self._credit if arm == "credit" else self._uniform
        self.use_reference_policy = arm != "no_reference"
        loss = partial(token_weighted_ppo_loss, config=self._losses[self.use_reference_policy])
        self.actor_rollout_wg.set_loss_fn(loss)
        self._memory.start()

    def on_step_end(self) -> None:
        self._peak = self._memory.stop()
        super().on_step_end()

    def _compute_metrics(self, batch: Any, metrics: dict[str, Any], timing_raw: Any, **kwargs: Any) -> None:
        metrics["benchmark/arm"] = arm_of(self.global_steps)
        metrics["benchmark/peak_memory_gb"] = self._peak / 2**30
        metrics.update(self._reference_seconds(batch))
        super()._compute_metrics(batch, metrics, timing_raw, **kwargs)

    def _reference_seconds(self, batch: Any) -> dict[str, float]:
        """Seconds of two reference passes with and two without what the credit asks of them, after an untimed one.

        Their order is there and back, so that a machine that slows down steadily costs both the same; which comes first
        alternates.
        """
        there = ("plain", "credit") if self.global_steps % 2 else ("credit", "plain")
        passes, own = {"plain": self._uniform, "credit": self._credit}, self.weighting
        seconds = dict.fromkeys(there, 0.0)
        self._compute_ref_log_prob(batch, {})
        for name in (*there, *reversed(there)):
            self.weighting = passes[name]
            started = time.perf_counter()
            self._compute_ref_log_prob(batch, {})
            seconds[name] += time.perf_counter() - started
        self.weighting = own
        return {f"benchmark/reference_seconds/{name}": taken for name, taken in seconds.items()}


def _process_id(worker: Any) -> int:
    return os.getpid()


class PeakMemory:
    """Largest sum of some processes' resident sets between `start` and `stop`, sampled every 20 ms; bytes.

    The processes are on this machine: the benchmark's is one machine.
    """

    def __init__(self, process_ids: list[int]) -> None:
        self._processes = [psutil.Process(process_id) for process_id in process_ids]

    def start(self) -> None:
        self._peak, self._stopping = 0, threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def _sample(self) -> None:
        while not self._stopping.wait(SAMPLE_SECONDS):
            self._peak = max(self._peak, sum(process.memory_info().rss for process in self._processes))

    def stop(self) -> int:
        self._stopping.set()
        self._thread.join()
        return self._peak
