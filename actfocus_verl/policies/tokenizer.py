"""A tokenizer of the size of a world's language: byte-level BPE like Qwen2's, phrases, a chat template.

Long tokens make short episodes, and on a CPU the length of an episode is the price of a step. So the phrases that a
world repeats ("goal is", ", column") are tokens, while what carries the state and the decision stays in tokens of its
own: a place, a digit, a row of the grid, a capitalised word (the moves), a separator, a tag.

Phrases are added tokens beside the BPE ones, and not merges: whatever a folder says, AutoTokenizer gives a Qwen2 model
Qwen2's own splitting into words, over which no merge can reach.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

from transformers import AddedToken, Qwen2Tokenizer

PAD, START_OF_TURN, END_OF_TURN = "<|endoftext|>", "<|im_start|>", "<|im_end|>"

BPE_TOKENS: Final = 320
"""All bytes, so that every text has an encoding, and the commonest parts of words."""

CHAT_TEMPLATE: Final = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

_PHRASE: Final = re.compile(
    "|".join(
        (
            r"</?[a-z]+>(?: (?=<))?",  # a tag, and what separates it from the next
            r"[.,:]?[ \n]?[A-Z][a-z]*[a-rt-z]: \(\d, \d\)",  # a place with a name (a plural opens a list)
            r"[.,:]?[ \n]?[A-Z][a-z]* may be: \d(?: \d)*",  # a named place's candidates
            r" ?\(\d, \d\)",  # a place
            r" ?\d",  # one digit
            r" ?\|\|",  # the separator of actions
            r"[_A-Z√]{2,}\n?",  # a row of a grid
            r"[.,:]?[ \n]?[A-Z][a-z]*:?",  # a capitalised word: an action among them
            r"[.,:]?[ \n]?[a-z]+(?: [a-z]+)?\n?",  # one or two words
            r" ?[.,:]+(?:\n| (?=<))?",  # punctuation
            r",? [^\s\w<]",  # a symbol
        )
    )
)

_RARE: Final = 5
"""Rarer phrases are left to BPE."""


def train_tokenizer(texts: Sequence[str], vocab_size: int, copied: str | None = None) -> Any:
    """Learn at most `vocab_size` tokens from `texts`. The same texts, in any order, give the same tokenizer.

    copied: a pattern, without groups that capture, of texts that are tokens of their own wherever they stand. A network
    of a million parameters copies a token it can look up; it does not learn that ", black" and "[black" are one word.
    """
    tokenizer = Qwen2Tokenizer().train_new_from_iterator(
        [texts], BPE_TOKENS, new_special_tokens=[START_OF_TURN, END_OF_TURN], show_progress=False
    )
    tokenizer.add_special_tokens({"eos_token": END_OF_TURN, "pad_token": PAD})
    known = tokenizer.get_vocab()
    phrases = [phrase for phrase in _phrases(texts, copied) if phrase not in known]
    tokenizer.add_tokens([AddedToken(phrase, normalized=False) for phrase in phrases[: vocab_size - len(known)]])
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _phrases(texts: Sequence[str], copied: str | None) -> list[str]:
    """Phrases of two characters or more: the copied ones first, and the commonest first among either kind."""
    wholes, rest = Counter[str](), Counter[str]()
    for text in texts:
        between, *others = re.split(f"({copied})", text) if copied else [text]
        wholes.update(others[::2])
        for part in (between, *others[1::2]):
            rest.update(_PHRASE.findall(part))
    for whole in wholes:
        del rest[whole]
    return _common(wholes) + _common(rest)


def _common(counts: Counter[str]) -> list[str]:
    common = [phrase for phrase in counts if counts[phrase] >= _RARE and len(phrase) > 1]
    return sorted(common, key=lambda phrase: (-counts[phrase], phrase))
