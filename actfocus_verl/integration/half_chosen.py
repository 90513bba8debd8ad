"""Settings of ours with a trainer of verl's own, which would ignore them: an error before Ray starts.

`train` makes this check itself. A command of verl's own meets it in verl's `validate_config`, which every one of its
commands calls first. verl 0.9.1 offers no hook for such a check, so the function is wrapped here. Drop the
wrapper when verl has one, or refuses sections that nothing reads.
"""

from __future__ import annotations

from typing import Any, Final

import wrapt
from omegaconf import OmegaConf

from actfocus_verl.config import TOKEN_WEIGHTED_LOSS, TURN_RATIO_LOSS
from actfocus_verl.credit.estimation import is_ours
from actfocus_verl.credit.filters import FILTERS
from actfocus_verl.errors import ConfigurationError

TRAINER_PREFIX: Final = "actfocus_"
LOSS: Final = "actor_rollout_ref.actor.policy_loss.loss_mode"
MODE: Final = "trainer.v1.trainer_mode"
ESTIMATOR: Final = "algorithm.adv_estimator"
CREDIT: Final = "credit.name"
_V1: Final = "trainer.use_v1"
_OURS: Final = {
    "sync": f"{MODE}=actfocus_sync",
    "colocate_async": f"{MODE}=actfocus_colocate_async",
    "separate_async": f"{MODE}=actfocus_separate_async",
}
"""Our trainer by the mode of verl's own that it extends, as a setting."""
_OUR_LOSSES: Final = (TOKEN_WEIGHTED_LOSS, TURN_RATIO_LOSS)

_NEUTRAL: Final[dict[str, tuple[Any, ...]]] = {
    CREDIT: (None, "uniform"),
    "filter.name": (None, "none", *(name for name in FILTERS.known() if FILTERS.get(name).refills)),  # verl's own
    "early_stop.name": (None, "none"),
    "run.diagnose": (None, False),
}
"""Settings that only our trainer reads, and their values without effect; None: an absent key."""


def require_our_trainer(config: Any) -> None:
    """Raise ConfigurationError when the trainer is verl's own and a setting asks for what only ours does."""
    mode, is_v1 = OmegaConf.select(config, MODE), bool(OmegaConf.select(config, _V1))
    if is_v1 and str(mode).startswith(TRAINER_PREFIX):
        return
    ignored = _ignored(config)
    if ignored is None:
        return
    key, value = (MODE, mode) if is_v1 else (_V1, False)
    raise ConfigurationError(key, value, f"verl's own trainer {ignored}", _remedy(config, is_v1=is_v1))


def _ignored(config: Any) -> str | None:
    """What verl's own trainer does with the first setting that is meant for ours; None without such a setting."""
    loss = OmegaConf.select(config, LOSS)
    if loss in _OUR_LOSSES:
        return f"ignores {LOSS}={loss}"
    for key, neutral in _NEUTRAL.items():
        value = OmegaConf.select(config, key)
        if value not in neutral:
            return f"ignores {key}={value}"
    name = OmegaConf.select(config, ESTIMATOR)
    return f"does not pass on the columns that {ESTIMATOR}={name} reads" if is_ours(str(name)) else None


def _remedy(config: Any, *, is_v1: bool) -> str:
    if OmegaConf.select(config, CREDIT) is None:
        return "Add +credit=uniform, or another credit, which chooses trainer.v1.trainer_mode=actfocus_sync"
    ours = _OURS.get(str(OmegaConf.select(config, MODE)), _OURS["sync"])
    return f"Set {ours}" + ("" if is_v1 else " trainer.use_v1=true")


def install(module: Any) -> None:
    """Make `validate_config` of the module `verl.utils.config` run this check first; installed once.

    Must run before the module of a command is imported, because that takes the function by name.
    """
    if not isinstance(module.validate_config, wrapt.FunctionWrapper):
        wrapt.wrap_function_wrapper(module, "validate_config", _checked)


def _checked(validate_config: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    require_our_trainer(kwargs["config"] if "config" in kwargs else args[0])
    return validate_config(*args, **kwargs)
