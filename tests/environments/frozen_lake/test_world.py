"""The world as the rollout sees it: text, actions, slips, anchors; and the scripted play."""

from __future__ import annotations

import re

import numpy as np
import pytest

from actfocus_verl.environments import make_world, turn_message
from actfocus_verl.environments.frozen_lake import FrozenLake, scripted
from actfocus_verl.environments.frozen_lake.config import FrozenLakeConfig
from actfocus_verl.environments.frozen_lake.rules import Board, Move, transitions
from actfocus_verl.environments.frozen_lake.scripted import PLAYER, describe
from actfocus_verl.errors import ConfigurationError

#   P _ O _
#   _ _ _ _
#   O _ _ G
#   _ _ _ _
BOARD = Board(size=4, start=0, goal=11, holes=1 << 2 | 1 << 8)


def lake(board: Board = BOARD, *, preset: str = "clean", episode_seed: int = 0, **settings: object) -> FrozenLake:
    config = FrozenLakeConfig(**settings)
    return FrozenLake(board, config, preset=preset, split="train", index=0, episode_seed=episode_seed)


def test_the_state_is_coordinates_and_grid():
    assert lake().render() == "You: (0, 0). Goal: (2, 3). Holes: (0, 2), (2, 0).\nP_O_\n____\nO__G\n____"


def test_terminal_symbols():
    world = lake(success_rate=1.0)
    world.player = 2
    assert "__X_" in world.render()
    assert (world.done, world.success) == (True, False)
    world.player = 11
    assert "O__√" in world.render()
    assert (world.done, world.success) == (True, True)


def test_prompts_hold_what_the_protocol_asks_for_in_few_words():
    world = lake()
    system = world.system_prompt()
    for part in ("Left, Down, Right, Up", "` || `", "up to 2 actions", "5 turns", "10 actions", "0.8", "0.1", "(3, 3)"):
        assert part in system
    for symbol in "P_OGX√":
        assert f"{symbol} " in system
    assert len(system.split()) <= 110
    message = turn_message(world, turn=2, actions_left=8, last_reward=-0.1).text
    assert message.startswith("Reward: -0.1\nTurn 2\n" + world.render())
    assert "Actions left: 8." in message
    assert "<think> ... </think> <answer> ... </answer>" in message
    assert "120 words" in message
    assert len(message.split()) - 4 <= 45
    assert "Reward" not in turn_message(world, turn=1, actions_left=10).text


def test_the_corner_that_is_named_is_that_of_the_grid():
    assert "(3, 3)" in lake().system_prompt()
    assert "(5, 5)" not in lake().system_prompt()
    assert "(5, 5)" in lake(Board(6, 0, 35, 0), size=6).system_prompt()


@pytest.mark.parametrize(
    ("text", "move"),
    [
        ("Left", Move.LEFT),
        (" down\n", Move.DOWN),
        ("RIGHT", Move.RIGHT),
        ("Up", Move.UP),
        ("", None),
        ("Up Up", None),
        ("Up.", None),
        ("north", None),
        ("U\u0000p", None),
    ],
)
def test_actions_by_name(text, move):
    assert lake().parse_action(text) is move


def test_reward_one_at_the_goal_zero_in_a_hole_and_no_step_after():
    world = lake(success_rate=1.0)
    steps = [world.step(move) for move in (Move.DOWN, Move.RIGHT, Move.DOWN, Move.RIGHT, Move.RIGHT)]
    assert [step.reward for step in steps] == [0.0, 0.0, 0.0, 0.0, 1.0]
    assert [step.done for step in steps] == [False, False, False, False, True]
    assert steps[-1].success
    with pytest.raises(RuntimeError, match="after the episode ended"):
        world.step(Move.LEFT)
    world = lake(success_rate=1.0)
    world.step(Move.RIGHT)
    fallen = world.step(Move.RIGHT)
    assert (fallen.reward, fallen.done, fallen.success) == (0.0, True, False)


def test_sampled_slips_have_the_stated_probabilities():
    counts = np.zeros(16)
    for seed in range(3000):
        world = lake(Board(4, 5, 15, 0), episode_seed=seed)
        world.step(Move.UP)
        counts[world.player] += 1
    expected = np.zeros(16)
    for probability, tile in transitions(Board(4, 5, 15, 0), 0.8, 5, Move.UP):
        expected[tile] += probability
    # 4 standard deviations of a binomial share
    np.testing.assert_allclose(counts / 3000, expected, atol=4 * np.sqrt(0.8 * 0.2 / 3000))


def test_the_episode_seed_changes_the_slips_and_not_the_board():
    def play(seed: int) -> list[int]:
        world = make_world("frozen_lake", index=5, episode_seed=seed)
        path = []
        for move in (Move.LEFT, Move.UP) * 5:
            if world.done:
                break
            world.step(move)
            path.append(world.player)
        return path

    assert {make_world("frozen_lake", index=5, episode_seed=seed).board_hash() for seed in range(20)} == {
        make_world("frozen_lake", index=5).board_hash()
    }
    assert play(1) == play(1)
    assert len({tuple(play(seed)) for seed in range(20)}) > 1


def test_anchors_tell_states_apart_and_nothing_else():
    world, again = lake(success_rate=1.0), lake(success_rate=1.0, episode_seed=9)
    first = world.anchor()
    assert first == again.anchor()
    assert 0 <= first < 2**63
    world.step(Move.DOWN)
    assert world.anchor() != first
    world.step(Move.UP)
    assert world.anchor() == first  # the same state seen later is the same anchor
    other_goal = lake(Board(4, 0, 15, BOARD.holes))
    other_holes = lake(Board(4, 0, 11, 0))
    assert len({first, other_goal.anchor(), other_holes.anchor()}) == 3


REPLY = re.compile(
    r"<think> (.+) </think> <answer> ((?:Left|Down|Right|Up)(?: \|\| (?:Left|Down|Right|Up))?) </answer>"
)


@pytest.mark.parametrize("coupling", ["loose", "coupled"])
def test_demonstrations_are_well_formed_and_mostly_reasoning(coupling):
    rng = np.random.default_rng(0)
    lengths = set()
    for index in range(200):
        world = make_world("frozen_lake", index=index)
        reply = PLAYER.reply(world, rng, coupling=coupling, skill=0.5)
        match = REPLY.fullmatch(reply)
        assert match
        reasoning, moves = match[1], match[2].split(" || ")
        lengths.add(len(moves))
        assert len(reasoning.split()) >= 0.6 * len(reply.split())
        assert 15 <= len(reasoning.split()) <= 50
        if coupling == "coupled":
            assert reasoning.endswith(f"So I choose {' then '.join(moves)}.")
        else:
            assert not re.search("left|right|up|down", reasoning, re.IGNORECASE)
    assert lengths == {1, 2}


def test_the_description_by_hand():
    world = lake()
    world.player = 10
    assert describe(world) == (
        "I am at (2, 2). The goal is at (2, 3). Dangers: (0, 2), (2, 0). Row 2 to 2: level. Column 2 to 3: east."
    )
    world.player = 15
    assert describe(world).endswith("Row 3 to 2: north. Column 3 to 3: level.")


def test_the_loose_reasoning_does_not_depend_on_the_move():
    rng = np.random.default_rng(1)
    replies = {PLAYER.reply(lake(), rng, skill=0.0) for _ in range(50)}
    assert len(replies) > 4
    assert len({reply.split("<answer>")[0] for reply in replies}) == 1


def success_rate_of_script(skill: float) -> float:
    rng = np.random.default_rng(2)
    won = 0
    for seed in range(300):
        world = make_world("frozen_lake", split="evaluation", index=seed, episode_seed=seed)
        for _ in range(5):
            answer = PLAYER.reply(world, rng, skill=skill).split("<answer>")[1].split("</answer>")[0]
            for text in answer.split("||"):
                if not world.done:
                    world.step(world.parse_action(text))
            if world.done:
                break
        won += world.success
    return won / 300


def test_a_habit_is_what_thoughtless_moves_mostly_are() -> None:
    rng = np.random.default_rng(0)
    first_moves = [scripted.plan(lake(), rng, 0.0)[0] for _ in range(400)]
    # the habit, and a quarter of the other mistakes: 0.8 + 0.2 / 4; the bound is four standard errors
    assert abs(first_moves.count("Left") / 400 - 0.85) < 4 * (0.85 * 0.15 / 400) ** 0.5


def test_skill_is_what_it_says():
    assert success_rate_of_script(0.0) < success_rate_of_script(0.5) < success_rate_of_script(1.0)


def test_a_demonstration_leaves_the_world_alone_and_refuses_unknown_couplings():
    world = lake()
    PLAYER.reply(world, np.random.default_rng(0))
    assert world.player == 0
    with pytest.raises(ConfigurationError, match="loose, coupled"):
        PLAYER.reply(world, np.random.default_rng(0), coupling="tight")
    with pytest.raises(ConfigurationError, match=r"skill=1\.5"):
        PLAYER.reply(world, np.random.default_rng(0), skill=1.5)
