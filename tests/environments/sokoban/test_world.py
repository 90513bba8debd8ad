"""The world as the rollout sees it: text, actions, anchors, settings; and the scripted play."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actfocus_verl.environments import Limits, execute_turn, known_presets, make_world, split_size, turn_message
from actfocus_verl.environments.sokoban import Sokoban, scripted
from actfocus_verl.environments.sokoban.config import SokobanConfig
from actfocus_verl.environments.sokoban.rules import Board, Move
from actfocus_verl.environments.sokoban.scripted import PLAYER, describe
from actfocus_verl.errors import ConfigurationError
from tests.environments.sokoban.slow import to_board
from tests.helpers.paper_worlds import CLEAN_PROTOCOL

BOARD = to_board("######", "#_P__#", "#_X__#", "#__O_#", "#__#_#", "######")


def warehouse(board: Board = BOARD, *, preset: str = "clean", **overrides: object) -> Sokoban:
    return Sokoban(board, SokobanConfig(**overrides), preset=preset, split="train", index=0)


def test_the_state_is_the_grid_and_in_clean_the_places_too():
    grid = "######\n#_P__#\n#_X__#\n#__O_#\n#__#_#\n######"
    assert warehouse(prompts="paper").render() == grid
    assert warehouse().render() == "You: (1, 2). Box: (2, 2). Target: (3, 3).\n" + grid
    two = to_board("######", "#SX__#", "#_√__#", "#____#", "#____#", "######")
    assert warehouse(two).render() == (
        "You: (1, 1). Boxes: (1, 2), (2, 2). Targets: (1, 1), (2, 2).\n######\n#SX__#\n#_√__#\n#____#\n#____#\n######"
    )


def test_prompts_hold_what_the_protocol_asks_for_in_few_words():
    world = warehouse()
    system = world.system_prompt()
    for part in (
        "Up, Down, Left, Right",
        "` || `",
        "up to 2 actions",
        "5 turns",
        "10 actions",
        "-0.1",
        "+1",
        "-1",
        "+10",
    ):
        assert part in system
    for symbol in "#_OX√PS":
        assert f"{symbol} " in system
    assert len(system.split()) <= 115
    assert "(row, column)" in system
    assert "(row, column)" not in warehouse(prompts="paper").system_prompt()
    message = turn_message(world, turn=2, actions_left=8, last_reward=-0.2).text
    assert message.startswith("Reward: -0.2\nTurn 2\n" + world.render())
    assert "<think> ... </think> <answer> ... </answer> in at most 100 words" in message
    assert len(message.split()) <= 45


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
        ("push", None),
        ("0", None),
        ("U\u0000p", None),
    ],
)
def test_actions_by_name(text, move):
    assert warehouse().parse_action(text) is move


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=200))
def test_no_text_makes_parsing_fail(text):
    assert warehouse().parse_action(text) in {None, *Move}


@settings(max_examples=60, deadline=None)
@given(
    preset=st.sampled_from(["clean", "ragen"]),
    split=st.sampled_from(["train", "evaluation", "test"]),
    index=st.integers(0, 900),
    boxes=st.integers(1, 2),
    moves=st.lists(st.sampled_from(list(Move)), max_size=40),
)
def test_what_holds_in_every_episode(preset, split, index, boxes, moves):
    world, again = (
        make_world("sokoban", preset=preset, split=split, index=index, boxes=boxes, episode_seed=seed)
        for seed in (0, 1)
    )
    start, total = world.board, 0.0
    assert start.boxes.bit_count() == start.targets.bit_count() == boxes
    for move in moves:
        if world.done:
            break
        result = world.step(move)
        assert result == again.step(move)
        board, total = world.board, total + result.reward
        assert (board.walls, board.targets) == (start.walls, start.targets)
        assert board.boxes.bit_count() == boxes
        assert board.walls & board.boxes == 0
        assert (board.walls | board.boxes) >> board.player & 1 == 0
        assert any(result.reward == pytest.approx(reward) for reward in (-1.1, -0.1, 0.9, 10.9))
        assert result.done == result.success == (board.boxes == board.targets) == (result.reward > 10)
        assert world.render() == again.render()
        assert world.anchor() == again.anchor()
        assert world.outcome() == {"boxes_on_target": (board.boxes & board.targets).bit_count() / boxes}
    if world.done:
        state = world.render(), world.anchor()
        with pytest.raises(RuntimeError, match="after the episode ended"):
            world.step(Move.UP)
        assert (world.render(), world.anchor()) == state
        assert total <= 11.0 * boxes


def test_the_return_of_an_episode_is_at_most_the_optimal_one():
    rng = np.random.default_rng(0)
    reached = 0
    for index in range(200):
        world = make_world("sokoban", preset=("clean", "ragen")[index % 2], index=index)
        total, left = 0.0, 10
        for _ in range(5):
            actions = [["Up", "Down", "Left", "Right", "?"][k] for k in rng.integers(5, size=rng.integers(3))]
            if rng.random() < 0.7:
                actions = scripted.plan(world, rng, 0.9)
            turn = execute_turn(world, actions, actions_left=left)
            total, left = total + turn.reward, left - turn.executed
            if world.done or left == 0:
                break
        assert total <= world.optimal_return() + 1e-9
        reached += total > world.optimal_return() - 1e-9
    assert reached > 20


def test_anchors_tell_states_apart_and_nothing_else():
    world, again = warehouse(), warehouse(preset="ragen", max_turns=2)
    first = world.anchor()
    assert first == again.anchor()
    assert 0 <= first < 2**63
    world.step(Move.RIGHT)
    assert world.anchor() != first
    world.step(Move.LEFT)
    assert world.anchor() == first  # the same state seen later is the same anchor
    rows = ("#_P__#", "#_X__#", "#__O_#", "#__#_#")
    others = [
        to_board("######", *other, "######")
        for other in (
            ("#_P_##", *rows[1:]),
            (rows[0], "#__X_#", *rows[2:]),
            (*rows[:2], "#_O__#", rows[3]),
            ("#P___#", *rows[1:]),
        )
    ]
    assert len({first, *(warehouse(other).anchor() for other in others)}) == 5


def test_default_limits_and_rewards_are_those_of_the_paper():
    for preset in known_presets("sokoban"):
        world = make_world("sokoban", preset=preset, **CLEAN_PROTOCOL)
        assert world.limits == Limits(
            max_turns=5,
            max_actions_per_turn=2,
            max_actions_per_episode=10,
            max_words=100,
            max_turn_tokens=400,
            format_penalty=-0.1,
        )
        rewards = world.config.rewards()
        assert (rewards.step, rewards.on_target, rewards.off_target, rewards.solved) == (-0.1, 1.0, -1.0, 10.0)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"preset": "dirty"}, ["env.preset", "dirty", "clean", "ragen"]),
        ({"index": -1}, ["env.index", "-1"]),
        ({"index": 20160}, ["env.index", "20160", "20159"]),
        ({"index": -1, "preset": "ragen"}, ["env.index", "-1"]),
        ({"size": 4}, ["env.size", "4", "between 5 and 8"]),
        ({"size": 9}, ["env.size", "9"]),
        ({"size": 6.0}, ["env.size", "6.0"]),
        ({"boxes": 0}, ["env.boxes", "0", "between 1 and 3"]),
        ({"boxes": 4}, ["env.boxes", "4"]),
        ({"step_reward": 0.1}, ["env.step_reward", "0.1"]),
        ({"on_target_reward": -1}, ["env.on_target_reward", "-1"]),
        ({"off_target_reward": 1}, ["env.off_target_reward", "1"]),
        ({"solved_reward": float("nan")}, ["env.solved_reward", "nan"]),
        ({"solved_reward": "10"}, ["env.solved_reward", "'10'"]),
        ({"max_turns": 0}, ["env.max_turns", "0"]),
        ({"reward": 1}, ["env.reward", "solved_reward"]),
    ],
)
def test_bad_settings_are_refused_in_one_line_that_names_them(arguments, named):
    with pytest.raises(ConfigurationError) as caught:
        make_world("sokoban", **arguments)
    message = str(caught.value)
    assert "\n" not in message
    for part in named:
        assert part in message


def test_split_sizes():
    assert [split_size("sokoban", split=split) for split in ("train", "evaluation", "test")] == [20160, 1152, 1152]
    assert split_size("sokoban", preset="ragen", split="train") is None


def test_an_unsolvable_board_has_no_stratum():
    stuck = to_board("#####", "#X__#", "#_O_#", "#__P#", "#####")
    with pytest.raises(RuntimeError, match="unsolvable"):
        warehouse(stuck).stratum()
    assert warehouse(stuck).optimal_return() == pytest.approx(-0.5)


REPLY = re.compile(
    r"<think> (.+) </think> <answer> ((?:Left|Down|Right|Up)(?: \|\| (?:Left|Down|Right|Up))?) </answer>"
)


@pytest.mark.parametrize("coupling", ["loose", "coupled"])
def test_demonstrations_are_well_formed_and_mostly_reasoning(coupling):
    rng = np.random.default_rng(0)
    lengths = set()
    for index in range(200):
        world = make_world("sokoban", index=index, boxes=1 + index % 2)
        reply = PLAYER.reply(world, rng, coupling=coupling, skill=0.5)
        match = REPLY.fullmatch(reply)
        assert match
        reasoning, moves = match[1], match[2].split(" || ")
        assert all(world.parse_action(move) is not None for move in moves)
        lengths.add(len(moves))
        assert len(reasoning.split()) >= 0.6 * len(reply.split())
        assert len(reply.split()) <= world.limits.max_words
        if coupling == "coupled":
            assert reasoning.endswith(f"So I choose {' then '.join(moves)}.")
        else:
            assert not re.search("left|right|up|down", reasoning, re.IGNORECASE)
    assert lengths == {1, 2}


def test_the_description_by_hand():
    assert describe(warehouse()) == (
        "I am at (1, 2). The box is at (2, 2). The target is at (3, 3). Target row 2 to 3: south. "
        "Target column 2 to 3: east. Box row 1 to 2: south. Box column 2 to 2: level."
    )
    # the nearest box is in place: the other one, and the free target that is nearest to it
    two = to_board("######", "#P√__#", "#____#", "#_OX_#", "#____#", "######")
    assert describe(warehouse(two)) == (
        "I am at (1, 1). The box is at (3, 3). The target is at (3, 2). Target row 3 to 3: level. "
        "Target column 3 to 2: west. Box row 1 to 3: south. Box column 1 to 3: east."
    )
    assert describe(warehouse(to_board("#####", "#P√_#", "#___#", "#___#", "#####"))).endswith("is on a target.")


def test_the_loose_reasoning_does_not_depend_on_the_move():
    rng = np.random.default_rng(1)
    replies = {PLAYER.reply(warehouse(), rng, skill=0.0) for _ in range(50)}
    assert len(replies) > 2
    assert len({reply.split("<answer>")[0] for reply in replies}) == 1


def success_rate_of_script(skill: float, boards: int = 450) -> float:
    rng = np.random.default_rng(2)
    won = 0
    for index in range(boards):
        world, left = make_world("sokoban", split="evaluation", index=index), 10
        for _ in range(5):
            left -= execute_turn(world, scripted.plan(world, rng, skill), actions_left=left).executed
            if world.done or left == 0:
                break
        won += world.success
    return won / boards


def test_skill_is_what_it_says_and_perfect_play_solves_every_board():
    assert success_rate_of_script(1.0) == 1.0
    assert success_rate_of_script(0.0) < success_rate_of_script(0.5) < 0.7


def test_a_habit_is_what_thoughtless_moves_mostly_are():
    rng = np.random.default_rng(0)
    plans = [scripted.plan(warehouse(), rng, 0.0) for _ in range(400)]
    assert {len(moves) for moves in plans} == {1}
    # the habit, and a quarter of the other mistakes: 0.8 + 0.2 / 4; the bound is four standard errors
    share = sum(moves == ["Left"] for moves in plans) / 400
    assert abs(share - 0.85) < 4 * (0.85 * 0.15 / 400) ** 0.5


def test_a_plan_ends_with_the_solution_and_a_lost_board_is_left_to_habit():
    rng = np.random.default_rng(0)
    assert scripted.plan(warehouse(to_board("#####", "#PXO#", "#___#", "#___#", "#####")), rng, 1.0) == ["Right"]
    stuck = warehouse(to_board("#####", "#X__#", "#_O_#", "#__P#", "#####"))
    plans = [scripted.plan(stuck, rng, 1.0) for _ in range(100)]
    assert {len(moves) for moves in plans} == {2}
    assert sum(moves[0] == "Left" for moves in plans) > 60


def test_a_demonstration_leaves_the_world_alone():
    world = warehouse()
    PLAYER.reply(world, np.random.default_rng(0))
    assert world.board == BOARD
