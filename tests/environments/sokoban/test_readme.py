"""The world's README: its example is a real episode, its figures are those of the boards."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from actfocus_verl.environments import execute_turn, make_world, split_size, turn_message
from actfocus_verl.environments import sokoban as package
from actfocus_verl.environments.sokoban.generator import CLEAN_SPLIT_SIZES, CleanBoards, canonical_room
from actfocus_verl.environments.sokoban.scripted import PLAYER
from actfocus_verl.environments.sokoban.solver import solution_length
from actfocus_verl.errors import ConfigurationError
from actfocus_verl.rollout import parse_reply


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

    def also_train(name) -> float:
        known = {name(world) for world in train}
        return np.mean([name(world) in known for world in evaluation])

    lengths = np.array([world.stratum() for world in evaluation])
    rows = [
        ("evaluation boards that also train | 21.7 %", also_train(lambda world: world.start)),
        ("the same up to turning and mirroring | -", also_train(lambda world: world.board_hash())),
        ("evaluation boards in a room that also trains | -", also_train(lambda world: canonical_room(world.start))),
        ("boards solved by one move | 9 %", np.mean(lengths == 1)),
        ("boards that need more moves than an episode has | -", np.mean(lengths > 10)),
    ]
    for label, share in rows:
        assert f"| {label} | {100 * share:.1f} % |" in readme
    assert f"need at most three moves ({100 * np.mean(lengths <= 3):.1f} %)" in readme
    clean = [make_world("sokoban", split="evaluation", index=i) for i in range(512)]
    returns = [np.mean([world.optimal_return() for world in worlds]) for worlds in (evaluation, clean)]
    assert f"optimal return of these boards is {returns[0]:.2f}, against {returns[1]:.2f} on" in readme


def test_the_figures_on_clean(readme):
    sizes = {split: split_size("sokoban", split=split) for split in CLEAN_SPLIT_SIZES}
    assert ", ".join(f"{split} {size:,}" for split, size in sizes.items()) in readme
    stated = re.search(r"takes 2,240 boards of each length; its rooms have ([\d,]+) of length 9", readme)
    assert sizes["train"] == 9 * 2240
    count, boards = int(stated[1].replace(",", "")), CleanBoards(6, 1, "train")
    assert solution_length(boards.board(9 * count - 1)) == 9
    with pytest.raises(ConfigurationError, match=f"{count + 1} boards of solution length 9"):
        boards.board(9 * count + 8)
