"""Where a reply is cut: by hand, with a token a byte."""

from __future__ import annotations

import pytest

from actfocus_verl.rollout import ChatCodec, Reply
from actfocus_verl.truth.segments import Boundary, Kind, Segment, episode_segments, reply_cuts
from tests.helpers.tokenizer import build_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(vocab_size=259)


@pytest.mark.parametrize(
    ("text", "cuts"),
    [
        # 7 + 2 + 8 bytes until </think> is complete, 1 + 8 + 2 + 9 more until </answer>, and the end-of-turn token
        (
            "<think>go</think> <answer>Up</answer><|im_end|>",
            [(Kind.REASONING, 17), (Kind.ACTION, 37), (Kind.FORMAT, 38)],
        ),
        ("<think>go</think> <answer>Up</answer>", [(Kind.REASONING, 17), (Kind.ACTION, 37)]),  # cut by its length
        ("<think>go</think> <answer>U", [(Kind.REASONING, 17), (Kind.ACTION, 27)]),
        ("<think>go</think>", [(Kind.REASONING, 17)]),
        ("go on", [(Kind.REASONING, 5)]),
        ("</answer>é</think></answer>!", [(Kind.REASONING, 19), (Kind.ACTION, 28), (Kind.FORMAT, 29)]),
        ("", [(Kind.REASONING, 0)]),
    ],
)
def test_a_cut_is_where_a_tag_is_complete(tokenizer, text: str, cuts: list[tuple[Kind, int]]) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False)
    codec = ChatCodec(tokenizer)
    assert reply_cuts(codec, ids) == cuts
    for _, end in cuts[:-1]:  # a stopping time: what follows does not decide it
        assert [cut for cut in reply_cuts(codec, ids[:end]) if cut in cuts] == [cut for cut in cuts if cut[1] <= end]


def test_the_world_has_a_segment_of_its_own(tokenizer) -> None:
    ids = tokenizer.encode("<think>go</think> <answer>Up</answer><|im_end|>", add_special_tokens=False)
    assert episode_segments(ChatCodec(tokenizer), [Reply(ids), Reply([65])]) == [
        Segment(Kind.REASONING, Boundary(0, 0, complete=False)),
        Segment(Kind.ACTION, Boundary(0, 17, complete=False)),
        Segment(Kind.FORMAT, Boundary(0, 37, complete=False)),
        Segment(Kind.LUCK, Boundary(0, 38, complete=True)),
        Segment(Kind.REASONING, Boundary(1, 0, complete=False)),
        Segment(Kind.LUCK, Boundary(1, 1, complete=True)),
    ]
