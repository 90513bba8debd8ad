"""A reply that the prompt opens: the tag is context, everything after it is the policy's."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from actfocus_verl.credit.tokens import TokenRole
from actfocus_verl.environments.frozen_lake import FrozenLake
from actfocus_verl.environments.frozen_lake.config import FrozenLakeConfig
from actfocus_verl.errors import ConfigurationError
from actfocus_verl.rollout import ChatCodec, Episode, Reply, forced_answer, read_reply
from tests.helpers import tokenizer as built
from tests.helpers.episodes import CORRIDOR, ListPolicy, play

OPENING = "<think>"
TOKENIZERS = {
    "merged": built.build_tokenizer(),
    "bytes": built.build_tokenizer(vocab_size=259),
    "added_tags": built.build_tokenizer(added_tags=True),
}


def lake() -> FrozenLake:
    """No slips, three moves to the right, the paper's protocol."""
    config = FrozenLakeConfig(success_rate=1.0).with_paper_protocol()
    return FrozenLake(CORRIDOR, config, preset="ragen", split="train", index=0, episode_seed=0)


def said(codec: ChatCodec, *replies: str) -> list[list[int]]:
    return [[*codec.text_ids(reply), codec.end_of_turn_id] for reply in replies]


@pytest.mark.parametrize("name", TOKENIZERS)
def test_prompts_and_replies_are_the_templates_rendering(name: str) -> None:
    tokenizer = TOKENIZERS[name]
    codec = ChatCodec(tokenizer, OPENING)
    replies = ["go</think><answer>Right || Right</answer>", "on</think><answer>Right</answer>"]
    policy = ListPolicy(said(codec, *replies))
    trajectory = play(lake(), codec, policy)

    def rendered(messages: list[dict[str, str]]) -> str:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return f"{text}{OPENING}"

    episode = Episode(lake(), codec, max_context_tokens=10_000)
    contexts = [episode.start()]
    contexts.append(episode.receive(Reply(policy.sampled[0])) or [])
    assert contexts == policy.contexts
    assert episode.messages[2] == {"role": "assistant", "content": f"{OPENING}{replies[0]}"}
    assert codec.offsets(contexts[1])[0] == rendered(episode.messages)
    assert codec.initial_ids(episode.messages[:2]) == trajectory.prompt_ids
    assert trajectory.prompt_ids == tokenizer.encode(rendered(episode.messages[:2]), add_special_tokens=False)
    whole = codec.offsets(trajectory.prompt_ids + trajectory.response_ids)[0]
    assert whole == f"{rendered(episode.messages)}{replies[1]}<|im_end|>"
    assert trajectory.turn_rewards == [0.0, 1.0]


@pytest.mark.parametrize("name", TOKENIZERS)
def test_the_tag_is_not_trained_and_the_answer_is_what_acts(name: str) -> None:
    codec = ChatCodec(TOKENIZERS[name], OPENING)
    policy = ListPolicy(said(codec, "go</think><answer>Down</answer>", "on</think><answer>Up || Up</answer> Bye."))
    trajectory = play(lake(), codec, policy)
    columns = list(zip(trajectory.response_ids, trajectory.response_mask, trajectory.token_roles, strict=True))

    def text_of(wanted: TokenRole) -> list[str]:
        """Of each of the first two replies, the text of its tokens of a role."""
        ids: list[list[int]] = [[] for _ in range(trajectory.turns)]
        for (token_id, _, role), turn in zip(columns, trajectory.turn_ids, strict=True):
            if turn >= 0 and role == wanted:
                ids[turn].append(token_id)
        return [codec.offsets(each)[0] for each in ids[:2]]

    assert [i for i, mask, _ in columns if mask] == [i for reply in policy.sampled for i in reply]
    between = codec.offsets([i for i, mask, _ in columns[: columns.index(columns[-1])] if not mask])[0]
    assert between.count(OPENING) == between.count("<|im_start|>assistant\n<think>")
    assert all(role == TokenRole.ENVIRONMENT for _, mask, role in columns if not mask)
    assert codec.offsets(trajectory.prompt_ids)[0].endswith("assistant\n<think>")
    # a token with a character of the answer acts, whatever else it holds
    for found, answer in zip(text_of(TokenRole.ACTION), ("Down", "Up || Up"), strict=True):
        assert answer in found
        assert "go" not in found
    assert [text.strip() for text in text_of(TokenRole.REASONING)] != ["", ""]
    assert "Bye." in text_of(TokenRole.REASONING)[1]
    assert OPENING not in "".join(text_of(TokenRole.FORMAT))


def test_roles_by_hand() -> None:
    """Byte by byte: what is ignored is reasoning, a tag inside the answer is format, as are special tokens."""
    codec = ChatCodec(TOKENIZERS["bytes"], OPENING)
    letters = {TokenRole.REASONING: "r", TokenRole.ACTION: "a", TokenRole.FORMAT: "f"}

    def roles(text: str) -> str:
        return "".join(letters[role] for role in read_reply(codec, codec.text_ids(text), lenient=True).roles)

    assert roles("ab</think> <answer>Up</answer>") == "rr" + "f" * 8 + "f" + "f" * 8 + "aa" + "f" * 9
    assert roles("a</think><answer>U<think>p</answer> x y") == (
        "r" + "f" * 8 + "f" * 8 + "a" + "f" * 7 + "a" + "f" * 9 + "f" + "rrr"
    )
    assert roles("a</think>") == "r" + "f" * 8


@pytest.mark.parametrize(
    ("text", "actions"),
    [
        ("go<|endoftext|></think><answer>Up</answer>", ("Up",)),
        ("go</think><answer>U<|im_start|>p || Down</answer><|im_start|>", ("Up", "Down")),
        ("go</thi<|endoftext|>nk><answer>Up</answer>", ("Up",)),
        ("<|im_start|>", None),
    ],
)
def test_special_tokens_are_passed_over_where_replies_are_read_leniently(text: str, actions: Any) -> None:
    for tokenizer in TOKENIZERS.values():
        codec = ChatCodec(tokenizer, OPENING)
        ids = codec.text_ids(text)
        read = read_reply(codec, ids, lenient=True)
        assert read.parsed.parses == (actions is not None)
        assert read.parsed.actions == (actions or ())
        assert not read_reply(codec, ids).parsed.parses
        acting = [i for i, role in zip(ids, read.roles, strict=True) if role == TokenRole.ACTION]
        assert codec.special_ids.isdisjoint(acting)
        assert bool(acting) == (actions is not None)


def test_a_template_that_opens_the_thoughts_itself_needs_no_second_tag() -> None:
    tokenizer = built.build_tokenizer(template=built.THINKING_TEMPLATE)
    with pytest.raises(ConfigurationError, match=r"env\.prefill=think"):
        ChatCodec(tokenizer)
    codec = ChatCodec(tokenizer, OPENING)
    trajectory = play(lake(), codec, ListPolicy(said(codec, "go</think><answer>Right</answer>")))
    assert codec.offsets(trajectory.prompt_ids)[0].endswith("assistant\n<think>\n")
    assert trajectory.parsed_turns == trajectory.turns == 3
    # where it has closed them, the tag is written behind that
    closed = ChatCodec(tokenizer, OPENING, enable_thinking=False)
    assert closed.offsets(closed.continuation_ids("Go"))[0].endswith("</think>\n\n<think>")


def test_a_codec_with_another_opening_is_refused(codec: ChatCodec) -> None:
    with pytest.raises(ValueError, match="prefill"):
        Episode(lake(), codec, max_context_tokens=10_000)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_forced_answer_goes_on_behind_the_tag(name: str) -> None:
    tokenizer: PreTrainedTokenizerFast = TOKENIZERS[name]
    codec = ChatCodec(tokenizer, OPENING)
    forced = forced_answer(codec, "Right || Up")
    assert codec.offsets(forced.token_ids)[0].rstrip().startswith(" </think> <answer> Right || Up")
    assert "Right || Up" in codec.offsets(forced.token_ids[-forced.answer_length :])[0]
