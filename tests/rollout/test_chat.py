"""The chat template in pieces, offsets of sampled ids, and the models that cannot be used."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from actfocus_verl.errors import ConfigurationError
from actfocus_verl.rollout import ChatCodec, TokenDecoder
from tests.helpers.tokenizer import QWEN_TEMPLATE, build_tokenizer

MESSAGES = [{"role": "system", "content": "s y s"}, {"role": "user", "content": "Turn 1\nP_√"}]


def test_the_start_is_what_the_template_renders(codec: ChatCodec, tokenizer):
    ids = codec.initial_ids(MESSAGES)
    assert ids == tokenizer.apply_chat_template(MESSAGES, add_generation_prompt=True, return_dict=False)
    expected = "<|im_start|>system\ns y s<|im_end|>\n<|im_start|>user\nTurn 1\nP_√<|im_end|>\n<|im_start|>assistant\n"
    assert codec.offsets(ids)[0] == expected


def test_start_reply_and_continuation_are_the_whole_conversation(codec: ChatCodec, tokenizer):
    reply = codec._encode("<answer>Up</answer>")
    conversation = [
        *MESSAGES,
        {"role": "assistant", "content": "<answer>Up</answer>"},
        {"role": "user", "content": "Turn 2"},
    ]
    whole = tokenizer.apply_chat_template(conversation, add_generation_prompt=True, return_dict=False)
    start = codec.initial_ids(MESSAGES)
    assert [*start, *reply, *codec.continuation_ids("Turn 2", closed=False)] == whole
    closed = [*reply, codec.end_of_turn_id]
    assert codec.is_closed(closed)
    assert not codec.is_closed(reply)
    assert [*start, *closed, *codec.continuation_ids("Turn 2")] == whole


def test_offsets_of_split_characters_by_hand(byte_codec: ChatCodec):
    ids = byte_codec._encode("aé🦙b")
    assert len(ids) == 1 + 2 + 4 + 1
    assert byte_codec.offsets(ids) == ("aé🦙b", [(0, 1), (1, 2), (1, 2), (2, 3), (2, 3), (2, 3), (2, 3), (3, 4)])


def test_bytes_that_are_no_text_become_replacement_characters(byte_codec: ChatCodec):
    ids = byte_codec._encode("🦙")[:3] + byte_codec._encode("a<|im_end|>") + byte_codec._encode("é")[1:]
    text, spans = byte_codec.offsets(ids)
    assert text == "\ufffd\ufffd\ufffda<|im_end|>\ufffd"
    assert spans == [(0, 1), (1, 2), (2, 3), (3, 4), (4, 14), (14, 15)]


def test_the_text_a_token_adds_by_hand(byte_codec: ChatCodec):
    decoder = TokenDecoder(byte_codec._tokenizer)
    assert decoder.decode(byte_codec._encode("aé🦙b")).texts == ["a", "é", "", "🦙", "", "", "", "b"]
    assert decoder.decode([]).texts == []


def test_ids_beyond_the_tokenizer_are_visible_too(codec: ChatCodec, tokenizer):
    # models pad their vocabulary, and may sample such a row
    text, spans = codec.offsets([len(tokenizer) + 5, *codec._encode("a")])
    assert (text, spans) == ("\ufffda", [(0, 1), (1, 2)])


@settings(deadline=None)
@given(text=st.text(max_size=60))
def test_offsets_give_back_any_text(codec: ChatCodec, byte_codec: ChatCodec, text):
    for each in (codec, byte_codec):
        ids = each._encode(text)
        decoded, spans = each.offsets(ids)
        assert decoded == text
        assert all(start < end for start, end in spans)
        assert {c for start, end in spans for c in range(start, end)} == set(range(len(text)))


@settings(deadline=None)
@given(data=st.data())
def test_offsets_of_any_ids_are_ordered_and_inside_the_text(codec: ChatCodec, tokenizer, data):
    ids = data.draw(st.lists(st.integers(0, len(tokenizer) + 10), max_size=50))
    text, spans = codec.offsets(ids)
    assert len(spans) == len(ids)
    assert spans == sorted(spans)
    assert all(0 <= start < end <= len(text) for start, end in spans)
    text.encode()  # no lone surrogates
    texts = TokenDecoder(tokenizer).decode(ids).texts
    assert len(texts) == len(ids)
    assert "".join(texts) == text


@settings(deadline=None)
@given(data=st.data())
def test_offsets_agree_with_the_tokenizers_own_decoding(codec: ChatCodec, tokenizer, data):
    ids = data.draw(st.lists(st.integers(0, len(tokenizer) - 1), max_size=40))
    theirs = tokenizer.decode(ids, skip_special_tokens=False)
    ours, _ = codec.offsets(ids)
    assert ours.replace("\ufffd", "") == theirs.replace("\ufffd", "")


def test_sentencepiece_style_tokens():
    vocabulary = {"<unk>": 0, "</s>": 1, "▁Up": 2, "<0xC3>": 3, "<0xA9>": 4, "a": 5}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>", byte_fallback=True))
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    template = "{% for m in messages %}{{ m['content'] }}</s>{% endfor %}"
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", unk_token="<unk>")
    tokenizer.chat_template = template
    codec = ChatCodec(tokenizer)
    assert codec.end_of_turn_id == 1
    assert codec.offsets([2, 3, 4, 5, 1]) == (" Upéa</s>", [(0, 3), (3, 4), (3, 4), (4, 5), (5, 9)])


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        (None, "no chat template"),
        ("{{ raise_exception('no system role') }}", "refuses"),
        ("{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}", "does not close a reply"),
        (QWEN_TEMPLATE + "{% if add_generation_prompt %}<think>\n{% endif %}", "opens <think> itself"),
    ],
)
def test_models_that_cannot_be_used_are_refused_in_one_line(template, problem):
    with pytest.raises(ConfigurationError, match=problem) as caught:
        ChatCodec(build_tokenizer(template=template))
    assert str(caught.value).startswith("model.path=")
    assert "\n" not in str(caught.value)


def test_template_options_reach_the_template():
    template = QWEN_TEMPLATE.replace("assistant\n{%", "assistant\n{{ opening }}{%")
    codec = ChatCodec(build_tokenizer(template=template), opening="hm ")
    assert codec.offsets(codec.initial_ids(MESSAGES))[0].endswith("assistant\nhm ")
