"""Names that only verl's registries know, and verl's own validation. Importing this imports verl."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterable
from typing import Final

from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from verl.experimental.agent_loop.agent_loop import _agent_loop_registry
from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY, POLICY_LOSS_REGISTRY
from verl.trainer.ppo.utils import need_critic, need_reference_policy
from verl.trainer.ppo.v1.trainer_base import TRAINER_REGISTRY
from verl.utils.config import omega_conf_to_dataclass, validate_config

from actfocus_verl import config as settings
from actfocus_verl.credit.filters import build_filter
from actfocus_verl.credit.registry import build_weighting
from actfocus_verl.errors import ConfigurationError, first_line
from actfocus_verl.integration.estimators import register, require_single_outputs
from actfocus_verl.integration.half_chosen import ESTIMATOR, LOSS, MODE, require_our_trainer
from actfocus_verl.integration.requirements import require_weights_in_effect
from actfocus_verl.preflight.own_data import AGENT_LOOP
from actfocus_verl.preflight.user_agent import has_agent

_SECTIONS: Final = ("algorithm", "actor_rollout_ref.actor", "actor_rollout_ref.rollout")
_REFUSALS: Final = (AssertionError, TypeError, ValueError, NotImplementedError, HydraException, OmegaConfBaseException)


def check_registered(config: DictConfig) -> None:
    """Raise ConfigurationError for an estimator, loss or trainer that is not registered, and for what verl rejects.

    Call it with `platform.env_vars` in the environment, after `check_model`: verl's critic section loads the tokenizer.
    """
    estimator = settings.require_estimator(config)
    if estimator is not None:
        register(estimator.name)
    _require_known(config, ESTIMATOR, ADV_ESTIMATOR_REGISTRY)
    _require_known(config, LOSS, POLICY_LOSS_REGISTRY)
    _require_known(config, MODE, TRAINER_REGISTRY)
    if not config.actor_rollout_ref.rollout.agent.agent_loop_config_path:  # its file registers more, in the workers
        _require_known(config, AGENT_LOOP, _agent_loop_registry)
    if has_agent(config):  # a conversation may have several rows, in some step
        require_single_outputs(config.algorithm.adv_estimator, ["a_0_0", "a_0_1"])
    _require_choices(config)
    _require_accepted_by_verl(config)


def _require_known(config: DictConfig, key: str, registry: Iterable[str]) -> None:
    name, known = OmegaConf.select(config, key), sorted(map(str, registry))
    if name not in known:
        raise ConfigurationError(key, name, "is not registered with verl", f"Choose one of: {', '.join(known)}")


def _require_choices(config: DictConfig) -> None:
    """The trainer's own requirements on a configuration, checked before Ray starts."""
    require_our_trainer(config)
    weighting = build_weighting(settings.section(config, "credit"))
    group_filter = build_filter(settings.section(config, "filter"))
    require_weights_in_effect(config, weighting, group_filter, diagnosed=settings.is_diagnosed(config))


def _require_accepted_by_verl(config: DictConfig) -> None:
    sections = [*_SECTIONS, "critic"] if need_critic(config) else list(_SECTIONS)
    for section in sections:
        try:
            omega_conf_to_dataclass(OmegaConf.select(config, section))
        except _REFUSALS as error:
            raise _refused(config, section, error) from error
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it reports success by printing
            validate_config(config, use_reference_policy=need_reference_policy(config), use_critic=need_critic(config))
    except _REFUSALS as error:
        raise ConfigurationError("config", "as composed", f"verl rejects it: {_reason(error)}", "Correct it") from error


def _refused(config: DictConfig, section: str, error: Exception) -> ConfigurationError:
    """The error for a key that verl's dataclass does not know, or else for the section."""
    unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    if unknown is None:
        return ConfigurationError(
            section, "...", f"verl rejects it: {_reason(error)}", f"Correct the keys of {section}"
        )
    place = re.search(r"full_key: ([\w.]+)", str(error))
    path = place[1] if place else ""
    if not path.startswith(section):  # Hydra names it from the section on, or from the root
        path = f"{section}.{path}" if path else section
    key = f"{path}.{unknown[1]}"
    return ConfigurationError(key, OmegaConf.select(config, key), "is not a key of verl", f"Remove {key}")


def _reason(error: BaseException) -> str:
    """The first line of the innermost error: Hydra wraps it in pages."""
    while error.__cause__ is not None:
        error = error.__cause__
    return first_line(error)
