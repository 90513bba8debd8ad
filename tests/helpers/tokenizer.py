"""A small byte-level BPE tokenizer with a Qwen-style chat template, trained in memory: no download, same every time.

Beside it tokenizers of other kinds, published ones where an installed package ships them, and other kinds of templates.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import mistral_common
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaTokenizer, PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import TikTokenConverter

SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]

QWEN_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

TOOL_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'tool' %}"
    "{% if loop.previtem is not defined or loop.previtem['role'] != 'tool' %}<|im_start|>user{% endif %}"
    "\n<tool_response>\n{{ message['content'] }}\n</tool_response>"
    "{% if loop.nextitem is not defined or loop.nextitem['role'] != 'tool' %}<|im_end|>\n{% endif %}"
    "{% else %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "{% if loop.first and tools %}\n<tools>"
    "{% for tool in tools %}\n{{ tool | tojson }}{% endfor %}\n</tools>{% endif %}"
    "<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Tools, calls and results as Qwen 2.5 has them."""

_CORPUS = [
    "<think> I am at row 0, column 1. The goal is at row 2, column 3. Next to me: west ice, south hole. </think>",
    "<answer> Left || Down </answer> <answer>Right</answer> <answer> Up || Up </answer>",
    "Turn 1 You: (0, 1). Goal: (2, 3). Holes: (2, 0). Actions left: 10. Reward: -0.1 system user assistant",
    "P_O_ ____ G__√ X",
]


def build_tokenizer(
    *, vocab_size: int = 400, template: str | None = QWEN_TEMPLATE, added_tags: bool = False
) -> PreTrainedTokenizerFast:
    """The tokenizer. vocab_size 259 has no merges: a token is a byte. added_tags: the four tags are tokens."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(_CORPUS, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
        clean_up_tokenization_spaces=False,
    )
    if added_tags:
        tokenizer.add_tokens(["<think>", "</think>", "<answer>", "</answer>"])
    tokenizer.chat_template = template
    return tokenizer


MISTRAL_V1_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}{% else %}{{ m['content'] + eos_token }}"
    "{% endif %}{% endfor %}"
)
"""Mistral-7B-Instruct-v0.1's and v0.2's: no system message."""

MISTRAL_V3_TEMPLATE = (
    "{{ bos_token }}{% set turns = messages %}{% if messages[0].role == 'system' %}{% set said = messages[0].content %}"
    "{% set turns = messages[1:] %}{% endif %}{% for m in turns %}{% if m.role == 'user' %}"
    "{{ '[INST] ' + (said + '\n\n' if loop.last and said is defined else '') + m.content + '[/INST]' }}"
    "{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"
)
"""Mistral-7B-Instruct-v0.3's, Nemo-2407's, Small-2409's: the system text stands in the last user message."""

GEMMA_TEMPLATE = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% set role = 'model' if m['role'] == 'assistant' else m['role'] %}"
    "{{ '<|im_start|>' + role + '\n' + m['content'] | trim + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>model\n' }}{% endif %}"
)
"""Gemma 2's, with the special tokens of `build_tokenizer`: no system message, texts without the space around them."""

THINKING_TEMPLATE = (
    QWEN_TEMPLATE + "{% if add_generation_prompt %}{% if enable_thinking is defined and enable_thinking is false %}"
    "{{ '<think>\n\n</think>\n\n' }}{% else %}{{ '<think>\n' }}{% endif %}{% endif %}"
)
"""Like Qwen 3.5's: the generation prompt opens the thoughts, or closes them at once."""

ROLE_MARKS = ("<｜User｜>", "<｜Assistant｜>")
DEEPSEEK_TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}{% elif m.role == 'user' %}"
    "{{ '<｜User｜>' + m.content }}{% else %}{{ '<｜Assistant｜>' + m.content + '<|im_end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<｜Assistant｜>' }}{% endif %}"
)
"""Like DeepSeek's: roles are marked by added tokens that are not special."""


def build_sentencepiece(file: str, template: str) -> PreTrainedTokenizerFast:
    """A tokenizer that Mistral published, from `mistral_common` (it comes with vLLM)."""
    with TemporaryDirectory() as folder:
        shutil.copy(_mistral_data() / file, f"{folder}/tokenizer.model")
        tokenizer = LlamaTokenizer.from_pretrained(folder)
    tokenizer.chat_template = template
    return tokenizer


def build_tekken(template: str, *, tokens: int | None = 8000) -> PreTrainedTokenizerFast:
    """Mistral's tiktoken-like tokenizer with its commonest tokens: any lowest ranks are a tokenizer. None: all."""
    tekken = json.loads((_mistral_data() / "tekken_240718.json").read_text(encoding="utf-8"))
    config = tekken["config"]
    size = config["default_vocab_size"] - config["default_num_special_tokens"] if tokens is None else tokens
    with TemporaryDirectory() as folder:
        ranks = Path(folder) / "ranks.tiktoken"
        ranks.write_text("\n".join(f"{entry['token_bytes']} {entry['rank']}" for entry in tekken["vocab"][:size]))
        backend = from_ranks(ranks, config["pattern"], ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")
    tokenizer.chat_template = template
    return tokenizer


def from_ranks(file: Path, pattern: str, special: Sequence[str]) -> Tokenizer:
    """A tokenizer of tiktoken's kind: `<base64> <rank>` a line, and special tokens behind the ranks."""
    with patch.dict(os.environ, TIKTOKEN_CACHE_DIR=""):  # no copy of the file in the machine's temporary folder
        return TikTokenConverter(str(file), pattern=pattern, extra_special_tokens=[*special]).converted()


def _mistral_data() -> Path:
    return Path(mistral_common.__file__).parent / "data"
