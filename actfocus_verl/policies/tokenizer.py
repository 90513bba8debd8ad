"""A byte-level BPE tokenizer of the size of a world's language, with a chat template like Qwen's.

Long tokens make short episodes, and on a CPU the length of an episode is the price of a step. So a piece that BPE may
merge is not a word but a clause (" am at row", ", column"), while what carries the state and the decision stays in
tokens of its own: a place " (1, 2)", a digit, a row of the grid, a capitalised word (the moves), a separator, a tag.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

PAD, START_OF_TURN, END_OF_TURN = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIAL_TOKENS: Final = (PAD, START_OF_TURN, END_OF_TURN)
MINIMUM_VOCABULARY: Final = 256 + len(SPECIAL_TOKENS)
"""Every byte is a token, so that every text has an encoding."""

CHAT_TEMPLATE: Final = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

_PIECES: Final = "|".join(
    (
        r"</?[a-z]+>(?: (?=<))?",  # a tag, and what separates it from the next
        r" ?\(\d, \d\)",  # a place: the same token wherever it is named, so that it can be copied
        r" ?\d",  # one digit
        r" ?\|\|",  # the separator of actions
        r"[_A-Z√]{2,}\n?",  # a row of a grid
        r"[.,:]?[ \n]?[A-Z][a-z]+:?",  # a capitalised word: an action among them
        r"[.,:]?[ \n]?[a-z]+(?: [a-z]+)?\n?",  # one or two words
        r" ?[.,:]+(?:\n| (?=<))?",  # punctuation
        r"[^\S\n]?[^\s<]",  # anything else, character by character
        r"\s|<",
    )
)


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Learn at most `vocab_size` tokens from `texts`. The same texts give the same tokenizer."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END_OF_TURN,
        additional_special_tokens=[START_OF_TURN],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )
