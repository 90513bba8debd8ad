"""Building and caching the tiny policy: demonstrations, tokenizer, training, a Hugging Face folder.

ensure_tiny_policy -> cached folder, or build_tiny_policy -> conversations -> tokenizer -> examples -> Trainer
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Final

from actfocus_verl.environments import World, scripted_player, world_config
from actfocus_verl.files import write_json
from actfocus_verl.local_models import Observer, built_once, no_bars, unobserved
from actfocus_verl.policies.config import TinyPolicyConfig, cache_key
from actfocus_verl.policies.demonstrations import Message, conversation
from actfocus_verl.policies.playing import evaluation_worlds, play_batch, play_statistics
from actfocus_verl.policies.reproducible import reproducible
from actfocus_verl.policies.tokenizer import train_tokenizer
from actfocus_verl.policies.training import new_model, supervised_example, train
from actfocus_verl.rollout import ChatCodec
from actfocus_verl.run_files import TINY_POLICY_FILE

_TOKENIZER_EPISODES = 800
"""Conversations for training the tokenizer: their vocabulary is small."""


def ensure_tiny_policy(config: TinyPolicyConfig, cache_root: Path, observe: Observer = unobserved) -> Path:
    """The folder of this policy under `cache_root`, built if missing.

    A folder is complete or not there: it is built elsewhere under `cache_root` and renamed. Processes that ask at the
    same time build it once. `observe` is not called when it was there. Raises ConfigurationError when `cache_root`
    cannot be written.
    """
    folder = cache_root / cache_key(config)

    def build(unfinished: Path) -> None:
        build_tiny_policy(config, unfinished, observe)

    built_once(folder, build, "cache_root", "the tiny policy", observe)
    return folder


def build_tiny_policy(config: TinyPolicyConfig, folder: Path, observe: Observer = unobserved) -> dict[str, Any]:
    """Build the policy into `folder`, a Hugging Face model with its tokenizer; returns what `tiny_policy.json` holds.

    On one machine the same config gives the same weights to the bit. Random states and the thread count of the calling
    process are left as they were.
    """
    clock, config, player = _Clock(), config.resolved(), scripted_player(config.env)
    folder.mkdir(parents=True, exist_ok=True)
    with reproducible(config.seed), tempfile.TemporaryDirectory() as scratch:
        conversations = []
        for episode in range(config.episodes or 0):
            observe("playing demonstrations", episode, config.episodes or 0)
            conversations.append(conversation(config, episode))
        clock.lap("demonstrations")
        observe("training the tokenizer", 0, 0)
        tokenizer = train_tokenizer(_texts(conversations[:_TOKENIZER_EPISODES]), config.vocab_size, player.copied)
        codec = ChatCodec(tokenizer, world_config(config.env, preset=config.preset).limits().opening)
        examples = [supervised_example(codec, tokenizer, each, pages=player.learn_pages) for each in conversations]
        clock.lap("tokenizer")
        model = new_model(config, tokenizer)
        loss = train(model, tokenizer, examples, config, Path(scratch), partial(observe, "training"))
        clock.lap("training")
        with no_bars():
            model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        report = {
            "config": asdict(config),
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "vocabulary": len(tokenizer),
            "training_loss": loss,
        }
        if config.evaluation_episodes:
            report["evaluation"] = evaluate_policy(config, model, tokenizer, partial(observe, "evaluating"))
            clock.lap("evaluation")
    report["seconds"] = clock.seconds
    write_json(folder / TINY_POLICY_FILE, report)
    return report


def evaluate_policy(
    config: TinyPolicyConfig, model: Any, tokenizer: Any, ended: Callable[[int, int], None] = lambda done, total: None
) -> dict[str, Any]:
    """Play `config.evaluation_episodes` evaluation boards at temperature 1: statistics, and its grounding.

    ended: called before every turn with the number of episodes that have ended, and of all.
    `grounding` is the share of replies that hold each sentence which the scripted player says of the same state.
    """
    player = scripted_player(config.env)
    true_sentences: Counter[int] = Counter()
    replies = 0

    def observe(world: World, reply: str) -> None:
        nonlocal replies
        replies += 1
        for position, sentence in enumerate(_sentences(player.describe(world))):
            true_sentences[position] += sentence in reply

    count, room = config.evaluation_episodes, _EVALUATION_TURN_TOKENS
    worlds = evaluation_worlds(config.env, config.preset, count, max_turn_tokens=room)
    trajectories = play_batch(model, tokenizer, worlds, seed=config.seed, observe=observe, ended=ended)
    grounding = [true_sentences[position] / replies for position in sorted(true_sentences)]
    return {**asdict(play_statistics(trajectories)), "grounding": grounding}


_EVALUATION_TURN_TOKENS: Final = 128
"""Three times a demonstrated reply: the whole batch waits for a reply that does not end."""


def _sentences(text: str) -> list[str]:
    return [sentence.strip(".") for sentence in text.split(". ")]


def _texts(conversations: list[list[Message]]) -> list[str]:
    """The tokenizer's training texts: every message, and the roles' lines of the chat template."""
    messages = [message["content"] for messages in conversations for message in messages]
    return messages + [f"{message['role']}\n" for messages in conversations for message in messages]


class _Clock:
    """Seconds by phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, phase: str) -> None:
        now = time.perf_counter()
        self.seconds[phase] = round(now - self._last, 2)
        self._last = now
