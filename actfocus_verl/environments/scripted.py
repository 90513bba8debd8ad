"""Scripted play with visible reasoning: what the tiny policy of a world is first taught.

The reasoning describes the state. In `loose` demonstrations it stops there, so the decision is made by the action
tokens; in `coupled` ones it ends by naming the actions the answer then repeats, so the decision is made by the
reasoning; in `mixed` ones every second reply does, on the average. A description must not name an action: only then
does a coupled reply name one before its answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeVar

import numpy as np

from actfocus_verl.checks import require_choice, require_number
from actfocus_verl.environments.answers import join_actions

Coupling = Literal["loose", "coupled", "mixed"]
COUPLINGS: Final[tuple[Coupling, ...]] = ("loose", "coupled", "mixed")

HABIT_CHANCE: Final = 0.8
"""Chance that a mistake is the player's habit. A fault with a direction is what reinforcement learning can mend within
minutes; mistakes drawn uniformly leave a policy that only has to become more certain."""

T = TypeVar("T")


def mistake(rng: np.random.Generator, habit: T, choices: Sequence[T]) -> T:
    """What a player without a thought does: mostly its habit, else any of the choices."""
    return habit if rng.random() < HABIT_CHANCE else choices[int(rng.integers(len(choices)))]


def bearing(difference: int, ahead: str, behind: str) -> str:
    """Which way a coordinate goes to become so much larger, in the words for either way."""
    if difference == 0:
        return "level"
    return ahead if difference > 0 else behind


@dataclass(frozen=True)
class ScriptedPlayer:
    """How a world is played by a script, well or badly.

    plan: (world, rng, skill) -> the texts of the actions of one turn, at least one, all valid; `skill` in [0, 1] is the
    chance that an action is the best one. describe: world -> sentences about its state, in words of the world.
    skill: what the tiny policy is taught with, by coupling; `mixed`, if it is missing, has the mean of the others.
    episodes: how many demonstrations it is shown, batch_size of them an update with this learning_rate: a world whose
    state takes more reading needs more or larger updates.
    copied: a pattern, without capturing groups, of what a good reply repeats to the letter: each is one token of the
    tiny policy. learn_pages: whether it learns to predict the world's messages as well as the replies, which teaches it
    to look things up where they repeat each other. rope_theta: of its network; higher where it looks further back.
    induction: whether its network starts with a pair of heads that repeat what they have read, which takes two layers
    and a high rope_theta: for worlds that are played with names it was not taught.
    """

    plan: Callable[[Any, np.random.Generator, float], Sequence[str]]
    describe: Callable[[Any], str]
    skill: Mapping[str, float]
    episodes: int = 2600
    batch_size: int = 2
    learning_rate: float = 1.2e-3
    copied: str | None = None
    learn_pages: bool = False
    rope_theta: float = 10_000.0
    induction: bool = False

    def taught_skill(self, coupling: str) -> float:
        """What the tiny policy is taught with. Raises ConfigurationError for an unknown coupling."""
        require_choice("coupling", coupling, choices=COUPLINGS)
        if coupling in self.skill:
            return self.skill[coupling]
        return sum(self.skill.values()) / len(self.skill)

    def reply(
        self, world: Any, rng: np.random.Generator, *, coupling: str = "loose", skill: float | None = None
    ) -> str:
        """One reply to the present state of `world`, which is left as it is. skill: None for the player's own."""
        own = self.taught_skill(coupling)
        chance = own if skill is None else skill
        require_number("skill", chance, low=0.0, high=1.0)
        actions = self.plan(world, rng, chance)
        reasoning = self.describe(world)
        if coupling == "coupled" or (coupling == "mixed" and rng.random() < 0.5):
            reasoning += f" So I choose {' then '.join(actions)}."
        return f"<think> {reasoning} </think> <answer> {join_actions(actions)} </answer>"


def random_player(actions: Sequence[str], describe: Callable[[Any], str]) -> ScriptedPlayer:
    """Takes one of `actions` at random, whatever its skill; teaches a tiny policy the form of a reply and no play."""

    def plan(world: Any, rng: np.random.Generator, skill: float) -> list[str]:
        return [actions[int(rng.integers(len(actions)))]]

    return ScriptedPlayer(plan, describe, skill=dict.fromkeys(COUPLINGS, 0.0), episodes=600)
