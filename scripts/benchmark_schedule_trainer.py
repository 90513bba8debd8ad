"""A trainer that takes turns between the two schedules on shared devices, for `benchmark_schedules.py`, which has verl
load it in every process of the run: `VERL_USE_EXTERNAL_MODULES=benchmark_schedule_trainer`.

colocate_async with nothing in flight is sync (tests/integration/test_async_trainers.py), so the arms differ in how many
prompt groups are in flight, and take turns within one run.
"""

from __future__ import annotations

from typing import Any, Final

import actfocus_verl.plugin  # noqa: F401  (verl loads this module before its plugins, and chooses its platform below)

# isort: split
from verl.trainer.ppo.v1.trainer_base import register_trainer

from actfocus_verl.integration.async_trainers import TokenCreditTrainerColocateAsync
from actfocus_verl.integration.half_chosen import TRAINER_PREFIX

MODE: Final = f"{TRAINER_PREFIX}benchmark_schedules"
BLOCK: Final = 4
"""Measured steps of an arm before the other's turn."""
PHASES: Final = ("sync",) * BLOCK + ("fill",) + ("colocate_async",) * BLOCK + ("drain",)
"""Of the steps of a round. `fill` puts groups in flight beyond those of a step, `drain` uses them up: unmeasured."""


@register_trainer(MODE)
class ScheduleTrainer(TokenCreditTrainerColocateAsync):
    """Goes through PHASES; logs `benchmark/phase`, its position."""

    def prepare_step(self) -> dict[str, Any]:
        groups = self.config.data.train_batch_size
        more = {"fill": groups // 2, "drain": -(groups // 2)}
        self._add_prompts_to_generate(groups + more.get(PHASES[self._phase], 0))
        return {}

    @property
    def _phase(self) -> int:
        return (self.global_steps - 1) % len(PHASES)

    def _compute_metrics(self, batch: Any, metrics: dict[str, Any], timing_raw: Any, **kwargs: Any) -> None:
        metrics["benchmark/phase"] = self._phase
        super()._compute_metrics(batch, metrics, timing_raw, **kwargs)
