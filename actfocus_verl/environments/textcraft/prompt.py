"""What the model is told about a task: our own words around the package's recipes."""

from __future__ import annotations

from collections.abc import Mapping

from actfocus_verl.environments.answers import action_rules
from actfocus_verl.environments.settings import PAPER, Limits
from actfocus_verl.environments.textcraft.tasks import Task

_FAILURES = (
    ("Could not find enough items", "you do not hold enough for that"),
    ("Could not find a valid recipe", "there is no such recipe"),
    ("Could not find ", "that cannot be fetched"),
)


def system_prompt(task: Task, limits: Limits) -> str:
    """Task, rules, limits, recipes. The paper's form leaves out how groups work and what is rewarded."""
    rules = "" if limits.prompts == PAPER else _RULES
    recipes = "\n".join(task.shown)
    return (
        "You craft items. `get <amount> <item>` fetches what no recipe makes, such as ores, logs or plants; "
        "`craft <amount> <item> using <amount> <item>, ...` follows one of the recipes below, to the letter.\n"
        f"{rules}{action_rules(limits)}\nRecipes:\n{recipes}\nGoal: craft {task.goal}."
    )


_RULES = (
    "Where a recipe asks for a group like planks, name an item of it that you hold, like oak planks. A recipe is "
    "followed once a command. Crafting the goal ends the episode with reward 1.\n"
)


def render(task: Task, inventory: Mapping[str, int], result: str) -> str:
    """Goal, inventory in the order in which it came, and what came of the last command."""
    held = ", ".join(f"{amount} {item}" for item, amount in inventory.items() if amount) or "nothing"
    told = f"Last command: {result}.\n" if result else ""
    return f"{told}Goal: craft {task.goal}. You hold: {held}."


def result_of(observation: str) -> str:
    """What the package answers to a command, without the names that a player wrote in it."""
    for beginning, told in _FAILURES:
        if observation.startswith(beginning):
            return told
    return observation.replace("minecraft:", "").replace("_", " ").lower()
