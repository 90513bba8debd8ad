"""Single tokens: the figures by hand, and a policy whose decision lies in one token."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from actfocus_verl.truth.command import main
from actfocus_verl.truth.tokens import MeasuredTokens, token_figures
from tests.truth.made_up import LookupEngine


def test_numbers_by_hand() -> None:
    """Board 0: m goes 0, 1/2, 1/2, 1 over "a", "b", "a". Board 1: from 1 to 0 by one "b", m known to +-1/2.

    Squares: "a" 1/4 + 1/4, "b" 0; then "b" 1 - 1/4 - 1/4 = 1/2. All tokens: 1. The segments' own: 1 + 1/2.
    A resample of board 0 alone gives "a" all, and a sum of (1/2) / 1; one of board 1 alone "b" all, and a sum of 1.
    """
    segments = [
        MeasuredTokens(0, ["a", "b", "a"], np.array([0.0, 0.5, 0.5, 1.0]), np.zeros(4)),
        MeasuredTokens(1, ["b"], np.array([1.0, 0.0]), np.array([0.25, 0.25])),
    ]
    found = token_figures(segments, resamples=100)
    assert (found["segments"], found["tokens"]) == (2, 4)
    assert found["top"] == [
        {"token": "a", "count": 2, "estimate": 0.5, "low": 0.0, "high": 1.0},
        {"token": "b", "count": 2, "estimate": 0.5, "low": 0.0, "high": 1.0},
    ]
    assert found["sum"] == {"estimate": pytest.approx(2 / 3), "low": 0.5, "high": 1.0}


def test_the_token_that_names_the_move_decides(
    words: Callable[..., list[str]],
    engine: type[LookupEngine],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    more = ["boards=2", "continuations=8"]
    assert main(words(*more)) == 0
    before = (tmp_path / "out" / "samples.jsonl").read_bytes()
    capsys.readouterr()
    sampled, engine.stop_after = engine.sampled, engine.sampled + 30
    more += ["tokens=true", "concurrency=16"]
    assert main(words(*more)) == 1  # it goes on where it stopped
    engine.stop_after = None
    assert main(words(*more)) == 0
    assert (tmp_path / "out" / "samples.jsonl").read_bytes() == before
    assert "Single tokens: " in capsys.readouterr().out
    tokens = json.loads((tmp_path / "out" / "truth.json").read_text())["tokens"]
    assert (tokens["kind"], tokens["segments"], len(tokens["drawn"])) == ("action", 4, 4)  # all there are
    assert tokens["top"][0]["token"].strip()[0] in ("L", "R")
    inner = sum(len(segment["tokens"]) - 1 for segment in tokens["drawn"])
    assert inner * 16 <= engine.sampled - sampled < inner * 16 + 16
    for segment in tokens["drawn"]:
        texts, means, errors = segment["tokens"], segment["means"], segment["errors"]
        assert "".join(texts) in (" <answer> Left </answer>", " <answer> Right </answer>")
        assert len(means) == len(errors) == len(texts) + 1
        known = errors.index(0.0)  # the move is named, and the return no longer open
        assert "".join(texts[: known - 1]).strip() == "<answer>"
        assert set(means[known:]) <= {0.0, 1.0}
        assert len(set(means[known:])) == 1
