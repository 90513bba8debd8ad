"""Everything about Sudoku that a preset sets and a user may override."""

from __future__ import annotations

from dataclasses import dataclass

from actfocus_verl.checks import require_integer, require_number
from actfocus_verl.environments.settings import WorldConfig
from actfocus_verl.environments.sudoku.rules import Rewards
from actfocus_verl.errors import ConfigurationError

DEFAULT_BLANKS = {4: 6, 9: 8}
"""By size. On 4x4 the paper's; on 9x9 what the default limits can solve, the hardest stratum of `clean` included."""

BLANKS_SPREAD = 2
"""`clean` cycles through `blanks` - 2 to `blanks` + 2 blank cells."""

_LEAST_BLANKS, _MOST_BLANKS = 4, {4: 9, 9: 45}
"""By size. Beyond, a split of `clean` has no boards, or boards of one solution are too rare to be drawn."""

_LARGEST_REWARD = 1000.0


@dataclass(frozen=True, kw_only=True)
class SudokuConfig(WorldConfig):
    """size: cells a side, 4 or 9. blanks: cells to fill, of `clean` the mean number; None: `DEFAULT_BLANKS`.

    max_steps: moves after which the grid is closed. *_reward: see `rules.Rewards`.
    """

    size: int = 4
    blanks: int | None = None
    max_steps: int = 16
    correct_reward: float = 1.0
    legal_reward: float = 0.5
    invalid_reward: float = -0.1
    solved_reward: float = 10.0
    max_turns: int = 8
    max_actions_per_turn: int = 2
    max_actions_per_episode: int = 10
    max_words: int = 150
    max_turn_tokens: int = 400

    def __post_init__(self) -> None:
        if not isinstance(self.size, int) or self.size not in DEFAULT_BLANKS:
            raise ConfigurationError("env.size", self.size, "must be 4 or 9", "Set env.size to 4 or 9")
        require_integer("env.blanks", self.blank_cells, low=_LEAST_BLANKS, high=_MOST_BLANKS[self.size])
        require_integer("env.max_steps", self.max_steps, low=1)
        require_number("env.correct_reward", self.correct_reward, low=0.0, high=_LARGEST_REWARD)
        require_number("env.legal_reward", self.legal_reward, low=0.0, high=self.correct_reward)
        require_number("env.invalid_reward", self.invalid_reward, low=-_LARGEST_REWARD, high=0.0)
        require_number("env.solved_reward", self.solved_reward, low=0.0, high=_LARGEST_REWARD)
        super().__post_init__()

    @property
    def blank_cells(self) -> int:
        """`blanks`, or the size's default."""
        return DEFAULT_BLANKS[self.size] if self.blanks is None else self.blanks

    @property
    def actions(self) -> int:
        """Actions that the limits of an episode allow."""
        return min(self.max_actions_per_episode, self.max_turns * self.max_actions_per_turn)

    def rewards(self) -> Rewards:
        """What a move pays."""
        return Rewards(self.correct_reward, self.legal_reward, self.invalid_reward, self.solved_reward)


PRESETS: dict[str, SudokuConfig] = {"clean": SudokuConfig(), "ragen": SudokuConfig().with_paper_protocol()}
