"""Everything about TextCraft that a preset sets and a user may override."""

from __future__ import annotations

from dataclasses import dataclass

from actfocus_verl.checks import require_integer
from actfocus_verl.environments.settings import WorldConfig

MAX_DEPTH = 4
"""Of the package's recipes: the longest chain of recipes behind an item."""


@dataclass(frozen=True, kw_only=True)
class TextCraftConfig(WorldConfig):
    """min_depth, max_depth: of a goal's recipe tree; 1 is an item made of what can be fetched.

    distractors: recipes shown beside those of the goal's tree, at most.
    """

    min_depth: int = 2
    max_depth: int = MAX_DEPTH
    distractors: int = 10
    max_turns: int = 30
    max_actions_per_turn: int = 1
    max_actions_per_episode: int = 30
    max_words: int = 120
    max_turn_tokens: int = 400

    def __post_init__(self) -> None:
        require_integer("env.min_depth", self.min_depth, low=1, high=MAX_DEPTH)
        require_integer("env.max_depth", self.max_depth, low=self.min_depth, high=MAX_DEPTH)
        require_integer("env.distractors", self.distractors, low=0, high=100)
        super().__post_init__()


PRESETS: dict[str, TextCraftConfig] = {
    "package": TextCraftConfig(),
    "easy": TextCraftConfig(
        min_depth=1,
        max_depth=2,
        distractors=2,
        max_turns=6,
        max_actions_per_turn=3,
        max_actions_per_episode=12,
        max_words=60,
        max_turn_tokens=160,
    ),
}
