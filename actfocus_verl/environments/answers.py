"""The actions of a reply: how they are joined, and how a system prompt says so."""

from __future__ import annotations

from collections.abc import Sequence

from actfocus_verl.environments.settings import PAPER, Limits

ACTION_SEPARATOR = "||"


def join_actions(actions: Sequence[str]) -> str:
    """The actions of one reply, as its answer holds them."""
    return f" {ACTION_SEPARATOR} ".join(actions)


def action_rules(limits: Limits) -> str:
    """The sentence of a system prompt that says how many actions there may be and how to join them.

    The paper's prompts tell neither how many a turn may hold nor how many turns there are.
    """
    several = limits.max_actions_per_turn > 1
    if limits.prompts == PAPER:
        joined = f", joined by ` {ACTION_SEPARATOR} `" if several else ""
        return f"You have up to {limits.max_actions_per_episode} actions{joined}."
    per_turn = f"up to {limits.max_actions_per_turn} actions" if several else "1 action"
    join = f", joined by ` {ACTION_SEPARATOR} `" if several else ""
    episode = f"An episode has {limits.max_turns} turns and {limits.max_actions_per_episode} actions."
    return f"Answer with {per_turn} a turn{join}. {episode}"
