"""The boards and slips of preset `ragen` are those of the paper's code base.

Every pinned number comes from that code, run apart from this repository: `utils.py` of mll-lab-nu/RAGEN's sokoban,
frozen_lake and sudoku (this one from a public fork), with gymnasium 1.4.0's FrozenLakeEnv, for seeds 123 to 634 and
10,000 to 11,599. Ours differed from none of the 6,335 boards, nor from 2,112 episodes of up to 40 random moves on the
lakes. The one board without a counterpart is Sokoban's of seed 11,482, which is retried there with Python's `hash`.
"""

from __future__ import annotations

from hashlib import blake2b
from random import Random

import numpy as np
import pytest

from actfocus_verl.environments import SPLITS, make_world
from actfocus_verl.environments.frozen_lake import FrozenLake
from actfocus_verl.environments.frozen_lake.rules import Move
from actfocus_verl.environments.ragen_seeds import board_seed
from actfocus_verl.environments.sokoban.reverse_play import board_of_seed, reverse_played_board
from actfocus_verl.environments.splits import stable_hash
from actfocus_verl.errors import ConfigurationError
from tests.environments.sokoban.slow import to_grid

EVALUATED = {
    "frozen_lake": (
        "2f9c297c 2e6d915f bfeff83a d144baa8 0b4b0336 9f32a90a e86382e1 83475a0f c1d37818 76e4a259 716d5fa3 "
        "82addfa7 816a7371 fc9d9a6a 060e9432 ab384d4b 8f69d832 bab0c110 51798145 c4923460 0890457e a91fc68d "
        "55327143 baf51090 bcb94a88 d3eea249 51a901e3 b3ff372f 8ebe1a21 1e16d452 97f670ad 54f89b0a"
    ),
    "sokoban": (
        "a53d5e39 4f998aec e13070ed 1f1c2411 cdd460e7 30494b28 100f8810 5f6fa9c6 c497515a 16bce487 0c90184e "
        "321b5825 4f6065a7 0d9c6d10 5d5a830a 1f407ab3 ec4b4b14 8138f1ac 0552a3c9 ba9db89c 616cab9a b428dc53 "
        "f80987b0 2b518fed e71ac63b 867dad46 5cfb367d 9397e927 f5fa8e9e 3206bf20 0e5dd918 f6d21b8e"
    ),
    "sudoku": (
        "2fcd8230 872fd085 822272ea 5bcb1fd9 cf7ea5ce ba79392c 4e6f8280 55541f95 baa95520 b25ccbec c711a2cf "
        "810da114 a7ca0b04 cc153faf 62991987 66968f01 9b3bdc35 d72ed34d dabbfca6 29420d31 6f698c4e 4582b740 "
        "519e667a f8d441f6 56063456 94370a18 9152f553 1508180a baad6b61 8d75cc66 4bd4c646 8baa6f17"
    ),
}
"""Hashes of the 32 boards that the paper evaluates on, seeds 123 to 154, by world."""

MANY = [
    ("frozen_lake", "evaluation", 512, "cad0505a28784e5d4c40153b3bca7852"),
    ("frozen_lake", "train", 1600, "9a3190d65dbd085255777c0b5e96fa56"),
    ("sokoban", "evaluation", 512, "7c1205e4b8950333ec9370cd17b15220"),
    ("sokoban", "train", 1600, "ffc0b6c55a2767b63ea7c0db05afde97"),
    ("sudoku", "evaluation", 512, "6ae8e8fce1b1bf7dd55c9fd008ed32f8"),
    ("sudoku", "train", 1600, "fc567f2ae0502a34c374864ce8e3fb1e"),
]
"""Hashes of all boards that have one, a line each."""

RETRIED = 11_482


def text(env: str, split: str, index: int) -> str:
    """Rows of tiles, joined by slashes: a lake in gymnasium's letters, a Sudoku's givens before its solution."""
    world = make_world(env, preset="ragen", split=split, index=index)
    if env == "sokoban":
        return "/".join(to_grid(world.board))
    board, size = world.board, world.board.size
    if env == "sudoku":
        cells = "".join(map(str, board.givens + board.solution))
    else:
        cells = "".join("H" if board.is_hole(tile) else "F" for tile in range(size**2))
        for tile, letter in ((board.start, "S"), (board.goal, "G")):
            cells = f"{cells[:tile]}{letter}{cells[tile + 1 :]}"
    return "/".join(cells[row : row + size] for row in range(0, len(cells), size))


def digest(written: str, size: int = 4) -> str:
    return blake2b(written.encode(), digest_size=size).hexdigest()


def evaluated(env: str) -> str:
    return " ".join(digest(text(env, "evaluation", index)) for index in range(32))


@pytest.mark.parametrize("env", EVALUATED)
def test_the_boards_that_the_paper_evaluates_on(env):
    assert evaluated(env) == EVALUATED[env]


@pytest.mark.nightly
@pytest.mark.parametrize(("env", "split", "count", "expected"), MANY)
def test_more_boards_than_the_paper_has(env, split, count, expected):
    boards = [
        text(env, split, index) for index in range(count) if (env, board_seed(split, index)) != ("sokoban", RETRIED)
    ]
    assert digest("\n".join(boards), size=16) == expected


def test_the_boards_that_the_paper_prints():
    """arXiv 2605.14558v1, App. E: the first states of three evaluation episodes, all of them of seed 142."""
    worlds = {env: make_world(env, preset="ragen", split="evaluation", index=19) for env in EVALUATED}
    assert worlds["frozen_lake"].render().split("\n")[-4:] == ["___O", "_O__", "___P", "G___"]
    assert to_grid(worlds["sokoban"].board) == ("######", "###P_#", "###X_#", "###__#", "###O_#", "######")
    assert worlds["sudoku"].board.givens == (3, 1, 2, 4, 4, 0, 0, 0, 0, 3, 4, 0, 0, 4, 3, 2)


@pytest.mark.parametrize(("success_rate", "place"), [(0.8, (2, 1)), (1 / 3, (1, 2))])
def test_the_slips_that_the_paper_prints(success_rate, place):
    """In the example `Left || Left` from (2, 3) ends at (2, 1).

    Seed 142 gives 0.022, 0.107, 0.648: the first is thrown away. With a rate of 0.8, numbers in [0.1, 0.9) go as
    intended. With 1/3, 0.107 would slip up to (1, 3), and 0.648 would go left from there.
    """
    for seed in (0, 7):
        world = make_world(
            "frozen_lake",
            preset="ragen",
            split="evaluation",
            index=19,
            episode_seed=seed,
            success_rate=success_rate,
        )
        world.step(Move.LEFT)
        world.step(Move.LEFT)
        assert divmod(world.player, 4) == place


def path(world: FrozenLake) -> str:
    """Where up to ten moves lead: left, down, right, up, and again."""
    tiles = []
    while not world.done and len(tiles) < 10:
        world.step(Move(len(tiles) % 4))
        tiles.append(str(world.player))
    return ",".join(tiles)


def paths(preset: str, episode_seed: int, **settings: object) -> list[str]:
    return [
        path(
            make_world("frozen_lake", preset=preset, split="evaluation", index=i, episode_seed=episode_seed, **settings)
        )
        for i in range(32)
    ]


def test_the_slips_on_the_boards_that_the_paper_evaluates_on():
    found = paths("ragen", 3)
    assert found[19] == "10,14,10,6,10,14,15,11,10,14"
    assert digest("\n".join(found)) == "2f906bc7"


@pytest.mark.parametrize("preset", ["clean", "ragen"])
def test_luck_is_the_boards_or_the_episodes_own(preset):
    assert paths(preset, 1, luck="board") == paths(preset, 2, luck="board")
    assert paths(preset, 1, luck="own") != paths(preset, 2, luck="own")
    assert paths(preset, 1) == paths(preset, 1, luck={"clean": "own", "ragen": "board"}[preset])
    assert len({path(make_world("frozen_lake", preset=preset, luck="board", index=i)) for i in range(9)}) > 5


def test_a_fork_meets_the_boards_luck_where_it_parts():
    trunk, fork = (make_world("frozen_lake", preset="ragen", index=7, episode_seed=seed) for seed in (1, 2))
    for move in (Move.UP, Move.UP):
        trunk.step(move)
        fork.step(move)
    fork.reseed(3)
    assert path(fork) == path(trunk)


def test_an_unknown_luck_is_refused():
    with pytest.raises(ConfigurationError, match=r"env\.luck='shared': is not a known source of slips\. Use own or"):
        make_world("frozen_lake", luck="shared")


def test_a_lake_drawn_by_hand():
    """Seed 124: twice start and goal are one tile, which is refused; holes, start and goal are then drawn anew."""
    rng, drawn = np.random.default_rng(124), []
    for _ in range(3):
        holes = np.flatnonzero(rng.random(16) >= 0.9).tolist()  # tiles whose number is above the share of ice
        drawn.append((holes, *(tuple(rng.integers(4, size=2).tolist()) for _ in range(2))))
    assert drawn == [([2, 5, 12], (3, 2), (3, 2)), ([2, 11, 13], (0, 3), (0, 3)), ([0, 13], (3, 3), (0, 3))]
    assert text("frozen_lake", "evaluation", 1) == "HFFG/FFFF/FFFF/FHFS"


def test_a_sudoku_drawn_by_hand():
    """Seed 10,000: of each order, one a visit, the first digit that fits; then the first six of the shuffled cells.

    2, 4, 1, 3 / 3 (2 is in the box), 1, 2, 4 / 4, then 3, after which the third cell has no digit: 2 instead, and the
    third cell is drawn anew: 3, 1 / 1, 3, 4, 2.
    """
    rng, orders = Random(10_000), []
    for _ in range(17):
        order = [1, 2, 3, 4]
        rng.shuffle(order)
        orders.append("".join(map(str, order)))
    drawn = "2413 2431 1243 3412 / 3421 3412 2143 2431 / 4213 3412 1324 1423 2143 / 4321 3214 3142 3412"
    assert orders == drawn.replace("/", "").split()
    cells = list(range(16))
    rng.shuffle(cells)
    assert sorted(cells[:6]) == [4, 6, 7, 12, 14, 15]
    assert text("sudoku", "train", 0) == "2413/0100/4231/0300/2413/3124/4231/1342"


def test_a_retried_board_is_the_same_in_every_process():
    """Seeds 11,482 and 12,230 have no board in four rooms. The seed in their place is a hash of their digits."""
    for seed, index in ((RETRIED, 1482), (12_230, 2230)):
        assert board_of_seed(seed, 6, 1) is None
        board = board_of_seed(stable_hash(str(seed), bits=32), 6, 1)
        assert make_world("sokoban", preset="ragen", index=index).board == board == reverse_played_board(seed, 6, 1)
    assert to_grid(make_world("sokoban", preset="ragen", index=1482).board) == (
        "######",
        "#P_O_#",
        "#_X__#",
        "###__#",
        "######",
        "######",
    )


def test_splits_have_the_code_bases_seeds_and_the_test_split_seeds_of_its_own():
    assert [board_seed(split, 7) for split in SPLITS] == [10_007, 130, 1_000_000_007]
    with pytest.raises(ConfigurationError, match=r"env\.index=4294957296: .* Use an index below 4294957296"):
        make_world("sudoku", preset="ragen", index=2**32 - 10_000)
