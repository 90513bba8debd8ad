"""textarena's games: grammars, states, ends and the shared generators."""

from __future__ import annotations

import random
from itertools import permutations

import pytest

from actfocus_verl.errors import ConfigurationError
from tests.environments.adapters.cases import TEXTARENA

pytest.importorskip("textarena")


def test_the_towers_are_moved():
    world = TEXTARENA.world(task="TowerOfHanoi-v0")
    assert world.render() == "Current Board: \nA: [3, 2, 1]\nB: []\nC: []\n."
    # the seven moves of three disks
    results = [world.step(world.parse_action(move)) for move in ("a c", "[A B]", "c b", "a  c", "B A", "b c", "a c")]
    assert [result.reward for result in results] == 6 * [0.0] + [1.0]
    assert [result.done for result in results] == 6 * [False] + [True]
    assert world.success
    assert "C: [3, 2, 1]" in world.render()


def test_a_refused_move_keeps_the_board_in_view_and_the_second_ends_the_game():
    world = TEXTARENA.world(task="TowerOfHanoi-v0")
    world.step(world.parse_action("a c"))
    before = world.render()
    refused = world.step(world.parse_action("a c"))  # a larger disk on a smaller one
    assert (refused.reward, refused.done) == (0.0, False)
    assert world.render().endswith(before)
    assert "larger disk" in world.render()
    lost = world.step(world.parse_action("b a"))  # from an empty tower
    assert (lost.reward, lost.done, lost.success) == (0.0, True, False)


def test_the_same_towers_are_the_same_state_however_reached():
    world, other = TEXTARENA.world(task="TowerOfHanoi-v0"), TEXTARENA.world(task="TowerOfHanoi-v0", index=9)
    for move in ("a b", "b c"):
        world.step(world.parse_action(move))
    other.step(other.parse_action("a c"))
    assert world.anchor() == other.anchor()


def test_a_number_is_found_by_halving():
    for index in range(10):
        world = TEXTARENA.world(task="GuessTheNumber-v0", index=index)
        low, high = 1, 20
        while not world.done:
            guess = (low + high) // 2
            result = world.step(world.parse_action(f"[{guess}]"))
            last = world.render().splitlines()[-1]
            if last == f"[{guess}] The target number is lower.":
                high = guess - 1
            elif last == f"[{guess}] The target number is higher.":
                low = guess + 1
        assert (result.reward, result.success) == (1.0, True)


def pegs(code: tuple[int, ...], guess: tuple[int, ...]) -> tuple[int, int]:
    """Codes without repeated digits: right places, right digits elsewhere."""
    black = sum(a == b for a, b in zip(code, guess, strict=True))
    return black, len(set(code) & set(guess)) - black


def test_a_code_is_broken_by_what_the_pegs_leave():
    world = TEXTARENA.world(task="Mastermind-v0", index=4)
    left = list(permutations(range(1, 7), 4))
    while not world.done:
        guess = left[0]
        digits = " ".join(map(str, guess))
        result = world.step(world.parse_action(digits))
        if not world.done:
            line = world.render().splitlines()[-1]
            left = [
                code
                for code in left[1:]
                if line.endswith("Feedback: {} black peg(s), {} white peg(s).".format(*pegs(code, guess)))
            ]
            assert line.startswith(f"[{digits}] Submitted [{digits}].")
    assert result.success


def test_tiles_fall_by_the_episode_seed_on_a_board_of_the_index():
    def play(index: int, seed: int) -> list[str]:
        world = TEXTARENA.world(task="2048-v0-easy", index=index, episode_seed=seed)
        states = [world.render()]
        for move in ("Left", "Down", "Right", "Up") * 3:
            if not world.done:
                world.step(world.parse_action(move))
            states.append(world.render())
        return states

    assert play(0, 1) == play(0, 1)
    stories = [play(0, seed) for seed in range(6)]
    assert len({story[0] for story in stories}) == 1
    assert len({tuple(story) for story in stories}) == 6
    assert len({play(index, 0)[0] for index in range(6)}) > 1


def test_the_shared_generator_is_left_as_it_was():
    random.seed(7)
    expected = [random.random() for _ in range(3)]
    random.seed(7)
    drawn = [random.random()]
    world = TEXTARENA.world(task="2048-v0-easy")
    drawn.append(random.random())
    world.step(world.parse_action("Left"))
    drawn.append(random.random())
    assert drawn == expected


@pytest.mark.parametrize(
    ("task", "text", "action"),
    [
        ("GuessTheNumber-v0", " 7 ", "[7]"),
        ("GuessTheNumber-v0", "7 8", None),
        ("GuessTheNumber-v0", "٧", None),
        ("GuessTheNumber-v0", "1234", None),
        ("Mastermind-v0", "[1  2 3\t4]", "[1 2 3 4]"),
        ("Mastermind-v0", "1, 2, 3, 4", None),
        ("TowerOfHanoi-v0", "A c", "[a c]"),
        ("TowerOfHanoi-v0", "a d", None),
        ("2048-v0", "UP", "[up]"),
        ("2048-v0", "up down", None),
        ("2048-v0", "up" + 60 * " ", None),
    ],
)
def test_moves_follow_the_grammar(task, text, action):
    assert TEXTARENA.world(task=task).parse_action(text) == action


@pytest.mark.parametrize("task", ["Wordle-v0", "Chess-v0", "FrozenLake-v0-train", "2048"])
def test_other_games_are_refused(task):
    with pytest.raises(ConfigurationError, match=f"env.task='{task}'"):
        TEXTARENA.world(task=task)
