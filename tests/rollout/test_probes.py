"""Forced answers: their tokens, where they go, and what the episode keeps for them."""

from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerFast

from actfocus_verl.rollout import ChatCodec, forced_answer, probe_columns
from tests.helpers.episodes import ListPolicy, dry_lake, play
from tests.helpers.tokenizer import build_tokenizer


@pytest.mark.parametrize("vocabulary", [259, 400])
@pytest.mark.parametrize("added_tags", [False, True])
@pytest.mark.parametrize("answer", ["Left || Down", "click[b12]", "1,2,3"])
def test_a_forced_answer_is_the_beginning_of_a_reply(vocabulary: int, added_tags: bool, answer: str) -> None:
    codec = ChatCodec(build_tokenizer(vocab_size=vocabulary, added_tags=added_tags))
    forced = forced_answer(codec, answer)
    whole = codec.text_ids(f"<think> </think> <answer> {answer} </answer>")
    assert whole[: len(forced.token_ids)] == forced.token_ids
    opening, scored = forced.token_ids[: -forced.answer_length], forced.token_ids[-forced.answer_length :]
    assert codec.offsets(opening)[0].rstrip() == "<think> </think> <answer>"
    assert codec.offsets(scored)[0].strip() == answer


@pytest.mark.parametrize("answer", ["", " ", "a</answer>b"])
def test_what_no_reply_can_hold_is_refused(codec: ChatCodec, answer: str) -> None:
    with pytest.raises(ValueError, match="cannot stand between the tags"):
        forced_answer(codec, answer)


def test_columns_of_an_episode(codec: ChatCodec) -> None:
    """Before each turn: what is left of the way, at most two moves of it, behind the context that the turn saw."""
    say = [codec.text_ids(f"<think>hm</think><answer>{move}</answer><|im_end|>") for move in ("Right", "Right", "Up")]
    policy = ListPolicy(say)
    trajectory = play(dry_lake(max_turns=3), codec, policy, ask_answers=True)
    assert trajectory.known_answers == ["Right || Right", "Right || Right", "Right"]
    columns = probe_columns(codec, trajectory.known_answers, trajectory.turn_starts)
    whole = trajectory.prompt_ids + trajectory.response_ids
    for start, context in zip(columns["probe_starts"], policy.contexts, strict=True):
        assert whole[: len(trajectory.prompt_ids) + start] == context
    expected = [forced_answer(codec, answer) for answer in ("Right || Right", "Right || Right", "Right")]
    assert columns["probe_ids"] == [token for each in expected for token in each.token_ids]
    assert columns["probe_lengths"] == [len(each.token_ids) for each in expected]
    assert columns["answer_lengths"] == [each.answer_length for each in expected]


def test_no_answer_is_no_probe_and_nobody_asks_unasked(codec: ChatCodec) -> None:
    columns = probe_columns(codec, [None, "Right"], [0, 30])
    forced = forced_answer(codec, "Right")
    assert columns == {
        "probe_starts": [0, 30],
        "probe_lengths": [0, len(forced.token_ids)],
        "answer_lengths": [0, forced.answer_length],
        "probe_ids": forced.token_ids,
    }
    reply = codec.text_ids("<think>hm</think><answer>Right</answer><|im_end|>")
    assert set(play(dry_lake(), codec, ListPolicy([reply])).known_answers) == {None}


def test_a_reply_broken_off_before_its_first_token_has_a_probe(tokenizer: PreTrainedTokenizerFast) -> None:
    codec = ChatCodec(tokenizer)
    trajectory = play(dry_lake(max_turns=1), codec, ListPolicy([[]]), ask_answers=True)
    assert (trajectory.turn_starts, trajectory.known_answers) == ([0], ["Right || Right"])
