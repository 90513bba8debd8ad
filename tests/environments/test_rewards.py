"""A world whose reward is no number is named, whoever plays it."""

from __future__ import annotations

import asyncio
import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch

from actfocus_verl.checks import finite_number
from actfocus_verl.environments import execute_turn
from actfocus_verl.environments.frozen_lake import FrozenLake
from actfocus_verl.environments.protocol import RewardError
from actfocus_verl.errors import ConfigurationError
from actfocus_verl.rollout import ChatCodec, Episode
from tests.helpers.episodes import ListPolicy, dry_lake
from tests.helpers.tokenizer import build_tokenizer

NO_NUMBERS = [None, "much", "1.0", b"1", math.nan, math.inf, -math.inf, np.float32("nan"), [1.0], {}, torch.ones(2)]


def paying(reward: Any, monkeypatch: pytest.MonkeyPatch) -> FrozenLake:
    world, step = dry_lake(), FrozenLake.step
    monkeypatch.setattr(FrozenLake, "step", lambda self, action: dataclasses.replace(step(self, action), reward=reward))
    return world


@pytest.mark.parametrize("reward", NO_NUMBERS, ids=repr)
def test_what_is_no_number(reward: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert finite_number(reward) is None
    with pytest.raises(RewardError) as caught:
        execute_turn(paying(reward, monkeypatch), ["Right"], actions_left=3)
    assert str(caught.value) == (
        f"env.name='frozen_lake': step gave the reward {reward!r}, which is not a finite number. "
        "Let the world's step return a number"
    )
    assert caught.value.given == repr(reward)


@pytest.mark.parametrize("reward", [1, True, 0.5, np.float32(0.5), np.int64(2), torch.tensor(0.25)], ids=repr)
def test_what_is_one(reward: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = execute_turn(paying(reward, monkeypatch), ["Right", "Right"], actions_left=3)
    assert outcome.reward == 2 * float(reward)
    assert type(outcome.reward) is float


def test_an_episode_ends_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = build_tokenizer()
    policy = ListPolicy([tokenizer.encode("<think>a</think><answer>Right</answer><|im_end|>")])
    episode = Episode(paying(None, monkeypatch), ChatCodec(tokenizer), max_context_tokens=10_000)
    with pytest.raises(ConfigurationError, match=r"frozen_lake.*the reward None"):
        asyncio.run(episode.play(policy))


@pytest.mark.parametrize("penalty", [-math.inf, math.nan])
def test_a_penalty_is_a_number(penalty: float) -> None:
    with pytest.raises(ConfigurationError, match=r"env\.format_penalty"):
        dataclasses.replace(dry_lake().limits, format_penalty=penalty)
