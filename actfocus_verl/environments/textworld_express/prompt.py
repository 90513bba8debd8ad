"""What the model is told about a game: the package's texts, framed in our words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from actfocus_verl.environments.answers import action_rules
from actfocus_verl.environments.settings import PAPER, Limits


def system_prompt(task: str, limits: Limits) -> str:
    """Task, commands, limits. The paper's form leaves out what is rewarded."""
    reward = "" if limits.prompts == PAPER else " The rewards of a game add up to 1 when it is solved."
    return (
        f"You play a text game. {one_line(task)}\n"
        f"Actions: one of the commands that are listed, to the letter. {action_rules(limits)}{reward}"
    )


def render(told: Mapping[str, Any], commands: Sequence[str]) -> str:
    """What the last command led to, the surroundings where that did not say them, the inventory, the commands."""
    happened, around, held = (one_line(told[key]) for key in ("observation", "look", "inventory"))
    lines = [happened, around if around != happened else "", held, f"Commands: {', '.join(commands)}"]
    return "\n".join(filter(None, lines))


def one_line(text: str) -> str:
    """The text with single spaces."""
    return " ".join(text.split())
