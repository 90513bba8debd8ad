"""Episodes for tests: a lake without slips and a policy that reads its replies from a list."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from actfocus_verl.environments import World
from actfocus_verl.environments.frozen_lake import FrozenLake
from actfocus_verl.environments.frozen_lake.config import FrozenLakeConfig
from actfocus_verl.environments.frozen_lake.rules import Board
from actfocus_verl.rollout import ChatCodec, Episode, Reply, Trajectory

CORRIDOR = Board(size=4, start=0, goal=3, holes=0)
"""The goal is three moves to the right."""


def dry_lake(board: Board = CORRIDOR, **settings: Any) -> FrozenLake:
    """A lake without slips: what a test expects can be worked out by hand."""
    config = FrozenLakeConfig(**{"success_rate": 1.0, **settings})
    return FrozenLake(board, config, preset="clean", split="train", index=0, episode_seed=0)


class ListPolicy:
    """Plays the given ids one turn after another, cut to the room it is given, and keeps the contexts it saw."""

    def __init__(self, replies: Sequence[Sequence[int]], *, log_probs: bool = True) -> None:
        self._replies = [list(reply) for reply in replies]
        self._log_probs = log_probs
        self.contexts: list[list[int]] = []
        self.sampled: list[list[int]] = []

    async def generate(self, prompt_ids: list[int], *, max_new_tokens: int) -> Reply:
        ids = self._replies[len(self.contexts) % len(self._replies)][:max_new_tokens]
        self.contexts.append(list(prompt_ids))
        self.sampled.append(ids)
        prompt_ids.clear()  # the episode must not depend on what a policy does to its argument
        log_probs = [-0.5 - k for k in range(len(ids))] if self._log_probs else None
        return Reply(ids, log_probs, "stop")


def play(world: World, codec: ChatCodec, policy: ListPolicy, **settings: Any) -> Trajectory:
    """Play an episode to its end."""
    episode = Episode(world, codec, **{"max_context_tokens": 100_000, **settings})
    return asyncio.run(episode.play(policy))
