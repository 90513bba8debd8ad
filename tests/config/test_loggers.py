"""Loggers: known to verl, installed, and with the key they need."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf
from verl.utils.tracking import Tracking

from actfocus_verl.errors import ConfigurationError
from actfocus_verl.preflight.loggers import LOGGERS, check_loggers
from tests.config.conftest import changed

VARIABLES = (
    *(
        "WANDB_API_KEY",
        "WANDB_MODE",
        "WANDB_BASE_URL",
        "WANDB_IDENTITY_TOKEN_FILE",
        "WANDB_DISABLED",
        "WANDB_CONFIG_DIR",
    ),
    *("NETRC", "SWANLAB_API_KEY", "SWANLAB_MODE", "SWANLAB_SAVE_DIR", "RAY_ADDRESS"),
    *("CLEARML_API_ACCESS_KEY", "CLEARML_OFFLINE_MODE", "CLEARML_CONFIG_FILE"),
    *("VOLC_ACCESS_KEY_ID", "VOLC_SECRET_ACCESS_KEY", "MLP_TRACKING_REGION"),
)


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A home and a working folder without a key, and every logger's package."""
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    return tmp_path


@pytest.fixture
def config() -> DictConfig:
    return OmegaConf.create({"trainer": {"logger": ["tensorboard"]}})


def failure(config: DictConfig, *loggers: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        check_loggers(changed(config, **{"trainer.logger": list(loggers)}))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_names_are_verls() -> None:
    assert set(LOGGERS) == {*Tracking.supported_backend, "tracking"}


def test_an_unknown_one(config: DictConfig) -> None:
    assert failure(config, "tensorboard", "wandbb") == (
        "trainer.logger='wandbb': is not a known logger. Choose one of: clearml, console, file, mlflow, rl_insight, "
        "swanlab, tensorboard, trackio, vemlp_wandb, wandb"
    )


def test_one_that_needs_no_key(config: DictConfig) -> None:
    check_loggers(changed(config, **{"trainer.logger": "console"}))
    check_loggers(changed(config, **{"trainer.logger": ["tensorboard", "mlflow", "file"]}))


def test_one_that_is_not_installed(config: DictConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "mlflow" else object())
    assert failure(config, "console", "mlflow") == (
        "trainer.logger='mlflow': the package mlflow is not installed. Install it, or take mlflow out of trainer.logger"
    )


@pytest.mark.parametrize(
    ("logger", "problem"),
    [
        ("wandb", "WANDB_API_KEY is not set"),
        ("swanlab", "SWANLAB_API_KEY is not set"),
        ("clearml", "CLEARML_API_ACCESS_KEY is not set, and there is no clearml.conf"),
        ("vemlp_wandb", "VOLC_ACCESS_KEY_ID and VOLC_SECRET_ACCESS_KEY and MLP_TRACKING_REGION not set"),
    ],
)
def test_one_without_its_key(config: DictConfig, monkeypatch: pytest.MonkeyPatch, logger: str, problem: str) -> None:
    message = failure(config, logger)
    assert message.startswith(f"trainer.logger='{logger}': {problem}. ")
    assert message.endswith(f"; or take {logger} out of trainer.logger")
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")  # whose processes have an environment of their own
    check_loggers(changed(config, **{"trainer.logger": logger}))


@pytest.mark.parametrize(
    ("logger", "variables"),
    [
        ("wandb", {"WANDB_API_KEY": "k"}),
        ("wandb", {"WANDB_MODE": "offline"}),
        ("swanlab", {"SWANLAB_API_KEY": "k"}),
        ("swanlab", {"SWANLAB_MODE": "local"}),
        ("clearml", {"CLEARML_OFFLINE_MODE": "1"}),
        ("vemlp_wandb", {"VOLC_ACCESS_KEY_ID": "a", "VOLC_SECRET_ACCESS_KEY": "s", "MLP_TRACKING_REGION": "r"}),
    ],
)
def test_a_key_or_no_need_of_one(
    config: DictConfig, monkeypatch: pytest.MonkeyPatch, logger: str, variables: dict[str, str]
) -> None:
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    check_loggers(changed(config, **{"trainer.logger": logger}))


@pytest.mark.parametrize(
    ("logger", "file", "text"),
    [
        ("wandb", ".netrc", "machine api.wandb.ai login user password k"),
        ("wandb", "wandb/settings", "[default]\nmode = offline\n"),
        ("swanlab", ".swanlab/.netrc", "machine api.swanlab.cn login user password k"),
        ("clearml", "clearml.conf", "api {}"),
    ],
)
def test_a_key_in_a_file(config: DictConfig, home: Path, logger: str, file: str, text: str) -> None:
    (home / file).parent.mkdir(parents=True, exist_ok=True)
    (home / file).write_text(text)
    (home / file).chmod(0o600)
    check_loggers(changed(config, **{"trainer.logger": logger}))


def test_the_key_of_another_server_is_none(config: DictConfig, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / ".netrc").write_text("machine api.wandb.ai login user password k")
    (home / ".netrc").chmod(0o600)
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert "WANDB_API_KEY is not set" in failure(config, "wandb")
