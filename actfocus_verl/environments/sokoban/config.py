"""Everything about Sokoban that a preset sets and a user may override."""

from __future__ import annotations

from dataclasses import dataclass

from actfocus_verl.checks import require_integer, require_number
from actfocus_verl.environments.settings import WorldConfig
from actfocus_verl.environments.sokoban.rules import Rewards

MAX_SIZE = 8
"""Sets of tiles are 64-bit masks."""

_LARGEST_REWARD = 1000.0


@dataclass(frozen=True, kw_only=True)
class SokobanConfig(WorldConfig):
    """size: tiles a side, the wall around included. boxes: as many as targets. The rewards: see `Rewards`."""

    size: int = 6
    boxes: int = 1
    step_reward: float = -0.1
    on_target_reward: float = 1.0
    off_target_reward: float = -1.0
    solved_reward: float = 10.0
    max_turns: int = 5
    max_actions_per_turn: int = 2
    max_actions_per_episode: int = 10
    max_words: int = 100
    max_turn_tokens: int = 400

    def __post_init__(self) -> None:
        require_integer("env.size", self.size, low=5, high=MAX_SIZE)
        require_integer("env.boxes", self.boxes, low=1, high=3)
        require_number("env.step_reward", self.step_reward, low=-_LARGEST_REWARD, high=0.0)
        require_number("env.on_target_reward", self.on_target_reward, low=0.0, high=_LARGEST_REWARD)
        require_number("env.off_target_reward", self.off_target_reward, low=-_LARGEST_REWARD, high=0.0)
        require_number("env.solved_reward", self.solved_reward, low=0.0, high=_LARGEST_REWARD)
        super().__post_init__()

    def rewards(self) -> Rewards:
        """What the actions earn."""
        return Rewards(self.step_reward, self.on_target_reward, self.off_target_reward, self.solved_reward)


PRESETS: dict[str, SokobanConfig] = {"clean": SokobanConfig(), "ragen": SokobanConfig().with_paper_protocol()}
