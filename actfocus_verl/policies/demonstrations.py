"""Scripted play of whole episodes as conversations: what a tiny policy is first taught.

A conversation holds exactly the messages that `rollout.Episode` would show to a policy that gives the scripted replies.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from actfocus_verl.environments import World, make_world, split_size, turn_message
from actfocus_verl.environments.frozen_lake import scripted as frozen_lake
from actfocus_verl.environments.splits import seeded_generator
from actfocus_verl.errors import ConfigurationError
from actfocus_verl.rollout import parse_reply

COUPLINGS: Final[tuple[str, ...]] = frozen_lake.COUPLINGS

Message = dict[str, str]


class DemonstrationConfig(Protocol):
    """The part of a `TinyPolicyConfig` that decides its demonstrations."""

    @property
    def env(self) -> str: ...
    @property
    def preset(self) -> str: ...
    @property
    def coupling(self) -> str: ...
    @property
    def seed(self) -> int: ...
    @property
    def skill(self) -> float: ...


@dataclass(frozen=True)
class Demonstrator:
    """A world's scripted player.

    reply: (world, rng, coupling=, skill=) -> the reply to the present state.
    describe: world -> what a reply's reasoning says about the state, sentence by sentence.
    """

    reply: Callable[..., str]
    describe: Callable[[Any], str]


_TWO_MOVES: Final = 0.5
"""Chance that a demonstrated turn of FrozenLake has two moves: fewer than is best, which is left to be found."""

_HABIT: Final = 0.8
"""Chance that a mistake is the one habitual move. A fault with a direction is what reinforcement learning can mend
within minutes; mistakes drawn uniformly leave a policy that only has to become more certain."""


def _frozen_lake_reply(world: Any, rng: Any, *, coupling: Any, skill: float) -> str:
    return frozen_lake.demonstrate(world, rng, coupling=coupling, skill=skill, two_moves=_TWO_MOVES, habit=_HABIT)


_DEMONSTRATORS: Final = {"frozen_lake": Demonstrator(_frozen_lake_reply, frozen_lake.describe)}


def demonstrator_of(env: str) -> Demonstrator:
    """The scripted player of world `env`. Raises ConfigurationError when the world has none."""
    if env not in _DEMONSTRATORS:
        known = ", ".join(sorted(_DEMONSTRATORS))
        raise ConfigurationError("tiny.env", env, "no scripted player demonstrates this world", f"Use one of: {known}")
    return _DEMONSTRATORS[env]


def conversation(config: DemonstrationConfig, episode: int) -> list[Message]:
    """Episode number `episode` on a training board: system, user, assistant, user, assistant, ..., assistant.

    Boards are taken in order and begin anew after the last one, with other slips and other moves.
    """
    boards = split_size(config.env, preset=config.preset, split="train")
    world = make_world(
        config.env,
        preset=config.preset,
        split="train",
        index=episode if boards is None else episode % boards,
        episode_seed=episode,
    )
    rng = seeded_generator("demonstration", config.env, config.preset, config.seed, episode)
    reply = demonstrator_of(config.env).reply
    messages = [_message("system", world.system_prompt())]
    limits, actions, last_reward = world.limits, 0, None
    for turn in range(1, limits.max_turns + 1):
        left = limits.max_actions_per_episode - actions
        messages.append(_message("user", turn_message(world, turn=turn, actions_left=left, last_reward=last_reward)))
        text = reply(world, rng, coupling=config.coupling, skill=config.skill)
        messages.append(_message("assistant", text))
        executed, last_reward = _execute(world, text, left)
        actions += executed
        if world.done or actions >= limits.max_actions_per_episode:
            break
    return messages


def _execute(world: World, reply: str, actions_left: int) -> tuple[int, float]:
    """Perform the reply's actions, all of them valid: how many were executed, and their reward."""
    executed, reward = 0, 0.0
    for text in parse_reply(reply).actions[: min(world.limits.max_actions_per_turn, actions_left)]:
        if world.done:
            break
        reward += world.step(world.parse_action(text)).reward
        executed += 1
    return executed, reward


def _message(role: str, content: str) -> Message:
    return {"role": role, "content": content}
