"""A small byte-level BPE tokenizer with a Qwen-style chat template, trained in memory: no download, same every time."""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]

QWEN_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

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
