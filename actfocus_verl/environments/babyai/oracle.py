"""The package's own bot as oracle: what it would do from the present state to the end."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from actfocus_verl.environments.adapters.base import require_package
from actfocus_verl.environments.babyai.levels import new_game

_LONGEST = 1000


@lru_cache(maxsize=16_384)
def bot_plan(level: str, seed: int, taken: tuple[int, ...]) -> tuple[int, ...]:
    """The package's actions with which its bot solves the board after the actions `taken`; empty where it cannot.

    The bot knows what it has seen on the way, and undoes what led away from its plan. It gives up once a box has been
    opened, and fails in some other states that it never brings about itself.
    """
    bot_module = require_package("minigrid.utils.baby_ai_bot", extra="babyai")
    game = new_game(level, seed)
    bot = bot_module.BabyAIBot(game)
    try:
        return _play(game, bot, taken)
    except (AssertionError, AttributeError, IndexError, TypeError, bot_module.DisappearedBoxError):
        return ()


def _play(game: object, bot: object, taken: Sequence[int]) -> tuple[int, ...]:
    plan: list[int] = []
    suggested = bot.replan()  # type: ignore[attr-defined]
    while len(plan) < _LONGEST:
        number = len(plan)
        action = taken[number] if number < len(taken) else int(suggested)
        plan.append(action)
        _, reward, over, *_ = game.step(action)  # type: ignore[attr-defined]
        if over:
            return tuple(plan[len(taken) :]) if reward > 0 else ()
        suggested = bot.replan(action)  # type: ignore[attr-defined]
    return ()
