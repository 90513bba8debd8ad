"""The world's README: its example is a real episode, its figures are those of the boards."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from actfocus_verl.environments import execute_turn, make_world, split_size, turn_message
from actfocus_verl.environments import sokoban as package
from actfocus_verl.environments.sokoban import Sokoban
from actfocus_verl.environments.sokoban.generator import CLEAN_SPLIT_SIZES, CleanBoards, canonical_room
from actfocus_verl.environments.sokoban.reverse_play import board_of_seed
from actfocus_verl.environments.sokoban.scripted import PLAYER
from actfocus_verl.environments.sokoban.solver import solution_length
from actfocus_verl.errors import ConfigurationError
from actfocus_verl.rollout import parse_reply
from tests.environments.readme import in_any, table_row


@pytest.fixture(scope="module")
def readme() -> str:
    """The text with all white space made single spaces: lines may break anywhere."""
    return " ".join((Path(package.__file__).parent / "README.md").read_text(encoding="utf-8").split())


def test_the_example_is_an_episode_as_it_is_played(readme):
    world, rng = make_world("sokoban", index=3), np.random.default_rng(0)
    transcript, left, rewards = [], 10, [None]
    while not world.done:
        message = turn_message(world, turn=len(rewards), actions_left=left, last_reward=rewards[-1]).text
        reply = PLAYER.reply(world, rng, skill=1.0)
        transcript += ["user", message, "assistant", reply]
        turn = execute_turn(world, parse_reply(reply).actions, actions_left=left)
        left, rewards = left - turn.executed, [*rewards, turn.reward]
    assert " ".join(" ".join(transcript).split()) in readme
    total = sum(reward for reward in rewards if reward is not None)
    assert f"The last turn earns {rewards[-1]:g}, the episode {total:.3g}" in readme
    assert total == pytest.approx(world.optimal_return())


def test_the_figures_on_ragen(readme):
    train = [make_world("sokoban", preset="ragen", index=i) for i in range(1600)]
    evaluation = [make_world("sokoban", preset="ragen", split="evaluation", index=i) for i in range(512)]
    lengths = np.array([world.stratum() for world in evaluation])
    rows = [
        ("also train", "share", in_any(train, evaluation, lambda world: world.start)),
        ("also train, up to turning and mirroring", "share", in_any(train, evaluation, Sokoban.board_hash)),
        ("in a room that also trains", "share", in_any(train, evaluation, lambda world: canonical_room(world.start))),
        ("solved by one move", "share", lengths == 1),
        ("solved by at most three moves", "share", lengths <= 3),
        ("mean optimal return", "{:.2f}", [world.optimal_return() for world in evaluation]),
    ]
    for row in rows:
        assert table_row(*row) in readme
    long = sum(world.stratum() > 10 for world in train)
    assert max(lengths) <= 10
    assert f"No evaluation board needs more moves than an episode has, but {long} of the training boards do" in readme
    clean = [make_world("sokoban", split="evaluation", index=i).optimal_return() for i in range(512)]
    assert f"the mean optimal return is {np.mean(clean):.2f}: success rates" in readme
    crowded = sum(board_of_seed(10_000 + index, 6, 3) is None for index in range(200))
    assert f"(three boxes at size 6: {crowded} of 200)" in readme


def test_the_figures_on_clean(readme):
    sizes = {split: split_size("sokoban", split=split) for split in CLEAN_SPLIT_SIZES}
    assert ", ".join(f"{split} {size:,}" for split, size in sizes.items()) in readme
    stated = re.search(r"takes 2,240 boards of each length; its rooms have ([\d,]+) of length 9", readme)
    assert sizes["train"] == 9 * 2240
    count, boards = int(stated[1].replace(",", "")), CleanBoards(6, 1, "train")
    assert solution_length(boards.board(9 * count - 1)) == 9
    with pytest.raises(ConfigurationError, match=f"{count + 1} boards of solution length 9"):
        boards.board(9 * count + 8)
