"""What the model is told about a room: the package's texts, framed in our words."""

from __future__ import annotations

from collections.abc import Sequence

from actfocus_verl.environments.answers import action_rules
from actfocus_verl.environments.settings import PAPER, Limits


def system_prompt(task: str, limits: Limits) -> str:
    """Task, commands, limits. The paper's form leaves out how appliances work and what is rewarded."""
    rules = "" if limits.prompts == PAPER else _RULES
    return (
        f"You act in a room of a house, in text. Your task is to: {task}.\n"
        f"Actions: one of the commands that are listed, to the letter. {action_rules(limits)}{rules}"
    )


_RULES = (
    " You carry one thing at a time, and see what is in a closed receptacle once it is open. A sink cleans, a microwave"
    " heats and a fridge cools what you carry to it. To look at a thing under a lamp, carry it there and use the lamp."
    " Doing the task ends the episode with reward 1."
)


def render(feedback: str, task: str, commands: Sequence[str]) -> str:
    """What the last command led to, the task, the commands."""
    told = feedback.removeprefix("-= Welcome to TextWorld, ALFRED! =-").partition("Your task is to:")[0]
    seen = " ".join(told.split())
    return f"{seen}\nYour task is to: {task}.\nCommands: {', '.join(commands)}"
