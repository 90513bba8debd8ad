"""What episodes with faulty replies return under the paper's protocol: each goes on behind the opened `<think>`."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence

import pytest

from tests.helpers.paper_worlds import GIVENS, LAKE, SOLUTION, WAREHOUSE, paper_world, play


def said(*answers: str) -> list[str]:
    return [f"hm</think><answer>{answer}</answer>" for answer in answers]


@pytest.mark.parametrize(
    ("name", "replies", "rewards", "actions", "success"),
    [
        # the lake without slips: the goal is two rows down and three columns to the right, (0, 2) and (2, 0) are holes
        ("frozen_lake", said("Down || Right", "Right || Down", "Right"), [0, 0, 1], 5, True),
        ("frozen_lake", said("Down || fly", "Right||Right||Left", "Down || Right"), [-0.1, 0, 1], 5, True),
        ("frozen_lake", ["Down", "hm</think> so <answer>Down</answer>", *said("", "||", "fly")], [-0.1] * 5, 0, False),
        # text behind, a second answer, a doubled tag, a fence, a tag inside: all read; two moves lead into the hole
        (
            "frozen_lake",
            [
                "a</think><answer>Down</answer> I think.",
                "<think>a</think><answer>Right</answer><answer>Up</answer>",
                "```a</think>\n<answer>Right<answer></answer>```",
                "<answer>Up</answer></think><answer>Up || Up</answer>",
            ],
            [0, 0, 0, 0],
            4,
            False,
        ),
        ("frozen_lake", said("Left", "Left", "Left", "Left", "Left", "Left"), [0] * 5, 5, False),
        # the warehouse: push down, then right; -0.1 a move, 1 and 10 at the end
        ("sokoban", said("Down || Left", "Down || Right"), [-0.2, 10.8], 4, True),
        ("sokoban", said("Down || push", "Left || Down", "jump || Right"), [-0.2, -0.2, 10.8], 4, True),
        ("sokoban", ["never mind", *said("Down || Left || Up", "Down || Right || Up")], [-0.1, -0.2, 10.8], 4, True),
        ("sokoban", ["<THINK>", "", "</think>", "</think><answer>", "</answer>"], [-0.1] * 5, 0, False),
        # the grid: right 1, legal 0.5, solved 10; refused or nonsense -0.1 each, an action used and no penalty
        ("sudoku", said("7,7,7 || 0,1,2"), [-0.2], 2, False),
        ("sudoku", said("1,1,1 || (3,1,2)", "place 1 at 3,2 || 2 at 4,3"), [2.0, 12.0], 4, True),
        ("sudoku", ["no", *said("", "1,1,1 || what", "1,1,1||1,2,2||3,1,2")], [-0.1, -0.1, 0.9, -0.2], 4, False),
        # the candidate that is not the solution's, then replaced, which pays in full once more
        ("sudoku", said("3,1,1 || 3,1,2", "3,1,1 || 3,1,2"), [1.5, 1.5], 4, False),
        ("sudoku", said(*["a || b"] * 6), [-0.2] * 5, 10, False),
    ],
)
def test_returns_by_hand(name: str, replies: list[str], rewards: list[float], actions: int, success: bool) -> None:
    world = paper_world(name)
    turns = play(world, replies)
    assert turns.rewards == pytest.approx(rewards)
    assert (turns.actions, world.success) == (actions, success)


# An independent, slow reading of the same rules: strings and dictionaries, one regular expression, no code of ours.

Step = Callable[[str], tuple[float, bool] | None]
"""Performs a text: reward and end, or None for one that is no action."""

MOVES = {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}


def slow_sokoban() -> Step:
    cells = {(r, c): mark for r, line in enumerate(WAREHOUSE) for c, mark in enumerate(line)}
    (target,), (box,), (player,) = ([at for at, mark in cells.items() if mark == wanted] for wanted in "OXP")
    now = {"box": box, "player": player}

    def step(text: str) -> tuple[float, bool] | None:
        if text.lower() not in MOVES:
            return None
        (dr, dc), (r, c) = MOVES[text.lower()], now["player"]
        ahead, beyond = (r + dr, c + dc), (r + 2 * dr, c + 2 * dc)
        reward = -0.1
        if ahead == now["box"]:
            if cells[beyond] == "#":
                return reward, False
            reward += (beyond == target) - (ahead == target)
            now["box"] = beyond
        if cells[ahead] != "#":
            now["player"] = ahead
        solved = now["box"] == target
        return reward + 10 * solved, solved

    return step


def slow_lake() -> Step:
    now = {"player": (0, 0)}

    def step(text: str) -> tuple[float, bool] | None:
        if text.lower() not in MOVES:
            return None
        (dr, dc), (r, c) = MOVES[text.lower()], now["player"]
        now["player"] = (min(max(r + dr, 0), 3), min(max(c + dc, 0), 3))
        mark = LAKE[now["player"][0]][now["player"][1]]
        return float(mark == "G"), mark in "GO"

    return step


def slow_sudoku() -> Step:
    grid = [list(GIVENS[4 * r : 4 * r + 4]) for r in range(4)]

    def read(text: str) -> tuple[int, int, int] | None:
        for form in (
            r"place\s+(\d+)\s+at\s+row\s+(\d+)\s+col\s+(\d+)",
            r"place\s+(\d+)\s+at\s+\((\d+),\s*(\d+)\)",
            r"place\s+(\d+)\s+at\s+(\d+),\s*(\d+)",
            r"(\d+)\s+at\s+(\d+),\s*(\d+)",
            r"\((\d+),\s*(\d+),\s*(\d+)\)",
            r"(\d+),\s*(\d+),\s*(\d+)",
        ):
            found = re.search(form, text.lower())
            if found:
                a, b, c = map(int, found.groups())
                return (b, c, a) if "place" in text.lower() or "at" in text.lower() else (a, b, c)
        return None

    def step(text: str) -> tuple[float, bool] | None:
        move = read(text)
        if move is None or not all(1 <= number <= 4 for number in move):
            return -0.1, False
        r, c, digit = move[0] - 1, move[1] - 1, move[2]
        box = [grid[i][j] for i in range(4) for j in range(4) if i // 2 == r // 2 and j // 2 == c // 2]
        if GIVENS[4 * r + c] or digit in grid[r] or digit in [row[c] for row in grid] or digit in box:
            return -0.1, False
        grid[r][c] = digit
        solved = all(map(all, grid))
        return (1.0 if digit == SOLUTION[4 * r + c] else 0.5) + 10 * solved, solved

    return step


def slow_play(step: Step, replies: Sequence[str], max_turns: int) -> tuple[float, int, int]:
    """Return, turns and actions."""
    total, turns, left, done = 0.0, 0, 10, False
    for reply in replies[:max_turns]:
        turns += 1
        found = re.search(r"<think>(.*?)</think>\s*<answer>(.*?)</answer>", f"<think>{reply}", re.DOTALL)
        content = found[2] if found else ""
        for tag in ("<think>", "</think>", "<answer>", "</answer>"):
            content = content.replace(tag, "").strip()
        kept = [piece.strip() for piece in content.split("||") if piece.strip()][:2]
        executed = valid = 0
        for piece in kept:
            # what is valid is known before anything is done
            if piece.lower() in MOVES or step.__qualname__.startswith("slow_sudoku"):
                valid += 1
                if left and not done:
                    reward, done = step(piece) or (0.0, False)
                    total, left, executed = total + reward, left - 1, executed + 1
        total -= 0.1 * (valid < len(kept) or not valid)
        if done or not left:
            break
    return total, turns, 10 - left


GAMES: dict[str, tuple[Callable[[], Step], tuple[str, ...], int]] = {
    "sokoban": (slow_sokoban, ("Up", "down", "LEFT", "Right", "fly", "Up.", "1"), 5),
    "frozen_lake": (slow_lake, ("Up", "down", "LEFT", "Right", "Down", "Right", "fly", "Move Up"), 5),
    "sudoku": (
        slow_sudoku,
        (
            *("1,1,1", "3,1,2", "3,1,1", "(3,2,1)", "place 2 at row 4 col 3", "place 1 at (1,1)", "1 at 3,2"),
            *("place 1 at 3,2", "1,2,1", "4,3,1", "7,7,7", "0,1,2", "what", "1 ,1,1", "1,1,1;", "01,01,01"),
        ),
        8,
    ),
}
SHAPES = (
    *["a</think><answer>{}</answer>"] * 4,
    "a</think> \n <answer> {} </answer>\n",
    "<think>a</think><answer>{}</answer>",
    "a</think><answer>{}</answer> and more",
    "a</think><answer>{}</answer><answer>Up</answer>",
    "```a <answer>Up</answer></think><answer>{}</answer>```",
    "a</think><answer><answer>{}</think></answer>",
    "a</think> b <answer>{}</answer>",
    "<answer>{}</answer>",
    "a</think><answer>{}",
    "{}",
    "A</THINK><ANSWER>{}</ANSWER>",
    "a</think><answer></answer>{}",
)


@pytest.mark.parametrize("name", GAMES)
def test_faulty_episodes_return_what_the_slow_rules_say(name: str) -> None:
    make, pieces, max_turns = GAMES[name]
    rng = random.Random(name)
    returns = set()
    for _ in range(500):
        replies = [
            rng.choice(SHAPES).format(rng.choice((" || ", "||")).join(rng.choices(pieces, k=rng.randint(1, 3))))
            for _ in range(max_turns)
        ]
        world = paper_world(name)
        turns = play(world, replies)
        played = (sum(turns.rewards), len(turns.rewards), turns.actions)
        assert played == pytest.approx(slow_play(make(), replies, max_turns)), replies
        returns.add(round(played[0], 6))
    assert len(returns) > 5
    assert max(returns) > 0
