"""`actfocus worlds`: the commands of `actfocus_verl.environments`, and one that plays whole episodes.

    actfocus worlds oracle env=sokoban split=evaluation n=64

oracle: play the first n boards of a split with the world's oracle, its own best play, through the episode machine that
a policy goes through: chat template, token ids, parsing, limits. Prints how many are solved and names every other one;
the exit status is 1 when there is any.

Any further key, like size=5, is the world's own (see its README). list, manifest, overlap and play:
`actfocus worlds --help`.
"""

from __future__ import annotations

import asyncio
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from rich.console import Console

from actfocus_verl.arguments import build_arguments, help_text, option, read_options
from actfocus_verl.command import run_command, start
from actfocus_verl.environments import World, known_presets, make_world
from actfocus_verl.environments.__main__ import main as environments_main
from actfocus_verl.errors import CommandFailed
from actfocus_verl.rollout import ChatCodec, Episode, Reply, Trajectory

_START, _END, _PAD = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
_TEMPLATE: Final = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] }}"
    "{% if loop.first and tools %}{{ '\\n' + (tools | tojson) }}{% endif %}{{ '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
_UNBOUNDED: Final = 2**31
_TURN_TOKENS: Final = 16_384
"""A token is a byte here, so the limit that a preset means for words would be too small."""


@dataclass(frozen=True)
class Arguments:
    """The keys of `oracle`; any other key is the world's."""

    env: str = option("world, like frozen_lake")
    preset: str | None = option("preset of the world; default: its first", None)
    split: str = option("split of the boards", "evaluation")
    n: int = option("boards played, the first of the split", 64, low=1)


@dataclass(frozen=True)
class OracleResult:
    """How the oracle fared on one board. optimal_return: NaN where the world does not know it."""

    index: int
    board_hash: str
    success: bool
    stop_reason: str
    turns: int
    episode_return: float
    optimal_return: float

    def __str__(self) -> str:
        known = "" if math.isnan(self.optimal_return) else f" of {self.optimal_return:.3f}"
        return (
            f"board {self.index} ({self.board_hash}): {self.stop_reason} after {self.turns} turns, "
            f"return {self.episode_return:.3f}{known}"
        )


class OraclePolicy:
    """Gives the reply of the world's oracle to its present state, whatever the context. world: the episode's own."""

    def __init__(self, world: World, codec: ChatCodec) -> None:
        self._world = world
        self._codec = codec

    async def generate(self, prompt_ids: list[int], *, max_new_tokens: int) -> Reply:
        text = self._world.oracle_reply().removeprefix(self._codec.opening)
        ids = [*self._codec.text_ids(text), self._codec.end_of_turn_id]
        if len(ids) > max_new_tokens:
            return Reply(ids[:max_new_tokens], None, "length")
        return Reply(ids, None, "stop")


def play_oracle(world: World, codec: ChatCodec) -> Trajectory:
    """Play `world`, which must be fresh, with its oracle. Raises ConfigurationError where it has none."""
    episode = Episode(world, codec, max_context_tokens=_UNBOUNDED)
    return asyncio.run(episode.play(OraclePolicy(world, codec)))


def oracle_results(
    env: str, *, preset: str, split: str, count: int, overrides: Mapping[str, Any]
) -> Iterator[OracleResult]:
    """The oracle's episodes on the first `count` boards of a split. Raises ConfigurationError where it has fewer."""
    for index in range(count):
        world = make_world(
            env, preset=preset, split=split, index=index, **{"max_turn_tokens": _TURN_TOKENS, **overrides}
        )
        best = world.optimal_return()
        played = play_oracle(world, byte_codec(world.limits.opening))
        yield OracleResult(
            index,
            world.board_hash(),
            played.success,
            played.stop_reason.value,
            played.turns,
            played.episode_return,
            best,
        )


@cache
def byte_codec(opening: str = "") -> ChatCodec:
    """A codec that needs no download: a token is a byte, and the chat template is Qwen's plainest."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers  # slow to import, and `list` needs neither
    from transformers import PreTrainedTokenizerFast

    alphabet = [_PAD, _START, _END, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    backend = Tokenizer(models.BPE({token: number for number, token in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token=_END, pad_token=_PAD, additional_special_tokens=[_START]
    )
    tokenizer.chat_template = _TEMPLATE
    return ChatCodec(tokenizer, opening)


def main(words: Sequence[str]) -> int:
    """Run one command; returns the exit status."""
    if words[:1] != ["oracle"]:
        return environments_main(words)
    return run_command(words, _oracle, lambda: help_text(__doc__ or "", Arguments))


def _oracle(words: Sequence[str], console: Console) -> None:
    options = read_options(words[1:])
    own: dict[str, Any] = {key: options.pop(key) for key in ("env", "preset", "split", "n") if key in options}
    given = build_arguments(Arguments, own)
    preset = given.preset or known_presets(given.env)[0]
    solved, returns, best = 0, 0.0, 0.0
    for result in oracle_results(given.env, preset=preset, split=given.split, count=given.n, overrides=options):
        solved += result.success
        returns += result.episode_return
        best += result.optimal_return
        if not result.success:
            sys.stdout.write(f"not solved: {result}\n")
    known = "" if math.isnan(best) else f", best possible on average {best / given.n:.3f}"
    line = f"{given.env}/{preset}, {given.split}: {solved} of {given.n} solved, mean return {returns / given.n:.3f}"
    sys.stdout.write(f"{line}{known}\n")
    if solved < given.n:
        raise CommandFailed(f"the oracle left {given.n - solved} of {given.n} boards unsolved")


if __name__ == "__main__":
    start(main)
