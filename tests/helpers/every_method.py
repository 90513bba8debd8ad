"""A trainer that takes another estimator, weighting and filter every step or every few: one start of Ray for all.

verl imports it in every process when VERL_USE_EXTERNAL_MODULES is MODULES.
"""

from __future__ import annotations

import os
from functools import partial
from typing import Any

from omegaconf import OmegaConf, open_dict
from verl.trainer.ppo.v1.trainer_base import register_trainer
from verl.utils.config import omega_conf_to_dataclass

from actfocus_verl.integration.half_chosen import TRAINER_PREFIX
from actfocus_verl.integration.loss import token_weighted_ppo_loss
from actfocus_verl.integration.trainer import TokenCreditTrainerSync

MODULES = f"actfocus_verl.plugin,{__name__}"
"""The plugin first: it registers the platform before anything of verl asks for one."""
MODE = f"{TRAINER_PREFIX}sync_every_method"
FILE_VARIABLE = "ACTFOCUS_TEST_METHODS"
"""A YAML list of configurations, as far as SECTIONS go."""
SECTIONS = ("algorithm", "estimator", "credit", "filter")
ACTOR_KEYS = ("policy_loss.loss_mode", "clip_ratio_low", "clip_ratio_high", "loss_agg_mode")
"""Further keys of a method, in the section `actor_rollout_ref.actor`."""
STEPS_VARIABLE = "ACTFOCUS_TEST_STEPS_EACH"
"""Steps of each method."""


@register_trainer(MODE)
class EveryMethodTrainer(TokenCreditTrainerSync):
    """Logs `method`, the position in the list."""

    def _setup(self) -> None:
        super()._setup()
        self._methods = OmegaConf.load(os.environ[FILE_VARIABLE])
        self._steps_each = int(os.environ[STEPS_VARIABLE])

    @property
    def _method(self) -> int:
        """The last one goes on to the end of the run."""
        return min((self.global_steps - 1) // self._steps_each, len(self._methods) - 1)

    def on_step_begin(self) -> None:
        super().on_step_begin()
        method = self._methods[self._method]
        actor = self.config.actor_rollout_ref.actor
        with open_dict(self.config):
            for section in SECTIONS:
                self.config[section] = method[section]
            for key in ACTOR_KEYS:
                OmegaConf.update(actor, key, OmegaConf.select(method.actor, key))
        self._choose_credit(self.config)
        self.actor_rollout_wg.set_loss_fn(partial(token_weighted_ppo_loss, config=omega_conf_to_dataclass(actor)))

    def _compute_metrics(self, batch: Any, metrics: dict[str, Any], timing_raw: Any, **kwargs: Any) -> None:
        metrics["method"] = self._method
        super()._compute_metrics(batch, metrics, timing_raw, **kwargs)
