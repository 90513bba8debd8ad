"""Turns: means over a turn's tokens, the next turn, back to tokens."""

import math

import pytest
import torch

from actfocus_verl.credit.turns import Turns

NAN = math.nan
# Row 0: turns 0 (two tokens) and 2 (one); turn 1 has no sampled token. Row 1: turn 0 alone. Row 2: nothing.
TURN_IDS = torch.tensor([[0, 0, -1, 1, 2], [0, -1, -1, -1, -1], [-1, -1, -1, -1, -1]])
RESPONSE = torch.tensor([[1, 1, 0, 0, 1], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0]]).bool()


def test_lengths_and_means_by_hand():
    turns = Turns.of(TURN_IDS, RESPONSE)
    assert turns.lengths.tolist() == [[2, 0, 1], [1, 0, 0], [0, 0, 0]]
    column = torch.tensor([[1.0, 4.0, NAN, NAN, 7.0], [-3.0, NAN, NAN, NAN, NAN], [NAN] * 5])
    assert turns.mean(column).tolist() == [[2.5, 0, 7], [-3, 0, 0], [0, 0, 0]]


def test_the_following_turn_is_the_next_that_is_there():
    turns = Turns.of(TURN_IDS, RESPONSE)
    assert turns.following(torch.tensor([[10.0, 11, 12], [20, 21, 22], [30, 31, 32]]))[:2].tolist() == [
        [12, 12, 0],
        [0, 0, 0],
    ]


def test_back_to_tokens():
    turns = Turns.of(TURN_IDS, RESPONSE)
    values = torch.tensor([[10.0, NAN, 12], [20, NAN, NAN], [NAN, NAN, NAN]])
    assert turns.to_tokens(values).tolist() == [[10, 10, 0, 0, 12], [20, 0, 0, 0, 0], [0, 0, 0, 0, 0]]


@pytest.mark.parametrize("dtype", [torch.int16, torch.int32, torch.int64])
def test_ids_of_any_integer_type(dtype):
    assert torch.equal(Turns.of(TURN_IDS.to(dtype), RESPONSE).lengths, Turns.of(TURN_IDS, RESPONSE).lengths)


def test_no_sampled_token_at_all():
    turns = Turns.of(TURN_IDS, torch.zeros_like(RESPONSE))
    assert turns.mean(torch.full((3, 5), NAN)).shape == (3, 0)
    assert turns.following(torch.empty(3, 0)).shape == (3, 0)
    assert not turns.to_tokens(torch.empty(3, 0)).any()


def test_a_negative_id_of_any_size_is_an_error():
    for junk in (-1, -5):
        ids = TURN_IDS.clone()
        ids[0, 0] = junk
        with pytest.raises(ValueError, match="turn_ids is negative at 1 tokens in 1 rows"):
            Turns.of(ids, RESPONSE)
