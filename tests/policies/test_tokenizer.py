"""Every text survives the round trip; what carries state and decision is a token of its own; the template is Qwen's."""

import random
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actfocus_verl.environments import scripted_player
from actfocus_verl.policies import TinyPolicyConfig
from actfocus_verl.policies.demonstrations import conversation
from actfocus_verl.policies.tokenizer import train_tokenizer
from actfocus_verl.rollout import ChatCodec


@pytest.fixture(scope="module")
def tokenizer():
    config = TinyPolicyConfig()
    return train_tokenizer([m["content"] for i in range(400) for m in conversation(config, i)], config.vocab_size)


def pieces(tokenizer, text):
    return [tokenizer.decode([token]) for token in tokenizer.encode(text)]


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=60))
def test_any_text_survives(tokenizer, text):
    """Up to NFC, which Qwen2's tokenizers normalise to."""
    assert tokenizer.decode(tokenizer.encode(text)) == unicodedata.normalize("NFC", text)


def test_every_byte_is_a_token(tokenizer):
    everything = bytes(range(256)).decode("latin-1")
    assert tokenizer.decode(tokenizer.encode(everything)) == everything


def test_reply_tokens(tokenizer):
    assert pieces(tokenizer, "at row 3, column 1. </think> <answer> Left || Up </answer>")[-11:] == [
        " 3", ", column", " 1", ". ", "</think> ", "<answer>", " Left", " ||", " Up", " ", "</answer>",
    ]  # fmt: skip


def test_state_tokens(tokenizer):
    state = pieces(tokenizer, "\nYou: (3, 1). Goal: (1, 3). Holes: (2, 2), (3, 2).\n____\n___G\n")
    places = ["\nYou: (3, 1)", ". Goal: (1, 3)", ". Holes:", " (2, 2)", ",", " (3, 2)"]
    assert state == [*places, ".\n", "____\n", "___G\n"]


def test_what_is_copied_is_one_token_wherever_it_stands():
    config = TinyPolicyConfig(env="webshop").resolved()
    texts = [m["content"] for i in range(200) for m in conversation(config, i)]
    shop = train_tokenizer(texts, config.vocab_size, scripted_player("webshop").copied)
    assert pieces(shop, "I want a running shoe, hand made, color black, at most $35.") == [
        "I", " want a", " ", "running shoe", ", hand made", ", ", "color", " ", "black", ", ", "at most", " ", "$35",
        ".",
    ]  # fmt: skip
    assert pieces(shop, "search[running shoe, hand made]")[-4:] == ["[", "running shoe", ", hand made", "]"]
    assert pieces(shop, "click[black]")[-3:] == ["[", "black", "]"]
    assert pieces(shop, "\ncolor: black (chosen), brown")[1:3] == [": ", "black"]


def test_special_tokens(tokenizer):
    assert (tokenizer.pad_token, tokenizer.eos_token) == ("<|endoftext|>", "<|im_end|>")
    for token in ("<|endoftext|>", "<|im_start|>", "<|im_end|>"):
        assert len(tokenizer.encode(token)) == 1
        assert tokenizer.convert_tokens_to_ids(token) in tokenizer.all_special_ids


def test_template_renders_like_qwen_and_invents_no_system_message(tokenizer):
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}]
    rendered = tokenizer.apply_chat_template(messages, tokenize=False)
    assert rendered == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYo<|im_end|>\n"
    prompted = tokenizer.apply_chat_template(messages[:1], tokenize=False, add_generation_prompt=True)
    assert prompted == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


def test_a_conversation_grown_by_continuation_is_the_conversation_encoded_at_once(tokenizer):
    system, first, reply, second = conversation(TinyPolicyConfig(), 2)[:4]
    codec = ChatCodec(tokenizer)
    grown = codec.initial_ids([system, first])
    grown += [*tokenizer.encode(reply["content"]), codec.end_of_turn_id]
    grown += codec.continuation_ids(second["content"])
    assert grown == codec.initial_ids([system, first, reply, second])


def test_the_order_of_equal_texts_does_not_matter():
    texts = [m["content"] for i in range(30) for m in conversation(TinyPolicyConfig(), i)]
    shuffled = random.Random(0).sample(texts, len(texts))
    assert train_tokenizer(texts, 400).get_vocab() == train_tokenizer(shuffled, 400).get_vocab()
