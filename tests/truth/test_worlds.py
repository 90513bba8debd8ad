"""A whole measurement in real worlds: the shares of random moves sum to 1, and nothing drifts."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest

from actfocus_verl.truth.command import main
from tests.truth.made_up import SAYS, LookupEngine

MOVES = ("Up", "Down", "Left", "Right")
ANSWERS = [" || ".join(moves) for count in (1, 2) for moves in product(MOVES, repeat=count)]
BROKEN = ["<think> go </think><|im_end|>", "go<|im_end|>", "<think> go </think> <answer> Up<|im_end|>"]
"""Without an answer, without tags, and with an open one."""


@pytest.mark.nightly
@pytest.mark.parametrize("env", ["frozen_lake", "sokoban"])
def test_random_moves_in_a_real_world(
    words: Callable[..., list[str]], engine: type[LookupEngine], tmp_path: Path, env: str
) -> None:
    """FrozenLake slips, Sokoban draws nothing. The policy's reasoning decides nothing but whether an answer follows.

    The seed is fixed, and with it every figure: thirteen intervals of 95 % do not hold with every one.
    """
    engine.replies = [SAYS.format(said, answer) for said, answer in product(("go", "left"), ANSWERS)] + BROKEN
    more = [f"env={env}", "preset=clean", "max_turns=3", "boards=32", "episodes=16", "continuations=2", "seed=1"]
    assert main(words(*more)) == 0
    found = json.loads((tmp_path / "out" / "truth.json").read_text())
    holds = {"null": (found["null"], 0.0), "sum": (found["shares"]["sum"], 1.0)}
    holds |= {f"drift of {kind}": (interval, 0.0) for kind, interval in found["drift"].items()}
    if env == "sokoban":
        holds["luck"] = (found["shares"]["luck"], 0.0)
    for name, (interval, expected) in holds.items():
        assert interval["low"] <= expected <= interval["high"], (name, interval)
    assert found["shares"]["action"]["low"] > 0.3
