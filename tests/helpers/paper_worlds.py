"""Small boards under the paper's protocol, without slips: what a test expects can be worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from actfocus_verl.environments import PlayedTurns, World
from actfocus_verl.environments.frozen_lake import FrozenLake
from actfocus_verl.environments.frozen_lake.config import FrozenLakeConfig
from actfocus_verl.environments.frozen_lake.rules import Board as Lake
from actfocus_verl.environments.sokoban import Sokoban
from actfocus_verl.environments.sokoban.config import SokobanConfig
from actfocus_verl.environments.sudoku import Sudoku
from actfocus_verl.environments.sudoku.config import SudokuConfig
from actfocus_verl.environments.sudoku.rules import Board as Grid
from actfocus_verl.rollout import parse_reply
from tests.environments.sokoban.slow import to_board

WAREHOUSE = ("######", "#_P__#", "#_X__#", "#__O_#", "#__#_#", "######")
LAKE = ("P_O_", "____", "O__G", "____")
GIVENS = (0, 2, 3, 4, 3, 4, 1, 2, 0, 0, 4, 3, 4, 3, 0, 1)
SOLUTION = (1, 2, 3, 4, 3, 4, 1, 2, 2, 1, 4, 3, 4, 3, 2, 1)

CLEAN_PROTOCOL = {"prompts": "full", "reply": "strict", "prefill": "none"}


def paper_world(name: str) -> World:
    """The warehouse, the lake or the grid above."""
    board: dict[str, Any] = {"preset": "ragen", "split": "train", "index": 0}
    if name == "frozen_lake":
        lake = Lake(size=4, start=0, goal=11, holes=1 << 2 | 1 << 8)
        return FrozenLake(lake, FrozenLakeConfig(success_rate=1.0).with_paper_protocol(), **board, episode_seed=0)
    if name == "sokoban":
        return Sokoban(to_board(*WAREHOUSE), SokobanConfig().with_paper_protocol(), **board)
    return Sudoku(Grid(4, GIVENS, SOLUTION), SudokuConfig().with_paper_protocol(), **board)


def play(world: World, replies: Sequence[str]) -> PlayedTurns:
    """The turns of these replies, each behind the world's opening."""
    turns = PlayedTurns(world)
    for reply in replies:
        if turns.over:
            break
        lenient = world.limits.reply == "lenient"
        turns.act(parse_reply(reply, lenient=lenient, opening=world.limits.opening).actions)
    return turns
