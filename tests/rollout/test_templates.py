"""Chat templates of other kinds: what is written piece by piece is what the template means, or it is refused."""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from actfocus_verl.errors import ConfigurationError
from actfocus_verl.rollout import ChatCodec, Episode, Reply
from tests.helpers import tokenizer as built
from tests.helpers.tokenizer import QWEN_TEMPLATE, build_tokenizer

RULES = "The rules.\nBe brief."
TURN = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}MORE<|im_end|>\n{% endfor %}"
ASKING = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"


def turns(more: str) -> str:
    """Qwen's template with something more in every message."""
    return TURN.replace("MORE", more) + ASKING


@cache
def tokenizer(name: str) -> PreTrainedTokenizerFast:
    match name:
        case "mistral v1":
            return built.build_sentencepiece("tokenizer.model.v1", built.MISTRAL_V1_TEMPLATE)
        case "mistral v3":
            return built.build_sentencepiece("mistral_instruct_tokenizer_240323.model.v3", built.MISTRAL_V3_TEMPLATE)
        case "tekken":
            return built.build_tekken(built.MISTRAL_V3_TEMPLATE)
        case "gemma":
            return build_tokenizer(template=built.GEMMA_TEMPLATE)
        case "deaf":  # as old templates are: it leaves a system message out
            return build_tokenizer(template=turns("").replace("in messages", "in messages if m.role != 'system'"))
    return build_tokenizer()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("mistral v1", "refuses system, user, assistant, user (Conversation roles must alternate"),
        ("mistral v3", "what its chat template writes after a reply depends on the system text: '</s>[INST] actfocus"),
        ("tekken", "what its chat template writes after a reply depends on the system text: '</s>[INST] actfocus"),
        ("gemma", "refuses system, user, assistant, user (System role not supported)"),
        ("deaf", "does not write the system text and then the user's: '<|im_start|>user\\nactfocus"),
        ("qwen", None),
    ],
)
def test_pieces_are_the_whole_conversation_with_the_system_text_where_the_template_has_room_for_it(
    name: str, reason: str | None
) -> None:
    codec = ChatCodec(tokenizer(name))
    first = [{"role": "user", "content": "Turn 1"}]
    asked = [{"role": "system", "content": RULES}, *first]
    if reason is None:
        assert codec.no_system is None
        assert codec.messages(asked) == asked
    else:
        assert reason in str(codec.no_system)
        assert codec.messages(asked) == [{"role": "user", "content": f"{RULES}\n\nTurn 1"}]
    assert codec.messages(first) == first

    conversation = codec.messages(asked)
    context = codec.initial_ids(asked)
    for turn in (2, 3, 4):
        conversation.append({"role": "assistant", "content": "<answer>Up</answer>"})
        conversation.append({"role": "user", "content": f"Turn {turn}"})
        reply = codec.text_ids("<answer>Up</answer>")
        context += [*reply, *codec.continuation_ids(f"Turn {turn}", closed=False)]
        rendered = tokenizer(name).apply_chat_template(conversation, add_generation_prompt=True, tokenize=False)
        # a sampled reply begins with the space that Mistral's template writes before it
        assert codec.offsets(context)[0].lstrip().replace("] <answer>", "]<answer>") == rendered.replace(
            "] <answer>", "]<answer>"
        )


def test_no_word_of_ours_reaches_an_episode_on_mistrals_template() -> None:
    from actfocus_verl.environments import make_world

    codec = ChatCodec(tokenizer("mistral v3"))
    episode = Episode(make_world("sokoban", preset="clean", split="train", index=3), codec, max_context_tokens=10**5)
    context = episode.start()
    reply = [*codec.text_ids("<think>a</think><answer>Up</answer>"), codec.end_of_turn_id]
    following = episode.receive(Reply(reply))
    assert following is not None
    said = codec.offsets(following[len(context) + len(reply) :])[0]
    assert said.startswith("[INST] Reward:")
    assert episode.messages[0]["role"] == "user"
    assert episode.messages[0]["content"].startswith(episode.world.system_prompt())
    text = codec.offsets(following)[0]
    assert text.count(episode.world.system_prompt()) == 1


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        (
            turns("{{ ' (' ~ loop.index ~ ')' }}"),
            r"writes after a reply depends on the number of turns: ' (3)<|im_end|>\n<|im_start|>user\nactfocus",
        ),
        (
            turns("{{ ' Think first.' if loop.last else '' }}"),
            "writes before a reply depends on later turns: ",
        ),
        (
            turns("{{ messages[1]['content'] if loop.index == 4 else '' }}"),
            "writes after a reply depends on what was said before: ",
        ),
        (
            turns("").replace("{{ m['content'] }}", "{{ m['content'] | upper }}"),
            "does not write each reply once: '",
        ),
        ("{% for m in messages %}{{ m['role'] }}<|im_end|>{% endfor %}", "does not write "),
        ("{{ raise_exception('never\nmind') }}", "refuses system, user, assistant, user (never mind)"),
        (
            "{% for m in messages %}{{ m['content'] }}\n{% endfor %}",
            r"does not close a reply with a special token: '\n'",
        ),
        (
            QWEN_TEMPLATE + "{% if add_generation_prompt %}<think>\n{% endif %}",
            r"assistant\n<think>\n'. Use another chat",
        ),
    ],
)
def test_what_cannot_be_written_piece_by_piece_is_refused_with_the_text_that_was_found(
    template: str, problem: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        ChatCodec(build_tokenizer(template=template))
    assert problem in str(caught.value)
    assert "actor_rollout_ref.model.custom_chat_template" in caught.value.remedy
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "header",
    [
        # a reply that was given has a shorter header than the generation prompt, and a longer one
        "{{ '<think>\n\n</think>\n\n' if loop is undefined }}",
        "{{ '' if loop is undefined else '<|channel|>final<|message|>' }}",
    ],
)
def test_a_generation_prompt_may_differ_from_the_header_of_a_reply_by_its_end(header: str) -> None:
    turns = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}HEADER{% endif %}"
        "{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\nHEADER{% endif %}"
    )
    assert ChatCodec(build_tokenizer(template=turns.replace("HEADER", header))).no_system is None


class TestOptions:
    def test_they_decide_what_the_template_writes(self) -> None:
        thinking = build_tokenizer(template=built.THINKING_TEMPLATE)
        with pytest.raises(ConfigurationError, match="opens <think> itself") as caught:
            ChatCodec(thinking)
        assert caught.value.remedy.startswith("Set +data.apply_chat_template_kwargs.enable_thinking=false, or another")
        codec = ChatCodec(thinking, enable_thinking=False)
        for ids in (codec.initial_ids([{"role": "user", "content": "Go"}]), codec.continuation_ids("Go")):
            assert codec.offsets(ids)[0].endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")

    @pytest.mark.parametrize(
        ("option", "problem"),
        [
            ("enable_thinkin", "the chat template of TokenizersBackend reads no such name"),
            ("tokenizer", "reads no such name"),
            ("tokenize", "is not an option of a chat template"),
            ("chat_template", "is not an option of a chat template"),
            ("add_generation_prompt", "is not an option of a chat template"),
        ],
    )
    def test_a_name_without_effect_is_refused(self, option: str, problem: str) -> None:
        options: dict[str, Any] = {option: True}
        with pytest.raises(ConfigurationError) as caught:
            ChatCodec(build_tokenizer(template=built.THINKING_TEMPLATE), **options)
        assert str(caught.value).startswith(f"data.apply_chat_template_kwargs.{option}=True: ")
        assert problem in str(caught.value)


def test_contexts_only_grow() -> None:
    """The start of a later context is the context before it, whatever the template does to a conversation."""
    codec = ChatCodec(build_tokenizer(template=built.THINKING_TEMPLATE), enable_thinking=False)
    contexts = [codec.initial_ids([{"role": "system", "content": RULES}, {"role": "user", "content": "Turn 1"}])]
    for turn in (2, 3):
        contexts.append([*contexts[-1], *codec.text_ids("Up"), *codec.continuation_ids(f"Turn {turn}", closed=False)])
    assert all(later[: len(earlier)] == earlier for earlier, later in pairwise(contexts))
