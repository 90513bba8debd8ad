"""gymnasium's toy-text environments, and others with numbered actions and a text rendering."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from actfocus_verl.environments.adapters.base import PRESET, AdaptedWorld, AdapterConfig, Board, require_package
from actfocus_verl.environments.answers import action_rules
from actfocus_verl.environments.base import Action, StepResult
from actfocus_verl.errors import ConfigurationError


@dataclass(frozen=True)
class _Task:
    """What is known of a task. describe: (environment, observation) -> the state beside the drawing, or instead of it.

    lost_by_reward: its end is a success only when the last reward is positive.
    """

    goal: str
    actions: tuple[str, ...]
    describe: Callable[[Any, Any], str] | None = None
    drawn: bool = True
    lost_by_reward: bool = True


def _describe_taxi(env: Any, observation: int) -> str:
    row, column, passenger, destination = env.unwrapped.decode(observation)
    where = (*"RGYB", "in the taxi")[passenger]
    return f"Taxi: ({row}, {column}). Passenger: {where}. Destination: {'RGYB'[destination]}."


def _describe_blackjack(env: Any, observation: tuple[int, int, int]) -> str:
    total, dealer, usable_ace = map(int, observation)
    ace = "an ace counts 11" if usable_ace else "no ace counts 11"
    return f"Your sum: {total}, {ace}. The dealer shows {dealer}."


_LAKE = _Task(
    "Cross the frozen lake from S to G. F ice, H hole, x you. The ice is slippery: a move may go to either side. "
    "The goal gives reward 1, a hole ends the episode.",
    ("Left", "Down", "Right", "Up"),
)
_CLIFF = _Task(
    "Walk to T. o ground, C cliff, x you. A step costs 1; the cliff costs 100 and sends you back to the start.",
    ("Up", "Right", "Down", "Left"),
    lost_by_reward=False,
)
_TAXI = _Task(
    "Drive to the passenger, pick up, drive to the destination, drop off. x taxi; R, G, Y, B places; | wall, : way. "
    "Taxi is (row, column). A step costs 1, a wrong Pickup or Dropoff 10; the delivery gives 20.",
    ("South", "North", "East", "West", "Pickup", "Dropoff"),
    describe=_describe_taxi,
)
_BLACKJACK = _Task(
    "Play Blackjack: get closer to 21 than the dealer, but not above. Winning gives reward 1, losing -1.",
    ("Stick", "Hit"),
    describe=_describe_blackjack,
    drawn=False,
)
_TASKS = {
    "FrozenLake": _LAKE,
    "FrozenLake8x8": _LAKE,
    "CliffWalking": _CLIFF,
    "CliffWalkingSlippery": replace(_CLIFF, goal=f"{_CLIFF.goal} A move may go to either side."),
    "Taxi": _TAXI,
    "Blackjack": _BLACKJACK,
}
"""By name without version."""

_MARKED = re.compile(r"\x1b\[4[0-9]m.\x1b\[0m")  # a background colour marks where the player is
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_LAST_ACTION = re.compile(r"\s*\(\w+\)\s*")


class GymnasiumToyText(AdaptedWorld):
    """One episode of `gymnasium.make(task)`; its rewards are the environment's."""

    name = "gymnasium_toy_text"
    configs: ClassVar = {
        PRESET: AdapterConfig(
            task="FrozenLake-v1",
            max_turns=8,
            max_actions_per_turn=4,
            max_actions_per_episode=32,
            max_words=120,
            max_turn_tokens=400,
        )
    }

    def __init__(self, config: AdapterConfig, board: Board, episode_seed: int) -> None:
        super().__init__(config, board, episode_seed)
        known = _TASKS.get(config.task.rpartition("-v")[0])
        self._env = _make(config.task, drawn=known is None or known.drawn)
        self._task = known or _unknown(config.task, self._env)
        self._actions = {name.lower(): action for action, name in enumerate(self._task.actions)}
        self._observation, _ = self._env.reset(seed=board.seed())
        self.reseed(episode_seed)
        self._begin(self.render())

    def system_prompt(self) -> str:
        return f"{self._task.goal}\nActions: {', '.join(self._task.actions)}. {action_rules(self.limits)}"

    def render(self) -> str:
        lines = [self._task.describe(self._env, self._observation)] if self._task.describe else []
        if self._task.drawn:
            drawing = _COLOUR.sub("", _MARKED.sub("x", self._env.render()))
            lines += [line for line in drawing.split("\n") if line.strip() and not _LAST_ACTION.fullmatch(line)]
        return "\n".join(lines)

    def parse_action(self, text: str) -> int | None:
        """The action of that name, whatever its case and the whitespace around it."""
        return self._actions.get(text.strip().lower())

    def reseed(self, episode_seed: int) -> None:
        self._env.unwrapped.np_random = self.board.randomness(episode_seed)

    def _act(self, action: Action) -> StepResult:
        self._observation, reward, terminated, truncated, _ = self._env.step(action)
        success = bool(terminated and (reward > 0 or not self._task.lost_by_reward))
        return StepResult(reward=float(reward), done=bool(terminated or truncated), success=success)


def _make(task: str, *, drawn: bool) -> Any:
    gymnasium = require_package("gymnasium")
    try:
        return gymnasium.make(task, render_mode="ansi" if drawn else None, disable_env_checker=True)
    except (gymnasium.error.Error, ImportError, TypeError, ValueError) as error:
        raise ConfigurationError("env.task", task, f"gymnasium cannot make it ({error})", "Write its id") from error


def _unknown(task: str, env: Any) -> _Task:
    """A task nothing is known of but its drawing and how many actions it has."""
    count = getattr(env.action_space, "n", None)
    if count is None or "ansi" not in env.metadata.get("render_modes", []):
        problem = "it has no numbered actions, or no text rendering"
        raise ConfigurationError("env.task", task, problem, f"Use one like {', '.join(_TASKS)}")
    return _Task(f"Play {task}.", tuple(map(str, range(int(count)))))
