"""Checks made before Ray starts: each failure is a ConfigurationError of one line naming key, value and remedy.

In the order a run makes them:

1. `check_overrides(argv)`: names of group files on the command line, before Hydra composes.
2. `fill_derived(config)`: what null leaves to be worked out from other keys.
3. `check_config(config)`: everything the configuration itself says.
4. `check_machine(config)`: whether this machine has what the platform needs.
5. `check_output(config)`: the run's folder, and the checkpoint in it.
6. `check_model(config)`: the model's folder, template and lengths, once its path is known.
7. `check_registered(config)`: names in verl's registries, and verl's own validation. It imports verl, which fixes
   verl's platform: call it after `platform.env_vars` are in the environment.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from actfocus_verl.preflight.derived import fill_derived
    from actfocus_verl.preflight.machine import check_machine
    from actfocus_verl.preflight.model import check_model
    from actfocus_verl.preflight.output import check_output
    from actfocus_verl.preflight.overrides import check_overrides
    from actfocus_verl.preflight.registered import check_registered
    from actfocus_verl.preflight.settings import check_config

__all__ = [
    "check_overrides",
    "fill_derived",
    "check_config",
    "check_machine",
    "check_output",
    "check_model",
    "check_registered",
]

_MODULES: Final = {
    "check_overrides": "overrides",
    "fill_derived": "derived",
    "check_config": "settings",
    "check_machine": "machine",
    "check_output": "output",
    "check_model": "model",
    "check_registered": "registered",
}


def __getattr__(name: str) -> Any:
    """Import a check when it is first used: some need torch, `check_model` transformers and the last one verl."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
