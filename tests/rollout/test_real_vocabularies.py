"""On the vocabularies and templates of published models: roles of sampled tokens, and conversations piece by piece."""

from __future__ import annotations

import importlib
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actfocus_verl.credit.tokens import TokenRole
from actfocus_verl.environments import make_world, scripted_player
from actfocus_verl.environments.splits import seeded_generator
from actfocus_verl.rollout import ChatCodec, Episode, Reply, TokenDecoder, build_action_span, read_reply, span_roles
from tests.helpers.slow_roles import BROKEN, slow_answer_roles, slow_reply_roles, slow_spans
from tests.helpers.vocabularies import SLOW_TO_BUILD, VOCABULARIES, tokenizer_of

ROOT = Path(__file__).resolve().parents[2]
LETTERS = {TokenRole.REASONING: "r", TokenRole.ACTION: "a", TokenRole.FORMAT: "f"}
REPLIES = 500
WORLDS = ("frozen_lake", "sokoban", "sudoku", "webshop")

EVERY = [pytest.param(name, marks=pytest.mark.nightly if name in SLOW_TO_BUILD else ()) for name in VOCABULARIES]
every_vocabulary = pytest.mark.parametrize("name", EVERY)


@cache
def codec_of(name: str) -> ChatCodec:
    return ChatCodec(tokenizer_of(name))


def letters(roles: Sequence[int]) -> str:
    return "".join(LETTERS[TokenRole(int(role))] for role in roles)


OWN_THINK_TAGS = "<think> I Ġgo . </think> < answer > Up || Down .</ answer >"


@pytest.mark.parametrize(
    ("name", "tokens", "roles"),
    [
        ("qwen2.5", "<th ink >I Ġgo .</ think >< answer > Up || Down .</ answer >", "fff r fffff aaaa ff"),
        ("qwen3", OWN_THINK_TAGS, "f rrr ffff aaaa ff"),
        ("deepseek v3", OWN_THINK_TAGS, "f rrr ffff aaaa ff"),
    ],
)
def test_tokens_over_the_border_of_a_tag_by_hand(name: str, tokens: str, roles: str) -> None:
    """`>I` is format, as a tag outranks reasoning; the `.</` behind the last action is action, which outranks a tag."""
    codec = codec_of(name)
    ids = codec.text_ids("<think>I go.</think><answer>Up||Down.</answer>")
    assert tokenizer_of(name).convert_ids_to_tokens(ids) == tokens.split()
    assert letters(read_reply(codec, ids).roles) == roles.replace(" ", "")


def test_ids_are_the_published_ones() -> None:
    """Of Qwen 2.5, as its tokenizer.json has them."""
    assert tokenizer_of("qwen2.5").encode("Hello<|im_end|><tool_call>") == [9707, 151645, 151657]


# --- Replies ----------------------------------------------------------------------------------------------------------

THOUGHTS = [
    *("I am at (0, 1).", "So go up.", " then Left || Down", "a<b", "</", "<answ", ">", "if x: {'y': [1]}\n\treturn"),
    *("往右走，避开洞。", "氷の上です", "🦙👩‍👩‍👧‍👦", "🧊", "e\u0301u\u0308", "नमस्ते", "ค่ะ", "Ω≈√"),
    *("\u202e\ufeff", "▁", "Ġ", "\n", "\n\n", "  ", "\t", " ", "<tool_call>{}</tool_call>", "don't", "1234567"),
]
ANSWERS = [
    *("Up", " Up || Down ", "Up.", "Up ||Down||", "Up||Down", "\nRight\n", "", " ", "上 || 下", "🦙", "é", "e\u0301."),
    *("search[red shoes] || click[buy now]", "(1, 2) 3", ">Up<", "``", "|", "<b>Up</b>"),
]
TAGS = ("<think>", "</think>", "<answer>", "</answer>")


def form(rng: random.Random) -> list[str]:
    """A reply of the required form, in parts."""
    blank = rng.choice(["", "", " ", "\n", "\n\n"])
    thoughts = [rng.choice(THOUGHTS) for _ in range(rng.randint(0, 5))]
    before, between, after = (blank if rng.random() < 0.5 else "" for _ in range(3))
    return [before, TAGS[0], *thoughts, TAGS[1], between, TAGS[2], rng.choice(ANSWERS), TAGS[3], after]


def damaged(parts: list[str], rng: random.Random) -> list[str]:
    """With a part left out, said twice, exchanged, broken or put among others."""
    at = rng.randrange(len(parts))
    part = parts[at]
    cut = rng.randint(0, len(part))
    wrong = rng.choice(
        [[], [part, part], [rng.choice(TAGS)], [part[:cut], part[cut + 1 :]], [part, "so"], [part.upper()]]
    )
    return [*parts[:at], *wrong, *parts[at + 1 :]]


def broken(ids: list[int], rng: random.Random, tokenizer: Any, size: int) -> list[int]:
    """With one id left out, exchanged for any other or for a special one, or everything behind it left out.

    Every second time one is chosen that holds a part of a character, where there is one.
    """
    alone = tokenizer.backend_tokenizer.decode_batch([[i] for i in ids])
    parts = [at for at, text in enumerate(alone) if BROKEN in text]
    at = rng.choice(parts if parts and rng.random() < 0.5 else range(len(ids)))
    special = rng.choice(tokenizer.all_special_ids)
    middle = rng.choice([[], [], [rng.randrange(size)], [special]])
    return [*ids[:at], *middle, *(ids[at + 1 :] if rng.random() < 0.8 else [])]


def replies(name: str) -> Iterator[list[int]]:
    """The same ones each time; a third of the texts is damaged, and a quarter of the ids.

    Some are encoded in pieces, or letter by letter: a model may sample any ids of a text, not only the tokenizer's.
    """
    tokenizer, rng = tokenizer_of(name), random.Random(7)
    size = len(tokenizer)  # which counts them anew each time
    end = tokenizer.convert_tokens_to_ids(VOCABULARIES[name].end_of_turn)
    for _ in range(REPLIES):
        parts = form(rng)
        if rng.random() < 0.33:
            parts = damaged(parts, rng)
        whole = "".join(parts)
        pieces = rng.choice([parts, list(whole), *[[whole]] * 6])
        ids = [i for piece in pieces for i in encoded(name, piece)]
        if ids and rng.random() < 0.25:
            ids = broken(ids, rng, tokenizer, size)
        yield [*ids, end] if rng.random() < 0.8 or not ids else ids


def encoded(name: str, text: str) -> list[int]:
    """Ids of a text within a reply: SentencePiece begins every text with a space."""
    tokenizer = tokenizer_of(name)
    if not name.startswith("mistral"):
        return list(tokenizer.encode(text, add_special_tokens=False))
    line = tokenizer.encode("\n", add_special_tokens=False)
    return list(tokenizer.encode(f"\n{text}", add_special_tokens=False))[len(line) :]


@pytest.mark.parametrize("name", [each for each in EVERY if not str(each.values[0]).startswith("mistral v")])
def test_roles_of_any_reply_are_those_of_the_characters_that_a_slow_decoder_finds(name: str) -> None:
    """Without SentencePiece's: its decoder breaks a whole run of bytes while the last character is not complete, so
    that prefixes do not say which character a byte belongs to.
    """
    tokenizer, codec, decoder = tokenizer_of(name), codec_of(name), TokenDecoder(tokenizer_of(name))
    answer = build_action_span("answer", tool_format="hermes")
    assert answer is not None
    special_ids = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    end = tokenizer.convert_tokens_to_ids(VOCABULARIES[name].end_of_turn)
    seen = Counter[str]()
    for ids in replies(name):
        text, spans = slow_spans(tokenizer, ids)
        special = [i in special_ids for i in ids]
        closed = ids[-1] == end
        if BROKEN not in text:
            assert codec.offsets(ids) == (text, spans)
        for lenient in (False, True):
            if lenient and any(special[: len(ids) - closed]):
                continue
            read = read_reply(codec, ids, lenient=lenient)
            found = letters(read.roles)
            expected = slow_reply_roles(text, spans, special, closed=closed, lenient=lenient)
            assert found == expected, (text, tokenizer.convert_ids_to_tokens(ids), lenient)
            seen["lenient" if lenient else "parsed"] += read.parsed.parses
        found = letters(span_roles(answer, decoder, ids, np.ones(len(ids), dtype=bool)))
        assert found == slow_answer_roles(text, spans, special), (text, tokenizer.convert_ids_to_tokens(ids))
        seen["broken"] += BROKEN in text
        seen["special"] += any(special[:-1])
        seen["split"] += any(one[1] > other[0] for one, other in pairwise(spans))
        seen["across"] += any("<" in text[a + 1 : b] or ">" in text[a : b - 1] for a, b in spans)
    assert all(seen[kind] >= 10 for kind in ("broken", "special", "split", "across")), seen
    assert 150 < seen["parsed"] < seen["lenient"] < REPLIES - 50, seen


# --- Conversations ----------------------------------------------------------------------------------------------------


def rendered(name: str, episode: Episode, *, tokenize: bool) -> Any:
    """The conversation so far as the template writes it, with the generation prompt."""
    messages = episode.messages
    if VOCABULARIES[name].spaced:
        messages = [{**m, "content": m["content"].removeprefix(" ")} for m in messages]
    options = {"return_dict": False} if tokenize else {}
    return tokenizer_of(name).apply_chat_template(messages, tokenize=tokenize, add_generation_prompt=True, **options)


@pytest.mark.parametrize("world_name", WORLDS)
@every_vocabulary
def test_contexts_of_an_episode_are_the_whole_conversation(name: str, world_name: str) -> None:
    """To the id, where the template keeps what was said. One that forgets thoughts keeps replies that have none."""
    forgets = VOCABULARIES[name].forgets
    for thoughts in (True, False) if forgets else (True,):
        require_whole_contexts(name, world_name, thoughts=thoughts, same=thoughts is not forgets)


def require_whole_contexts(name: str, world_name: str, *, thoughts: bool, same: bool) -> None:
    """same: whether each context is the tokenizer's own rendering; from the last reply on it always is."""
    codec = codec_of(name)
    world = make_world(world_name, preset="clean", split="train", index=5)
    player, rng = scripted_player(world_name), seeded_generator("conversation", world_name)
    episode = Episode(world, codec, max_context_tokens=10**6)
    context = episode.start()
    assert context == rendered(name, episode, tokenize=True)
    for turn in range(3):
        said = player.reply(world, rng).replace("</think>", "往右 🧊</think>")
        said = said if thoughts else said.partition("</think>")[2].strip()
        reply = [*codec.text_ids(said), *([codec.end_of_turn_id] if turn % 2 else [])]
        before, following = context, episode.receive(Reply(reply))
        if following is None:  # the game is over
            assert turn > 0
            return
        context = following
        assert context[: len(before) + len(reply)] == [*before, *reply]
        between = codec.offsets(context[len(before) + len(reply) :])[0]
        assert rendered(name, episode, tokenize=False).endswith(between)
        assert (context == rendered(name, episode, tokenize=True)) is same


# --- Token shares -----------------------------------------------------------------------------------------------------


@pytest.mark.nightly
def test_the_committed_shares_are_those_of_the_script(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    script = importlib.import_module("token_shares")
    assert script.table(tokenizer_of("qwen2.5"), script.QWEN) == script.OUT.read_text(encoding="utf-8")
