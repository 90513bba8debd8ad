"""A person plays a world in the terminal and reads exactly what a model would read."""

from __future__ import annotations

import math
from collections.abc import Callable

from actfocus_verl.environments.base import World
from actfocus_verl.environments.protocol import ACTION_SEPARATOR, PlayedTurns


def play(world: World, *, read: Callable[[], str | None], write: Callable[[str], object]) -> float:
    """Play `world`, which must be fresh, to its end; returns the episode's return.

    read: the actions of one turn, joined by the separator, or None to give up. write: shows a text.
    """
    limits = world.limits
    write(f"{world.system_prompt()}\n\n")
    turns = PlayedTurns(world)
    while not turns.over:
        write(f"{turns.message()}\n")
        answer = read()
        if answer is None:
            break
        pieces = [piece.strip() for piece in answer.split(ACTION_SEPARATOR)]
        if not turns.act([piece for piece in pieces if piece]).valid:
            write(f"Not valid: the turn costs {limits.format_penalty:g}.\n")
    episode_return = sum(turns.rewards)
    solved = "solved" if world.success else "not solved"
    best = world.optimal_return()
    known = "" if math.isnan(best) else f", best possible on average {best:.3g}"
    write(f"\n{world.render()}\n{solved}; return {episode_return:g}{known}\n")
    return episode_return
