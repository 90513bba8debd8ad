"""Forced answers: what is put behind the context of a turn to ask a policy how likely it finds a known answer.

The opening of a reply in the worlds' own form, with nothing between its think tags, then the answer:

    context of the turn | <think> </think> <answer> | answer

What the codec opens every reply with is part of the context and left out.
The closing tag is left out: what stands after the answer changes nothing of its log-probability. The text is encoded
with it, so that the tokens are those of such a reply; the answer's are those with a character of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from actfocus_verl.rollout.chat import ChatCodec
from actfocus_verl.rollout.columns import read_reply


@dataclass(frozen=True)
class ForcedAnswer:
    """What follows the context of a turn. token_ids: opening and answer. answer_length: how many are the answer's."""

    token_ids: list[int]
    answer_length: int


def forced_answer(codec: ChatCodec, answer: str) -> ForcedAnswer:
    """The forced answer of a text. Raises ValueError for one that no reply could hold between its answer tags."""
    token_ids = codec.text_ids(f"<think> </think> <answer> {answer} </answer>".removeprefix(codec.opening))
    parsed = read_reply(codec, token_ids).parsed
    if parsed.answer is None or not parsed.actions:
        raise ValueError(f"the known answer {answer!r} cannot stand between the tags of a reply")
    text, spans = codec.offsets(token_ids)
    content = text[slice(*parsed.answer)]
    start = parsed.answer[0] + len(content) - len(content.lstrip())
    end = start + len(content.strip())
    places = [place for place, (first, last) in enumerate(spans) if first < end and last > start]
    return ForcedAnswer(token_ids[: places[-1] + 1], places[-1] + 1 - places[0])


def probe_columns(codec: ChatCodec, answers: Sequence[str | None], starts: Sequence[int]) -> dict[str, list[int]]:
    """The forced answers of an episode of K turns as flat columns of integers.

    answers (K): the known answer to the state each turn saw. starts (K): response tokens before each turn's reply.
    probe_starts (K), as given. probe_lengths (K): tokens of each forced answer; 0 where there is none.
    answer_lengths (K): how many of them, at the end, are the answer's. probe_ids: the forced answers side by side.
    """
    forced = [forced_answer(codec, answer) if answer is not None else ForcedAnswer([], 0) for answer in answers]
    return {
        "probe_starts": list(starts),
        "probe_lengths": [len(each.token_ids) for each in forced],
        "answer_lengths": [each.answer_length for each in forced],
        "probe_ids": [token_id for each in forced for token_id in each.token_ids],
    }
