"""Where the episodes of a prompt start: whether forked rollouts can be played, and whether the estimator reads them."""

from __future__ import annotations

import logging

from omegaconf import DictConfig

from actfocus_verl.checks import require_choice, require_integer
from actfocus_verl.config import require_estimator, world_overrides
from actfocus_verl.credit.estimation import ESTIMATORS
from actfocus_verl.environments import make_world
from actfocus_verl.errors import ConfigurationError

logger = logging.getLogger(__name__)

_N = "actor_rollout_ref.rollout.n"
_STRATEGIES = ("independent", "forked")


def check_rollouts(config: DictConfig) -> None:
    """Raise ConfigurationError for an invalid strategy; warn where a tree estimator gets no tree."""
    name = config.rollout.name
    require_choice("rollout.name", name, choices=_STRATEGIES)
    spec = require_estimator(config)
    by_tree = spec is not None and spec.definition.by_tree
    if name == "forked":
        _check_forked(config, by_tree=by_tree)
    elif by_tree:
        logger.warning(
            "rollout.name=independent: episodes diverge at their first turn, so algorithm %s trains first turns only. "
            "rollout=forked gives it more.",
            config.algorithm_name,
        )


def _check_forked(config: DictConfig, *, by_tree: bool) -> None:
    if not by_tree:
        trees = [name for name in ESTIMATORS.known() if ESTIMATORS.get(name).by_tree]
        raise ConfigurationError(
            "rollout.name",
            "forked",
            f"algorithm.adv_estimator={config.algorithm.adv_estimator} assumes independent episodes of a prompt, and "
            "forks share their first turns",
            f"Use algorithm={' or '.join(trees)}, or rollout=independent",
        )
    n = config.actor_rollout_ref.rollout.n
    if n < 2:
        raise ConfigurationError(_N, n, "leaves no episode for a fork", f"Set {_N} to at least rollout.roots + 1")
    require_integer("rollout.roots", config.rollout.roots, low=1, high=n - 1)
    require_integer("rollout.wave", config.rollout.wave, low=1)
    if not config.actor_rollout_ref.rollout.calculate_log_probs:
        raise ConfigurationError(
            "actor_rollout_ref.rollout.calculate_log_probs",
            False,
            "rollout=forked chooses states by the log-probs of sampled replies",
            "Set it to true",
        )
    if config.data.val_files == "train" or "train" in config.data.val_files:
        raise ConfigurationError(
            "data.val_files", config.data.val_files, "rollout=forked would fork its episodes, too", "Use evaluation"
        )
    env = config.env
    make_world(env.name, preset=env.preset, split="train", **world_overrides(env)).reseed(0)
