"""Contexts with the feedback on the reply to them: what is told, where it stands, and that sampled ids stay."""

from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerFast

from actfocus_verl.rollout import ChatCodec, InformedContext, Trajectory, feedback_columns
from tests.helpers.episodes import ListPolicy, dry_lake, play

RIGHT = "<think>hm</think><answer>Right</answer><|im_end|>"
NOTHING = "<think>hm</think><|im_end|>"


def informed_ids(trajectory: Trajectory, turn: int) -> list[int]:
    """The whole context, whose beginning is the episode's own."""
    each = trajectory.informed[turn]
    return [*(trajectory.prompt_ids + trajectory.response_ids)[: each.kept], *each.token_ids]


def test_they_are_what_the_template_renders(codec: ChatCodec, tokenizer: PreTrainedTokenizerFast) -> None:
    policy = ListPolicy([codec.text_ids(text) for text in (RIGHT, NOTHING, RIGHT)])
    trajectory = play(dry_lake(max_turns=3), codec, policy, give_feedback=True)
    plain = [tokenizer.decode(context) for context in policy.contexts]
    for turn, context in enumerate(plain):
        text = tokenizer.decode(informed_ids(trajectory, turn))
        assert informed_ids(trajectory, turn) == tokenizer.encode(text, add_special_tokens=False)
        asked, opened, start = context.rpartition("<|im_end|>")
        told = text.removeprefix(asked).removesuffix(f"{opened}{start}")
        assert text == f"{asked}{told}{opened}{start}"  # the feedback alone has been added, at the message's end
        assert told.startswith("\n\nWhat your reply to this message leads to is known already:\nReward: ")
        following = trajectory.texts[turn + 1].state if turn < 2 else trajectory.final_state
        assert following in told
        assert ("The reply holds no valid action" in told) == (turn == 1)
        assert ("The episode failed with a return of " in told) == (turn == 2)
    assert trajectory.informed[0].kept == 0
    first, second = (len(context) for context in policy.contexts[:2])
    assert [each.kept for each in trajectory.informed[1:]] == [
        first + len(policy.sampled[0]),
        second + len(policy.sampled[1]),
    ]


def test_a_success_is_told(codec: ChatCodec) -> None:
    policy = ListPolicy([codec.text_ids(RIGHT)])
    trajectory = play(dry_lake(), codec, policy, give_feedback=True)
    assert trajectory.success
    told = codec.offsets(informed_ids(trajectory, trajectory.turns - 1))[0]
    assert f"The episode succeeded with a return of {trajectory.episode_return:g}." in told


def test_a_reply_that_was_cut_off_is_closed_and_not_encoded_again(codec: ChatCodec) -> None:
    cut = [token for text in ("<thi", "nk>h", "m") for token in codec.text_ids(text)]  # no encoder would split it so
    policy = ListPolicy([cut])
    trajectory = play(dry_lake(max_turns=2), codec, policy, give_feedback=True)
    second = informed_ids(trajectory, 1)
    assert second[: len(trajectory.prompt_ids) + len(cut)] == [*trajectory.prompt_ids, *cut]
    assert trajectory.informed[1].token_ids[0] == codec.end_of_turn_id


def test_nobody_keeps_them_unasked(codec: ChatCodec) -> None:
    assert play(dry_lake(), codec, ListPolicy([codec.text_ids(RIGHT)])).informed == []


@pytest.mark.parametrize(("most", "lengths"), [(9, [2, 3]), (8, [2, 0]), (4, [0, 0])])
def test_what_does_not_fit_is_left_out(most: int, lengths: list[int]) -> None:
    informed = [InformedContext(0, [5, 6]), InformedContext(4, [7, 8, 9])]
    columns = feedback_columns(informed, [3, 2], max_tokens=most)
    assert columns == {
        "feedback_starts": [0, 4],
        "feedback_lengths": lengths,
        "feedback_ids": [5, 6, 7, 8, 9][: sum(lengths)],
    }
