"""A person plays a world in the terminal and reads exactly what a model would read."""

from __future__ import annotations

import math
from collections.abc import Callable

from actfocus_verl.environments.base import World
from actfocus_verl.environments.protocol import ACTION_SEPARATOR, execute_turn, turn_message


def play(world: World, *, read: Callable[[], str | None], write: Callable[[str], object]) -> float:
    """Play `world`, which must be fresh, to its end; returns the episode's return.

    read: the actions of one turn, joined by the separator, or None to give up. write: shows a text.
    """
    limits = world.limits
    write(f"{world.system_prompt()}\n\n")
    episode_return, actions, reward = 0.0, 0, None
    for turn in range(1, limits.max_turns + 1):
        left = limits.max_actions_per_episode - actions
        if world.done or left <= 0:
            break
        write(f"{turn_message(world, turn=turn, actions_left=left, last_reward=reward)}\n")
        answer = read()
        if answer is None:
            break
        pieces = [piece.strip() for piece in answer.split(ACTION_SEPARATOR)]
        outcome = execute_turn(world, [piece for piece in pieces if piece], actions_left=left)
        if not outcome.valid:
            write(f"Not valid: the turn costs {limits.format_penalty:g}.\n")
        actions, reward = actions + outcome.executed, outcome.reward
        episode_return += outcome.reward
    solved = "solved" if world.success else "not solved"
    best = world.optimal_return()
    known = "" if math.isnan(best) else f", best possible on average {best:.3g}"
    write(f"\n{world.render()}\n{solved}; return {episode_return:g}{known}\n")
    return episode_return
