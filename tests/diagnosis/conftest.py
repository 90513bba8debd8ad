"""A run's folder with episodes that a tiny Qwen2 could have sampled, and that model as its checkpoint."""

from __future__ import annotations

import math
import random
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from actfocus_verl.evaluation.checkpoints import Checkpoint, find_checkpoint, merge
from actfocus_verl.files import json_text
from actfocus_verl.reporting import statistics
from tests.helpers import engines
from tests.helpers.merging import merger_in_process  # noqa: F401  (a fixture)
from tests.helpers.tokenizer import build_tokenizer

VOCABULARY = 13
EPISODES = 3
"""Of a prompt group."""
TEMPERATURE = 0.8

Record = dict[str, Any]


def tiny_model(seed: int = 0, *, tied: bool = True) -> Qwen2ForCausalLM:
    """About 200 parameters, so that all of them can be varied one at a time; spread, so that scores differ in size."""
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=4,
        intermediate_size=6,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
        initializer_range=0.5,
        tie_word_embeddings=tied,
    )
    return Qwen2ForCausalLM(config).eval()


def record(step: int, group: str, session: int, rng: random.Random) -> Record:
    """An episode of two turns as `integration.run_log` writes it, NaN at the tokens between the turns."""
    turn = [1, 1, 3, 2, 3]
    roles = [*turn[: rng.randint(3, 5)], 0, 0, *turn, 1]
    turn_ids = [-1 if role == 0 else int(position > roles.index(0)) for position, role in enumerate(roles)]

    def numbers(low: float, high: float) -> list[float]:
        return [math.nan if role == 0 else round(rng.uniform(low, high), 6) for role in roles]

    advantage = round(rng.uniform(-2, 2), 6)
    return {
        "step": step,
        "group": group,
        "session": session,
        "return": rng.choice([0.0, 0.5, 1.0]),
        "prompt_ids": [rng.randrange(VOCABULARY) for _ in range(rng.randint(2, 4))],
        "responses": [rng.randrange(VOCABULARY) for _ in roles],
        "response_mask": [int(role != 0) for role in roles],
        "token_roles": roles,
        "turn_ids": turn_ids,
        "token_weights": numbers(0.0, 2.0),
        "advantages": [math.nan if role == 0 else advantage for role in roles],
        "energy": numbers(-40.0, -30.0),
        "entropy": numbers(0.0, 2.0),
        "old_log_probs": numbers(-3.0, 0.0),
        "ref_log_prob": numbers(-3.0, 0.0),
    }


def records(step: int, groups: int = 4) -> list[Record]:
    rng = random.Random(step)
    return [record(step, f"g{group}", session, rng) for group in range(groups) for session in range(EPISODES)]


def write_rollouts(run: Path, step: int, episodes: list[Record]) -> None:
    folder = run / "rollouts"
    folder.mkdir(exist_ok=True)
    (folder / f"{step}.jsonl").write_text("".join(json_text(episode) + "\n" for episode in episodes))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Steps 2 and 4, whose groups have the same names."""
    folder = tmp_path / "run"
    folder.mkdir()
    rollout = f"{{n: {EPISODES}, temperature: {TEMPERATURE}}}"
    (folder / "config.yaml").write_text(
        f"actor_rollout_ref: {{rollout: {rollout}}}\ncredit: {{name: actfocus}}\nfilter: {{name: none}}\n"
    )
    for step in (2, 4):
        write_rollouts(folder, step, records(step))
    return folder


@pytest.fixture(scope="session")
def written_checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoints of a run whose step 4 verl's engine wrote."""
    folder = tmp_path_factory.mktemp("written")
    tiny_model().save_pretrained(folder / "model")
    build_tokenizer().save_pretrained(folder / "model")
    with engines.process_group(folder):
        run = engines.save_run(folder / "run", engines.build_engine(folder / "model"), 4, latest=4)
    return run / "checkpoints"


@pytest.fixture
def checkpoint(run: Path, written_checkpoints: Path, merger_in_process: None) -> Checkpoint:  # noqa: F811
    """The run's checkpoint of step 4, which nobody has merged yet."""
    shutil.copytree(written_checkpoints, run / "checkpoints")
    return find_checkpoint(run, 4)


@pytest.fixture
def merged(checkpoint: Checkpoint) -> Path:
    """It as a model's folder."""
    return merge(checkpoint, {})


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer resamples of the bootstrap, where intervals are not what is tested."""
    for module, name in (("tokens", "cluster_interval"), ("correlations", "spearman")):
        path = f"actfocus_verl.diagnosis.{module}.{name}"
        monkeypatch.setattr(path, partial(getattr(statistics, name), resamples=200))


Change = Callable[[Record], None]


@pytest.fixture
def rewrite(run: Path) -> Callable[[int, Change], None]:
    """Change every episode of a step."""

    def apply(step: int, change: Change) -> None:
        episodes = records(step)
        for episode in episodes:
            change(episode)
        write_rollouts(run, step, episodes)

    return apply
