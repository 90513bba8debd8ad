"""`evaluate server=...` on BFCL and tau2: every episode is judged as the package judges the conversation it led to.

The server says a script and writes down the conversation; the package's own scoring is called on what it wrote down.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from transformers import Qwen2Config

from actfocus_verl.evaluate import main
from tests.evaluation.conftest import FakeServer
from tests.evaluation.tool_benchmarks import BFCL, KINDS, TAU2, Benchmark, script
from tests.helpers.tokenizer import TOOL_TEMPLATE, build_tokenizer

POSITIONS = 10_000_000
NEW = ("temperature=0", "concurrency=1", "server_api=chat", f"max_context_tokens={POSITIONS}")
"""One episode after the other: the server knows by that which board an episode is on."""
SCORING = ("max_turn_tokens=100000", "format_penalty=0")
"""The packages know no limit of a reply and no penalty, so that returns are their rewards."""


@pytest.fixture
def served(fake_server: FakeServer, tmp_path: Path) -> Callable[..., tuple[list[Any], list[Any]]]:
    """Evaluates the model that says the script of a kind: records of the episodes, and the conversations, by board."""
    fake_server.models = [{"id": "scripted", "max_model_len": POSITIONS}]
    build_tokenizer(template=TOOL_TEMPLATE).save_pretrained(tmp_path / "model")
    Qwen2Config(vocab_size=400, max_position_embeddings=POSITIONS).save_pretrained(tmp_path / "model")

    def evaluate(benchmark: Benchmark, kind: str, episodes: int) -> tuple[list[Any], list[Any]]:
        conversations: list[list[dict[str, str]]] = []

        def say(answer: dict[str, Any]) -> None:
            heard = fake_server.requests.pop()["messages"]
            spoken = sum(message["role"] == "assistant" for message in heard)
            if spoken == 0:
                conversations.append([])
            replies = script(benchmark, kind, len(conversations) - 1)
            answer["choices"][0]["message"]["content"] = replies[spoken] if spoken < len(replies) else "That is all."
            conversations[-1] = [*heard, answer["choices"][0]["message"]]

        fake_server.change = say
        folder = tmp_path / kind
        words = [f"model={tmp_path / 'model'}", f"out={folder}", f"server={fake_server.address}"]
        chosen = [f"env={benchmark.env}", f"split={benchmark.split}", f"episodes={episodes}"]
        assert main([*words, *chosen, *NEW, *SCORING]) == 0
        lines = map(json.loads, (folder / "episodes.jsonl").read_text().splitlines())
        return sorted(lines, key=lambda line: line["board"]), conversations

    return evaluate


@pytest.mark.parametrize("episodes", [5, pytest.param(50, marks=[pytest.mark.nightly, pytest.mark.timeout(1800)])])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("benchmark", [BFCL, TAU2], ids=lambda benchmark: benchmark.env)
def test_episodes_are_judged_as_the_package_judges_them(
    served: Callable[..., tuple[list[Any], list[Any]]], benchmark: Benchmark, kind: str, episodes: int
) -> None:
    if find_spec(benchmark.package) is None:
        pytest.skip("pip install --no-deps -r requirements/tool_worlds.txt")
    records, conversations = served(benchmark, kind, episodes)
    assert len(conversations) == len(records) == episodes
    official = [benchmark.score(benchmark.task(board), each) for board, each in enumerate(conversations)]
    assert [float(record["success"]) for record in records] == official
    assert [record["return"] for record in records] == official
    if kind == "gold":
        assert set(official) == {1.0}
    elif kind != "damaged":
        assert set(official) == {0.0}
    elif episodes == 50:
        assert set(official) == {0.0, 1.0}  # what was damaged did not always matter
