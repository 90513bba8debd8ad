"""BabyAI as a `World`: a board of the package behind words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from actfocus_verl.environments.answers import join_actions
from actfocus_verl.environments.babyai import prompt
from actfocus_verl.environments.babyai.config import PRESETS, BabyAIConfig
from actfocus_verl.environments.babyai.levels import Board, boards, new_game, state_text
from actfocus_verl.environments.babyai.oracle import bot_plan
from actfocus_verl.environments.babyai.scripted import PLAYER
from actfocus_verl.environments.base import Action, StepResult, World
from actfocus_verl.environments.splits import hex_digest, stable_hash

_ACTIONS = {name: number for number, name in enumerate(prompt.ACTION_NAMES)}
_SIZES = {"train": 1800, "evaluation": 480, "test": 480}


class BabyAI(World):
    """One board of BabyAI; reward 1 when the mission is done, which ends the episode."""

    name = "babyai"
    configs = PRESETS
    split_sizes: ClassVar = dict.fromkeys(PRESETS, _SIZES)
    script = PLAYER

    def __init__(self, board: Board, config: BabyAIConfig, *, preset: str, split: str, index: int) -> None:
        super().__init__(preset=preset, split=split, index=index, limits=config.limits())
        self.board = board
        self.game = new_game(board.level, board.seed)
        self._levels = config.level_names
        self._taken: list[int] = []
        self._plan: tuple[int, ...] | None = None  # the bot's from here on, while it is known
        self._done = False
        self._success = False

    @classmethod
    def create(cls, config: BabyAIConfig, *, preset: str, split: str, index: int, episode_seed: int) -> BabyAI:
        board = boards(config.level_names, split).board(index)
        return cls(board, config, preset=preset, split=split, index=index)

    def system_prompt(self) -> str:
        return prompt.system_prompt(self.limits)

    def render(self) -> str:
        return prompt.render(self.game)

    def parse_action(self, text: str) -> int | None:
        """The action of that name, whatever its case and surplus whitespace."""
        return _ACTIONS.get(" ".join(text.lower().split())) if len(text) < 100 else None

    def step(self, action: Action) -> StepResult:
        if self.done:
            raise RuntimeError("BabyAI.step after the episode ended")
        _, reward, self._done, *_ = self.game.step(action)
        self._taken.append(action)
        self._plan = self._plan[1:] if self._plan and self._plan[0] == action else None
        self._success = self._done and reward > 0
        return StepResult(reward=float(self.success), done=self.done, success=self.success)

    def reseed(self, episode_seed: int) -> None:
        """Nothing is random during play."""

    def anchor(self) -> int:
        return stable_hash(f"{self.name}/{self.board.level}/{self.done}/{state_text(self.game)}/{_progress(self.game)}")

    @property
    def done(self) -> bool:
        return self._done

    @property
    def success(self) -> bool:
        return self._success

    def oracle(self) -> Sequence[str]:
        """The bot's next actions, as many as a turn may hold; where it gives up, one that changes nothing for good."""
        plan = self._bot_plan()[: self.limits.max_actions_per_turn]
        return [prompt.ACTION_NAMES[number] for number in plan] or ["turn left"]

    def _bot_plan(self) -> tuple[int, ...]:
        if self._plan is None:
            self._plan = bot_plan(self.board.level, self.board.seed, tuple(self._taken))
        return self._plan

    def known_answer(self) -> str | None:
        """The bot's next actions; None at the end, and where it gives up."""
        return None if self.done or not self._bot_plan() else join_actions(self.oracle())

    def optimal_return(self) -> float:
        """1, or 0 where the bot takes more actions than an episode has."""
        limits, plan = self.limits, bot_plan(self.board.level, self.board.seed, ())
        most = min(limits.max_turns * limits.max_actions_per_turn, limits.max_actions_per_episode)
        return float(0 < len(plan) <= most)

    def board_hash(self) -> str:
        return hex_digest(f"{self.name}/{self.board.level}/{self.board.canonical}")

    def stratum(self) -> int:
        """The place of the board's level among the levels, from 1."""
        return 1 + self._levels.index(self.board.level)


def _progress(game: object) -> str:
    """Which parts of the mission are done: of missions in several parts, the package remembers it beside the grid."""
    waiting, told = [game.instrs], []  # type: ignore[attr-defined]
    while waiting:
        part = waiting.pop()
        told.append(f"{getattr(part, 'a_done', '')}{getattr(part, 'b_done', '')}")
        waiting += [getattr(part, name) for name in ("instr_a", "instr_b") if hasattr(part, name)]
    return "/".join(told)
