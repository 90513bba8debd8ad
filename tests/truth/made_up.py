"""Worlds and policies of which it is known where the return is decided."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from actfocus_verl.environments import StepResult, World
from actfocus_verl.environments.settings import WorldConfig
from actfocus_verl.evaluation.sampling import EvaluationError, ReplyRequest
from actfocus_verl.rollout import Reply
from tests.helpers.tokenizer import build_tokenizer

SAYS = "<think> {} </think> <answer> {} </answer><|im_end|>"
LOOSE = (SAYS.format("go", "Left"), SAYS.format("go", "Right"))
"""The action is drawn when it is written."""
COUPLED = (SAYS.format("left", "Left"), SAYS.format("right", "Right"))
"""The reasoning names the move, which the answer repeats."""
CONSTANT = (SAYS.format("go", "Right"),)


@dataclass(frozen=True, kw_only=True)
class CoinConfig(WorldConfig):
    """slip: probability that a move goes the other way."""

    slip: float = 0.0
    max_turns: int = 2


class Coin(World):
    """A point for every move to the right, as many as there are turns."""

    configs: ClassVar = {"default": CoinConfig()}

    @classmethod
    def create(cls, config: CoinConfig, *, preset: str, split: str, index: int, episode_seed: int) -> Coin:
        world = cls(preset=preset, split=split, index=index, limits=config.limits())
        world.slip, world.moves, world.points = config.slip, 0, 0
        world.draws = random.Random(episode_seed)
        return world

    slip: float
    moves: int
    points: int
    draws: random.Random

    def system_prompt(self) -> str:
        return "Actions: Left, Right."

    def render(self) -> str:
        return f"Board {self.index}, points {self.points} after {self.moves} moves."

    def parse_action(self, text: str) -> str | None:
        return text if text in ("Left", "Right") else None

    def step(self, action: str) -> StepResult:
        goes_right = (action == "Right") != (self.draws.random() < self.slip)
        self.moves += 1
        self.points += goes_right
        return StepResult(float(goes_right), self.done, self.success)

    def stratum(self) -> int:
        return 1 + self.index % 2

    def reseed(self, episode_seed: int) -> None:
        self.draws = random.Random(episode_seed)

    @property
    def done(self) -> bool:
        return self.moves >= self.limits.max_turns

    @property
    def success(self) -> bool:
        return self.done and self.points > 0


class Forgetful(Coin):
    """Draws from what no seed decides: it does not replay."""

    _moves_of_all: ClassVar = itertools.count()

    def step(self, action: str) -> StepResult:
        self.points += 2 * next(self._moves_of_all)
        return super().step(action)


class Silent(Coin):
    """Does not say how its randomness is drawn anew."""

    reseed = World.reseed


class LookupEngine:
    """`LocalEngine` of a policy that draws one of its replies, each as likely; it goes on with those that still fit.

    replies: set by the test. sampled: replies so far. stop_after: so many; then the engine fails, or where
    `interrupts` is set, Ctrl-C is pressed.
    """

    replies: ClassVar[Sequence[str]] = LOOSE
    sampled: ClassVar[int] = 0
    stop_after: ClassVar[int | None] = None
    interrupts: ClassVar[bool] = False

    def __init__(self, model: str, **_: Any) -> None:
        tokenizer = build_tokenizer()
        self._replies = [tokenizer.encode(reply, add_special_tokens=False) for reply in self.replies]
        self._header = tokenizer.encode("<|im_start|>assistant\n", add_special_tokens=False)

    def __enter__(self) -> LookupEngine:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    async def sample(self, request: ReplyRequest) -> Reply:
        if self.stop_after is not None and LookupEngine.sampled >= self.stop_after:
            if not self.interrupts:
                raise EvaluationError("the engine stopped")
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.sleep(60)  # is cancelled
        LookupEngine.sampled += 1
        stands = self._after_header(request.prompt_ids)
        fitting = [reply for reply in self._replies if reply[: len(stands)] == stands]
        reply = fitting[np.random.default_rng(request.seed).integers(len(fitting))]
        return Reply(reply[len(stands) :][: request.max_new_tokens])

    def _after_header(self, ids: list[int]) -> list[int]:
        size = len(self._header)
        start = next(at for at in range(len(ids) - size, -1, -1) if ids[at : at + size] == self._header)
        return ids[start + size :]


class LookupServer(LookupEngine):
    """`CompletionServer` of that policy. asked: what it was made with."""

    asked: ClassVar[list[Any]] = []

    def __init__(self, address: str, codec: Any, **settings: Any) -> None:
        super().__init__(address)
        self.asked.append((address, settings))

    async def __aenter__(self) -> LookupServer:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass
