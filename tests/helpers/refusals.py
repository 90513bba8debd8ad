"""What is asked of a configuration twice: by preflight before Ray starts, and by the trainer for verl's own command."""

from __future__ import annotations

import pytest
from omegaconf import DictConfig, open_dict

from actfocus_verl.errors import ConfigurationError
from actfocus_verl.integration.trainer import TokenCreditTrainerSync
from actfocus_verl.preflight.registered import check_registered
from tests.config.conftest import compose_config


def configured(*words: str) -> DictConfig:
    """What `train` composes from a command line; only choices of groups cost a composition."""
    keys = [word for word in words if "." in word.partition("=")[0]]
    config = compose_config(*(word for word in words if word not in keys))
    with open_dict(config):
        config.merge_with_dotlist(keys)
    return config


def refusal(*words: str) -> str:
    """The one line that both refuse a command line with."""
    config = configured(*words)
    messages = []
    for check in (check_registered, TokenCreditTrainerSync):
        with pytest.raises(ConfigurationError) as caught:
            check(config)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    assert "\n" not in messages[0]
    return messages[0]
