"""What the tests of the two benchmarks share: playing calls without a model."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from actfocus_verl.environments import ToolCall, ToolWorld
from actfocus_verl.environments.tools import PlayedCalls

Player = Callable[[ToolWorld], Sequence[ToolCall]]


def gold(world: ToolWorld) -> list[ToolCall]:
    """The calls of the package's solution for the next reply."""
    read = [json.loads(text) for text in world.oracle()]
    return [ToolCall.read(each["name"], json.dumps(each["arguments"])) for each in read]


def play(world: ToolWorld, player: Player = gold) -> PlayedCalls:
    """Play to the end, the calls of each reply by `player`."""
    played = PlayedCalls(world)
    played.messages()
    while not played.over:
        played.act(player(world))
        played.messages()
    return played
