"""What the configuration means beyond verl's keys, and every check that can be made before Ray starts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from actfocus_verl.errors import ConfigurationError

_NOT_OF_THE_WORLD = ("name", "preset", "seed", "train_size", "evaluation_size")


def world_overrides(env: Mapping[str, Any]) -> dict[str, Any]:
    """Return the world's own keys of the `env` section that are set; null means the preset's value."""
    return {key: env[key] for key in env if key not in _NOT_OF_THE_WORLD and env[key] is not None}
