"""Scripted play of whole episodes as conversations: a tiny policy's demonstrations.

A conversation holds exactly the messages that `rollout.Episode` would show to a policy that gives the scripted replies.
"""

from __future__ import annotations

from typing import Protocol

from actfocus_verl.environments import PlayedTurns, make_world, scripted_player, split_size
from actfocus_verl.environments.splits import seeded_generator
from actfocus_verl.rollout import parse_reply, require_text

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
    def skill(self) -> float | None: ...


def conversation(config: DemonstrationConfig, episode: int) -> list[Message]:
    """Episode number `episode` on a training board: system, user, assistant, user, assistant, ..., assistant.

    Boards are taken in order, starting over after the last one with other slips and other moves.
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
    player = scripted_player(config.env)
    messages = [_message("system", world.system_prompt())]
    turns = PlayedTurns(world)
    while not turns.over:
        messages.append(_message("user", require_text(world, turns.message())))
        text = player.reply(world, rng, coupling=config.coupling, skill=config.skill)
        messages.append(_message("assistant", text))
        turns.act(parse_reply(text).actions)
    return messages


def _message(role: str, content: str) -> Message:
    return {"role": role, "content": content}
