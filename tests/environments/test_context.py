"""How long `ragen`'s conversations can get, which the READMEs compare with the paper's contexts.

Counted with Mistral's tokenizer of 131,000 tokens, which an installed package ships; the paper's has 152,000.
"""

from __future__ import annotations

from pathlib import Path
from statistics import mean

import mistral_common
import numpy as np
import pytest
from mistral_common.tokens.tokenizers.tekken import Tekkenizer

from actfocus_verl.environments import PlayedTurns, make_world, scripted_player

ROLE_TOKENS = 9
"""What the chat template writes around a message and the reply to it."""


@pytest.fixture(scope="module")
def tokenizer() -> Tekkenizer:
    return Tekkenizer.from_file(str(Path(mistral_common.__file__).parent / "data" / "tekken_240911.json"))


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("name", "context", "turns_fit", "average_message", "longest_message"),
    [
        ("sokoban", 2600, 400, (60, 85), 90),
        ("frozen_lake", 2900, 400, (90, 120), 150),
        ("sudoku", 3600, 200, (185, 215), 270),
        ("webshop", 8192, 400, (370, 410), 640),
    ],
)
def test_all_turns_fit_with_replies_of_that_length(
    tokenizer: Tekkenizer,
    name: str,
    context: int,
    turns_fit: int,
    average_message: tuple[int, int],
    longest_message: int,
) -> None:
    """turns_fit: tokens of a reply with which the last turn still has room for the longest one."""
    messages = []

    def tokens(text: str) -> int:
        return len(tokenizer.encode(text, bos=False, eos=False)) + ROLE_TOKENS

    for index in range(40):
        world, rng = make_world(name, preset="ragen", index=index), np.random.default_rng(index)
        turns, system = PlayedTurns(world), tokens(world.system_prompt())
        while not turns.over:
            messages.append(tokens(turns.message().text))
            answer = scripted_player(name).reply(world, rng, skill=0.3).split("<answer>")[1].split("</answer>")[0]
            turns.act([action.strip() for action in answer.split("||")])
    low, high = average_message
    assert low <= mean(messages) <= high
    assert max(messages) <= longest_message
    limits = world.limits
    message = max(messages) if name in ("sokoban", "frozen_lake") else mean(messages)
    needed = system + limits.max_turns * message + (limits.max_turns - 1) * turns_fit + limits.max_turn_tokens
    assert needed <= context
