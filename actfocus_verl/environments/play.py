"""A person plays a world in the terminal and reads exactly what a model would read."""

from __future__ import annotations

import math
from collections.abc import Callable

from actfocus_verl.environments.answers import ACTION_SEPARATOR
from actfocus_verl.environments.base import Observation, World, observe
from actfocus_verl.environments.protocol import PlayedTurns


def play(world: World, *, read: Callable[[], str | None], write: Callable[[str], object]) -> float:
    """Play `world`, which must be fresh, to its end; returns the episode's return.

    read: the actions of one turn, joined by the separator, or None to give up. write: shows a text.
    """
    limits = world.limits
    write(f"{world.system_prompt()}\n\n")
    turns = PlayedTurns(world)
    while not turns.over:
        write(f"{_shown(turns.message())}\n")
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
    write(f"\n{_shown(observe(world))}\n{solved}; return {episode_return:g}{known}\n")
    return episode_return


def _shown(observation: Observation) -> str:
    """The text, and how many images a terminal cannot show."""
    images = len(observation.images)
    return f"{observation.text}\n[{images} image{'s' * (images > 1)}]" if images else observation.text
