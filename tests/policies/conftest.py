"""A policy so small that it is built in seconds: it has learned nothing, but it is whole."""

import pytest

from actfocus_verl.policies import TinyPolicyConfig, build_tiny_policy


@pytest.fixture(scope="session")
def micro_config():
    size = {"hidden_size": 32, "heads": 1, "layers": 1, "intermediate_size": 32, "vocab_size": 360}
    return TinyPolicyConfig(episodes=12, batch_size=4, evaluation_episodes=0, **size)


@pytest.fixture(scope="session")
def micro_folder(micro_config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("micro") / "policy"
    build_tiny_policy(micro_config, folder)
    return folder
