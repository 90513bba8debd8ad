"""Contexts with hindsight: a turn's context in which the user's last message ends with the feedback on the reply to it.

    context of the turn before | its reply | user's message, feedback | start of a reply

The reply that was sampled without the feedback is scored behind it. What the policy sampled before stays as it is;
what stands between two replies is written by the chat template, as it was in the episode.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from actfocus_verl.rollout.chat import ChatCodec


@dataclass(frozen=True)
class InformedContext:
    """kept: how many ids of the episode, from the first prompt on, it begins with. token_ids: what follows them."""

    kept: int
    token_ids: list[int]


def informed_context(
    codec: ChatCodec, messages: Sequence[Mapping[str, str]], feedback: str, *, kept: int, closed: bool
) -> InformedContext:
    """The context of a reply to the messages ({"role", "content"}), the last of which is the user's.

    kept: ids up to the end of the reply before; 0 for the first turn, whose prompt is written anew. closed: whether
    that reply ended with the end-of-turn token.
    """
    *others, asked = messages
    text = f"{asked['content']}\n\n{feedback}"
    if kept == 0:
        return InformedContext(0, codec.initial_ids([*map(dict, others), {"role": "user", "content": text}]))
    return InformedContext(kept, codec.continuation_ids(text, closed=closed))


def feedback_columns(
    informed: Sequence[InformedContext], reply_lengths: Sequence[int], *, max_tokens: int
) -> dict[str, list[int]]:
    """The contexts of an episode of K turns as flat columns of integers.

    reply_lengths (K): tokens of each reply. max_tokens: context and reply together; a longer one is left out.
    feedback_starts (K): ids of the episode kept. feedback_lengths (K): ids that follow them; 0 where it is left out.
    feedback_ids: these side by side.
    """
    fitting = [
        each.token_ids if each.kept + len(each.token_ids) + length <= max_tokens else []
        for each, length in zip(informed, reply_lengths, strict=True)
    ]
    return {
        "feedback_starts": [each.kept for each in informed],
        "feedback_lengths": [len(ids) for ids in fitting],
        "feedback_ids": [token_id for ids in fitting for token_id in ids],
    }
