"""The turn protocol all worlds share: what frames the state in a user message.

A message holds numbers and the world's own text only, never a word that a model wrote.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from actfocus_verl.checks import finite_number
from actfocus_verl.environments.answers import action_rules as action_rules  # worlds written for 0.1 find it here
from actfocus_verl.environments.base import Observation, World, observe
from actfocus_verl.environments.settings import FULL, Limits
from actfocus_verl.errors import ConfigurationError

_NOTHING_DONE = "Your last reply held no valid action, so nothing has changed. Try once more."
_AFTERWARDS = "What your reply to this message leads to is known already:"
_NO_ACTION = "The reply holds no valid action, so nothing changes."


def turn_message(
    world: World, *, turn: int, actions_left: int, last_reward: float | None = None, acted: bool = True
) -> Observation:
    """The user message that opens a turn.

    turn: number of this turn, from 1. actions_left: actions the episode may still execute.
    last_reward: reward of the turn before as it is shown (see `PlayedTurns.message`); None on the first turn.
    acted: whether the turn before held a valid action; the paper's prompts say so where it held none.
    """
    limits = world.limits
    reward = "" if last_reward is None else f"Reward: {last_reward:g}\n"
    state = observe(world)
    notice = "" if acted or limits.prompts == FULL else f"{_NOTHING_DONE}\n"
    text = f"{reward}Turn {turn}\n{state.text}\n{notice}Actions left: {actions_left}. {_form(limits)}"
    return Observation(text, state.images)


def _form(limits: Limits) -> str:
    form = "<think> ... </think> <answer> ... </answer>"
    if limits.prompts == FULL:
        return f"Reply: {form} in at most {limits.max_words} words."
    return f"Reply with {form} and nothing else, in at most {limits.max_words} words."


@dataclass(frozen=True)
class TurnOutcome:
    """What a turn did.

    reward: penalty included. executed: actions. valid: whether all kept actions were valid, and at least one was kept.
    earned: the reward without the penalty.
    """

    reward: float
    executed: int
    valid: bool
    earned: float


class RewardError(ConfigurationError):
    """A world gave something as a reward that is not a finite number. given: its text."""

    def __init__(self, world: World, reward: object) -> None:
        self.given = repr(reward)
        super().__init__(
            "env.name",
            world.name,
            f"step gave the reward {self.given}, which is not a finite number",
            "Let the world's step return a number",
        )


def execute_turn(world: World, actions: Sequence[str], *, actions_left: int) -> TurnOutcome:
    """Execute the actions of one reply, an empty sequence standing for a reply that does not parse.

    At most `max_actions_per_turn` actions are kept, the rest is ignored free of charge. Of those kept, the valid ones
    are executed in order, and an invalid one is skipped (the paper's code base does the same) until the world ends or
    the episode's actions are used up. The turn costs `format_penalty` once when nothing is kept or one kept is invalid.

    Raises RewardError when the world's reward is no finite number.
    """
    kept = [world.parse_action(text) for text in actions[: world.limits.max_actions_per_turn]]
    valid = bool(kept) and None not in kept
    reward, earned, executed = 0.0 if valid else world.limits.format_penalty, 0.0, 0
    for action in kept:
        if action is None:
            continue
        if world.done or executed == actions_left:
            break
        given = world.step(action).reward
        gained = finite_number(given)
        if gained is None:
            raise RewardError(world, given)
        reward += gained
        earned += gained
        executed += 1
    return TurnOutcome(reward, executed, valid, earned)


AnyWorld = TypeVar("AnyWorld", bound=World)


class Played(Generic[AnyWorld]):
    """What was played in `world`, which must be fresh, and whether there is a next turn.

    rewards: of each turn, penalty included. actions: executed in all; in a tool world, calls.
    """

    def __init__(self, world: AnyWorld) -> None:
        self._world = world
        self.rewards: list[float] = []
        self.actions = 0

    @property
    def actions_left(self) -> int:
        """Actions the episode may still execute."""
        return self._world.limits.max_actions_per_episode - self.actions

    @property
    def over(self) -> bool:
        """Whether the world has ended, or its turns or actions are used up."""
        return self._world.done or self.actions_left <= 0 or len(self.rewards) >= self._world.limits.max_turns


class PlayedTurns(Played[World]):
    """The turns that were played in a world, and what the next one is told."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._last: TurnOutcome | None = None

    def message(self) -> Observation:
        """The user message that opens the next turn, with the images of the state.

        It shows the reward of the last turn, in the paper's prompts without the penalty.
        """
        last, full = self._last, self._world.limits.prompts == FULL
        return turn_message(
            self._world,
            turn=len(self.rewards) + 1,
            actions_left=self.actions_left,
            last_reward=None if last is None else last.reward if full else last.earned,
            acted=last is None or last.executed > 0,
        )

    def feedback(self, *, over: bool) -> Observation:
        """What is known of the last turn once it has been played: reward, whether it acted, the state it led to.

        over: whether it ended the episode, whose outcome is told as well.
        """
        assert self._last is not None, "no turn has been played"
        state = observe(self._world)
        lines = [f"Reward: {self._last.reward:g}", state.text]
        if not self._last.executed:
            lines.insert(1, _NO_ACTION)
        if over:
            ended = "succeeded" if self._world.success else "failed"
            lines.append(f"The episode {ended} with a return of {sum(self.rewards):g}.")
        return Observation("\n".join([_AFTERWARDS, *lines]), state.images)

    def act(self, actions: Sequence[str]) -> TurnOutcome:
        """Execute the actions of one reply, as `execute_turn` says."""
        outcome = execute_turn(self._world, actions, actions_left=self.actions_left)
        self._last = outcome
        self.actions += outcome.executed
        self.rewards.append(outcome.reward)
        return outcome
