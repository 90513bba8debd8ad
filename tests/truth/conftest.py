"""A measurement without vLLM."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from transformers import Qwen2Config

from actfocus_verl.evaluation import backends
from tests.helpers.tokenizer import build_tokenizer
from tests.truth.made_up import LookupEngine


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Configuration and tokenizer; the policy is a `LookupEngine`."""
    folder = tmp_path_factory.mktemp("model")
    build_tokenizer().save_pretrained(folder)
    Qwen2Config(vocab_size=400, max_position_embeddings=4096).save_pretrained(folder)
    return folder


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[LookupEngine]]:
    monkeypatch.setattr(backends, "LocalEngine", LookupEngine)
    for name in ("replies", "sampled", "stop_after", "interrupts"):
        monkeypatch.setattr(LookupEngine, name, getattr(LookupEngine, name))
    return LookupEngine


@pytest.fixture
def words(model_folder: Path, tmp_path: Path, engine: type[LookupEngine]) -> Callable[..., list[str]]:
    """The command line of a small measurement; words are added to it."""

    def command_line(*more: str) -> list[str]:
        fixed = [f"model={model_folder}", f"out={tmp_path / 'out'}", "env=tests.truth.made_up:Coin", "max_turns=1"]
        return [*fixed, "boards=10", "episodes=2", "continuations=4", "judge=false", *more]

    return command_line
