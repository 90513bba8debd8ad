"""Keys whose null means "derive from the others": filled in before anything is checked or passed to verl."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from actfocus_verl.checks import require_integer
from actfocus_verl.config import has_world
from actfocus_verl.credit.filters import build_filter
from actfocus_verl.environments import split_size
from actfocus_verl.errors import ConfigurationError
from actfocus_verl.preflight.schedule import SYNC_STEP, is_separate, rollout_slots
from actfocus_verl.preflight.user_agent import fill_agent

MINI_BATCH = "actor_rollout_ref.actor.ppo_mini_batch_size"
_ENGINE = "actor_rollout_ref.rollout.checkpoint_engine"
_SLOTS = "ray_kwargs.ray_init.num_gpus"
_TRANSPORTS = {"cpu": ("gloo", "actfocus_verl.platforms.gloo_weights"), "gpu": ("nccl", None)}
"""By platform: verl's name of the weight transport, and the module that registers it if that is not verl."""


def fill_derived(config: DictConfig) -> None:
    """Replace, in place, the nulls of `env.train_size`, `env.evaluation_size` and the actor's mini-batch size.

    With an agent of the user's, its loop and dataset are chosen, too.

    A size becomes the number of boards in the split, or in an unbounded split the number of the run's prompts. The
    mini-batch becomes all groups the filter keeps: one update per step; with `schedule=separate_async` it is the share
    of a local update, and the weight transport and the slots of Ray are chosen, too. Raises ConfigurationError for an
    unknown world, preset or filter, and where a size cannot be derived.
    """
    env = config.env
    fill_agent(config)
    if has_world(config):
        if env.train_size is None:
            env.train_size = _size(env, "train") or _prompts_of_the_run(config)
        if env.evaluation_size is None:
            env.evaluation_size = boards(env, "evaluation")
    if OmegaConf.select(config, MINI_BATCH) is None:
        OmegaConf.update(config, MINI_BATCH, _sampled_groups(config) if is_separate(config) else kept_groups(config))
    if is_separate(config):
        _fill_separate(config)


def _fill_separate(config: DictConfig) -> None:
    engine = OmegaConf.select(config, _ENGINE)
    if engine.backend is None:
        transport = _TRANSPORTS.get(config.platform.name)
        if transport is None:
            raise ConfigurationError(
                f"{_ENGINE}.backend", None, "no weight transport is known for this platform", "Set it to one of verl's"
            )
        engine.backend = transport[0]
        engine.custom_backend_module = engine.custom_backend_module or transport[1]
    if config.platform.name == "cpu" and OmegaConf.select(config, _SLOTS) is None:
        own = config.trainer.nnodes * config.trainer.n_gpus_per_node
        OmegaConf.update(config, _SLOTS, own + rollout_slots(config))


def _sampled_groups(config: DictConfig) -> int:
    """Prompt groups that an update samples."""
    groups = config.data.train_batch_size
    require_integer("data.train_batch_size", groups, low=1)
    if not is_separate(config):
        return int(groups)
    updates = OmegaConf.select(config, SYNC_STEP)
    require_integer(SYNC_STEP, updates, low=1)
    return max(1, groups // updates)


def kept_groups(config: DictConfig) -> int:
    """Prompt groups of a sampled batch that are trained on; the upper bound where it depends on the returns."""
    groups = _sampled_groups(config)
    group_filter = build_filter(OmegaConf.to_container(config.filter, resolve=True))
    return group_filter.most_kept(groups)


def boards(env: Mapping[str, Any], split: str) -> int:
    """Boards in the split of the `env` section's world. Raises ConfigurationError where they have no end."""
    size, key = _size(env, split), f"env.{split}_size"
    if size is None:
        problem = f"{env['name']}/{env['preset']} has an unbounded number of boards"
        raise ConfigurationError(key, None, problem, f"Set {key}")
    return size


def _size(env: Mapping[str, Any], split: str) -> int | None:
    return split_size(env["name"], preset=env["preset"], split=split)


def _prompts_of_the_run(config: DictConfig) -> int:
    steps = config.trainer.total_training_steps
    if steps is None:
        return boards(config.env, "train")
    require_integer("trainer.total_training_steps", steps, low=1)
    require_integer("data.train_batch_size", config.data.train_batch_size, low=1)
    return int(steps * config.data.train_batch_size)
