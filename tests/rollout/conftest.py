"""Codecs over a tiny tokenizer."""

from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerFast

from actfocus_verl.rollout import ChatCodec
from tests.helpers.tokenizer import build_tokenizer


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer()


@pytest.fixture(scope="session")
def codec(tokenizer: PreTrainedTokenizerFast) -> ChatCodec:
    return ChatCodec(tokenizer)


@pytest.fixture(scope="session")
def byte_codec() -> ChatCodec:
    """A token is a byte: every tag and every longer character is split over tokens."""
    return ChatCodec(build_tokenizer(vocab_size=259))
