"""Refused settings, and what the cache key depends on."""

import subprocess
import sys
from dataclasses import replace

import pytest

from actfocus_verl.environments.frozen_lake import FrozenLake
from actfocus_verl.errors import ConfigurationError
from actfocus_verl.policies import TinyPolicyConfig, cache_key
from actfocus_verl.policies import config as config_module


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ({"preset": "dirty"}, "clean, ragen"),
        ({"coupling": "tight"}, "loose, coupled"),
        ({"skill": 1.5}, "between 0 and 1"),
        ({"learning_rate": -0.1}, "between 0 and 1"),
        ({"seed": -1}, ">= 0"),
        ({"episodes": 0}, ">= 1"),
        ({"vocab_size": 319}, ">= 320"),
        ({"hidden_size": 100}, "160 or 320"),
        ({"evaluation_episodes": -1}, ">= 0"),
        ({"layers": 2.5}, "integer"),
    ],
)
def test_impossible_settings_name_key_value_and_remedy(setting, named):
    with pytest.raises(ConfigurationError) as error:
        TinyPolicyConfig(**setting)
    (key, value), message = next(iter(setting.items())), str(error.value)
    assert message.startswith(f"tiny.{key}={value!r}: ")
    assert named in message
    assert "\n" not in message


def test_an_unknown_world_is_named():
    with pytest.raises(ConfigurationError, match=r"env\.name='chess': unknown world\. Use one of: .*frozen_lake"):
        TinyPolicyConfig(env="chess")


def test_the_world_s_own_values_stand_where_none_is_given():
    loose, coupled = (TinyPolicyConfig(coupling=coupling).resolved() for coupling in ("loose", "coupled"))
    assert (loose.skill, coupled.skill, loose.episodes, loose.batch_size) == (0.5, 0.3, 2600, 2)
    assert TinyPolicyConfig(env="sudoku").resolved().batch_size == 1
    assert TinyPolicyConfig(env="webshop").resolved().learning_rate == 2e-3
    given = TinyPolicyConfig(skill=0.0, episodes=3, batch_size=5, learning_rate=0.0)
    assert given.resolved() == given
    assert cache_key(loose) == cache_key(TinyPolicyConfig())


def test_key_is_readable_and_tells_every_field_apart():
    default = TinyPolicyConfig()
    changes = [
        {"coupling": "coupled"}, {"preset": "ragen"}, {"seed": 1}, {"skill": 0.9}, {"episodes": 100}, {"epochs": 2},
        {"vocab_size": 500}, {"hidden_size": 320}, {"layers": 2}, {"learning_rate": 1e-4}, {"evaluation_episodes": 0},
    ]  # fmt: skip
    keys = [cache_key(default), *(cache_key(replace(default, **change)) for change in changes)]
    assert keys[0].startswith("frozen_lake-clean-loose-")
    assert len(set(keys)) == len(keys)


@pytest.mark.e2e
def test_key_is_the_same_in_another_process():
    program = "from actfocus_verl.policies import *; print(cache_key(TinyPolicyConfig()))"
    environment = {"PYTHONHASHSEED": "1", "PYTHONPATH": ":".join(sys.path)}
    other = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert other.stdout.strip() == cache_key(TinyPolicyConfig())


@pytest.mark.parametrize(
    "change",
    [
        {"describe": lambda world: "Hm."},
        {"copied": "Left|Right"},
        {"learn_pages": True},
        {"rope_theta": 1e6},
        {"induction": True},
    ],
    ids=lambda change: next(iter(change)),
)
def test_key_changes_with_the_scripted_player(monkeypatch, change):
    before = cache_key(TinyPolicyConfig())
    other = replace(FrozenLake.scripted_player(), **change)
    monkeypatch.setattr(FrozenLake, "scripted_player", lambda: other)
    assert cache_key(TinyPolicyConfig()) != before


def test_key_changes_with_the_format_version(monkeypatch):
    before = cache_key(TinyPolicyConfig())
    monkeypatch.setattr(config_module, "FORMAT_VERSION", config_module.FORMAT_VERSION + 1)
    assert cache_key(TinyPolicyConfig()) != before
