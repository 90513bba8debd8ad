"""A trainer that says what a step's generation took, for `benchmark_rollout.py`, which has verl load it in every
process of the run: `VERL_USE_EXTERNAL_MODULES=benchmark_rollout_trainer`, with this folder on the path.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from typing import Any, Final

import psutil

import actfocus_verl.plugin  # noqa: F401  (verl loads this module before its plugins, and chooses its platform below)

# isort: split
from verl.trainer.ppo.v1.trainer_base import register_trainer

from actfocus_verl.integration.half_chosen import TRAINER_PREFIX
from actfocus_verl.integration.trainer import TokenCreditTrainerSync

MODE: Final = f"{TRAINER_PREFIX}sync_benchmark_rollout"

_PROCESS: Final = re.compile(r"ray::(?P<actor>\w+)|VLLM::(?P<engine>\w+)|(?P<ray>raylet|gcs_server)")


@register_trainer(MODE)
class RolloutTrainer(TokenCreditTrainerSync):
    """Logs `benchmark/generation_seconds`, from the prompts' way to the agent loops to the last episode's end, and
    `benchmark/cpu_seconds/<process>`: what the processes of Ray and vLLM computed meanwhile."""

    def prepare_step(self) -> Any:
        self._began, self._before = time.perf_counter(), cpu_seconds()
        return super().prepare_step()

    def on_sample_end(self) -> None:
        taken, after = time.perf_counter() - self._began, cpu_seconds()
        after.subtract(self._before)
        self._measured = {"benchmark/generation_seconds": taken}
        self._measured |= {f"benchmark/cpu_seconds/{name}": seconds for name, seconds in after.items()}
        super().on_sample_end()

    def _compute_metrics(self, batch: Any, metrics: dict[str, Any], timing_raw: Any, **kwargs: Any) -> None:
        metrics.update(self._measured)
        super()._compute_metrics(batch, metrics, timing_raw, **kwargs)


def cpu_seconds() -> Counter[str]:
    """Seconds that each kind of process of Ray and vLLM on this machine has computed since it began."""
    seconds: Counter[str] = Counter()
    for process in psutil.process_iter(["cmdline", "cpu_times"]):
        found = _PROCESS.search(" ".join(process.info["cmdline"] or [])[:200])
        if found and process.info["cpu_times"]:
            name = next(filter(None, found.groups()))
            seconds[name] += process.info["cpu_times"].user + process.info["cpu_times"].system
    return seconds
