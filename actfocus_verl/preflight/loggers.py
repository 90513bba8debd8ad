"""The loggers of `trainer.logger`: that verl knows them, their package is installed, and they have the key they need.

verl creates them when the models are loaded, minutes after the start.
"""

from __future__ import annotations

import importlib.util
import netrc
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from omegaconf import DictConfig, ListConfig

from actfocus_verl.config import ray_address
from actfocus_verl.errors import ConfigurationError

KEY: Final = "trainer.logger"


@dataclass(frozen=True)
class _Logger:
    package: str | None = None
    """The package it imports, if not verl's own."""
    missing: Callable[[], str | None] = lambda: None
    """Returns what is missing to log in; None when nothing is, or it cannot be known."""
    remedy: str = ""


def _wandb() -> str | None:
    if _set("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_DISABLED"):
        return None
    if os.environ.get("WANDB_MODE", "online") not in ("", "online", "run"):
        return None
    settings = (Path("wandb/settings"), _home("WANDB_CONFIG_DIR", ".config/wandb") / "settings")
    if any(path.is_file() for path in settings):  # `wandb offline`, or a key
        return None
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).netloc
    files = [Path(os.environ["NETRC"])] if _set("NETRC") else [Path.home() / ".netrc", Path.home() / "_netrc"]
    return None if any(_in_netrc(file.expanduser(), host) for file in files) else "WANDB_API_KEY is not set"


def _swanlab() -> str | None:
    if _set("SWANLAB_API_KEY") or os.environ.get("SWANLAB_MODE", "cloud") != "cloud":
        return None
    folder = _home("SWANLAB_SAVE_DIR", ".swanlab")
    return None if (folder / ".netrc").is_file() else "SWANLAB_API_KEY is not set"


def _clearml() -> str | None:
    configuration = _home("CLEARML_CONFIG_FILE", "clearml.conf")
    if _set("CLEARML_API_ACCESS_KEY", "CLEARML_OFFLINE_MODE") or configuration.is_file():
        return None
    return "CLEARML_API_ACCESS_KEY is not set, and there is no clearml.conf"


def _volcengine() -> str | None:
    wanted = ("VOLC_ACCESS_KEY_ID", "VOLC_SECRET_ACCESS_KEY", "MLP_TRACKING_REGION")
    absent = [name for name in wanted if name not in os.environ]
    return f"{' and '.join(absent)} not set" if absent else None


LOGGERS: Final = {
    "console": _Logger(),
    "file": _Logger(),
    "tensorboard": _Logger("tensorboard"),
    "wandb": _Logger("wandb", _wandb, "Set WANDB_API_KEY, run `wandb login`, or set WANDB_MODE=offline"),
    "tracking": _Logger("wandb", _wandb, "Set WANDB_API_KEY, run `wandb login`, or set WANDB_MODE=offline"),
    "swanlab": _Logger("swanlab", _swanlab, "Set SWANLAB_API_KEY, run `swanlab login`, or set SWANLAB_MODE=local"),
    "clearml": _Logger("clearml", _clearml, "Set the CLEARML_API_* variables, or run `clearml-init`"),
    "vemlp_wandb": _Logger("volcengine_ml_platform", _volcengine, "Set the environment variables"),
    "mlflow": _Logger("mlflow"),
    "trackio": _Logger("trackio"),
    "rl_insight": _Logger("rl_insight"),
}
"""Names that verl's `Tracking` accepts; a test compares them with its own list."""


def check_loggers(config: DictConfig) -> None:
    """Raise ConfigurationError for a logger that verl does not know, that is not installed, or that cannot log in.

    API keys are not checked when the run joins a cluster: its processes have their own environment.
    """
    value = config.trainer.logger
    names = list(value) if isinstance(value, list | ListConfig) else [value]
    for name in names:
        logger = LOGGERS.get(name)
        if logger is None:
            raise ConfigurationError(
                KEY,
                name,
                "is not a known logger",
                f"Choose one of: {', '.join(sorted(LOGGERS.keys() - {'tracking'}))}",
            )
        if logger.package is not None and importlib.util.find_spec(logger.package) is None:
            raise ConfigurationError(
                KEY, name, f"the package {logger.package} is not installed", f"Install it, or take {name} out of {KEY}"
            )
        missing = logger.missing() if ray_address(config) is None else None
        if missing is not None:
            raise ConfigurationError(KEY, name, missing, f"{logger.remedy}; or take {name} out of {KEY}")


def _set(*variables: str) -> bool:
    return any(os.environ.get(variable) for variable in variables)


def _home(variable: str, default: str) -> Path:
    given = os.environ.get(variable)
    return Path(given).expanduser() if given else Path.home() / default


def _in_netrc(file: Path, host: str) -> bool:
    try:
        return netrc.netrc(file).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
