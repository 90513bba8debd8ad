"""A slow world plays in a thread: nobody waits for it who does not have to."""

from __future__ import annotations

import asyncio
import threading

import pytest

from actfocus_verl.environments import StepResult, World
from actfocus_verl.environments.settings import WorldConfig
from actfocus_verl.rollout import Episode, Trajectory, beside_loop
from actfocus_verl.worlds import OraclePolicy, byte_codec

EACH = 16
SECONDS = 60
"""Nobody waits as long unless something is wrong."""
_all_fast_are_over = threading.Event()


class Counter(World):
    """Over after three steps."""

    configs = {"default": WorldConfig(max_turns=3, max_actions_per_turn=1, max_turn_tokens=200)}

    def __init__(self) -> None:
        super().__init__(preset="default", split="train", index=0, limits=self.configs["default"].limits())
        self.steps = 0
        self.threads: set[int] = set()

    @classmethod
    def create(cls, config, *, preset, split, index, episode_seed):
        return cls()

    def system_prompt(self):
        return "Count."

    def render(self):
        return f"{self.steps}."

    def parse_action(self, text):
        return 1 if text == "on" else None

    def oracle(self):
        return ["on"]

    def step(self, action):
        self.threads.add(threading.get_ident())
        self.steps += action
        return StepResult(reward=1.0, done=self.done, success=self.success)

    @property
    def done(self):
        return self.steps >= 3

    success = done


class Waiting(Counter):
    """A step takes until every episode of the other world is over."""

    slow = True

    def step(self, action):
        assert _all_fast_are_over.wait(SECONDS), "the event loop stood still"
        return super().step(action)


async def play(world: Counter) -> Trajectory:
    codec = byte_codec()
    episode = Episode(world, codec, max_context_tokens=100_000)
    return await episode.play(OraclePolicy(world, codec))


def test_sixteen_slow_episodes_do_not_stall_sixteen_fast_ones() -> None:
    _all_fast_are_over.clear()
    worlds = [Waiting() for _ in range(EACH)], [Counter() for _ in range(EACH)]

    async def everything() -> list[Trajectory]:
        slow = [asyncio.create_task(play(world)) for world in worlds[0]]
        await asyncio.sleep(0)  # they have begun
        fast = await asyncio.gather(*(play(world) for world in worlds[1]))
        assert not any(task.done() for task in slow)
        _all_fast_are_over.set()
        return [*fast, *await asyncio.gather(*slow)]

    played = asyncio.run(everything())
    assert [episode.success for episode in played] == [True] * 2 * EACH
    assert [episode.turn_rewards for episode in played] == [[1.0] * 3] * 2 * EACH
    here = threading.get_ident()
    assert all(world.threads == {here} for world in worlds[1])
    assert all(here not in world.threads for world in worlds[0])


def test_errors_of_a_slow_world_come_out() -> None:
    def fail() -> None:
        raise ValueError("no such board")

    for slow in (True, False):
        with pytest.raises(ValueError, match="no such board"):
            asyncio.run(beside_loop(slow, fail))
