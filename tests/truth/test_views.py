"""What a measurement shows beside its tables: the figure, the checks and remarks, and the page."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from actfocus_verl.truth.checks import checks, remarks
from actfocus_verl.truth.command import main
from actfocus_verl.truth.decomposition import decompose
from actfocus_verl.truth.figures import plot_shares
from tests.truth.made_up import COUPLED, LookupEngine
from tests.truth.test_decomposition import simulated


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    return decompose(simulated(np.random.default_rng(2)), resamples=50)


def test_the_figure_has_the_shares_by_kind_and_by_turn(
    found: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr("actfocus_verl.truth.figures.Figure", lambda **size: drawn.append(Figure(**size)) or drawn[-1])
    assert plot_shares(found, tmp_path / "truth.png").read_bytes().startswith(b"\x89PNG")
    kinds, turns = drawn[0].axes
    assert kinds.get_ylabel() == "share of Var(return | board)"
    action = next(line for line in kinds.lines if line.get_label() == "action")
    assert action.get_ydata().tolist() == [found["shares"]["action"]["estimate"]]
    (reach,) = kinds.collections[1].get_segments()
    assert reach[:, 1].tolist() == [found["shares"]["action"][end] for end in ("low", "high")]
    luck = next(line for line in turns.lines if line.get_label() == "luck")
    assert luck.get_ydata().tolist() == [turn["luck"]["estimate"] for turn in found["by_turn"]]
    assert turns.get_xlabel() == "turn"


def test_checks_that_miss_and_few_boards_are_remarked(found: dict[str, Any]) -> None:
    figure = {"estimate": 0.5, "low": 0.4, "high": 0.6}
    sound = {"estimate": 0.0, "low": -1.0, "high": 1.0}
    kinds = ("reasoning", "action", "format", "luck")
    good = {
        "boards": 10,
        "shares": dict.fromkeys((*kinds, "sum"), sound),
        "covariance": dict.fromkeys(kinds, figure),
        "null": sound,
        "drift": dict.fromkeys(kinds, sound) | {"format": None},
    }
    assert remarks(good) == []
    names = [check.name for check in checks(good)]
    assert names[:3] == ["sum of the shares", "null: each boundary against itself", "drift of reasoning"]
    assert "drift of format" not in names
    few, missed = remarks(good | {"boards": 9, "drift": good["drift"] | {"luck": figure}})
    assert few == "intervals are too narrow under about ten boards, and these are over 9"
    assert missed.startswith("drift of luck excludes 0. ")
    assert "of 5 such intervals" in missed


def test_the_page_shows_the_episodes_with_the_largest_changes(
    words: Callable[..., list[str]], engine: type[LookupEngine], tmp_path: Path
) -> None:
    engine.replies = COUPLED
    assert main(words("boards=8", "continuations=2", "slip=0.2")) == 0
    page = (tmp_path / "out" / "truth.html").read_text()
    assert not re.search(r"\{\{\w+\}\}", page)
    data = json.loads(re.search(r'<script type="application/json" id="page-data">(.*?)</script>', page)[1])
    assert data["found"] == json.loads((tmp_path / "out" / "truth.json").read_text())
    assert data["remarks"][0] == "intervals are too narrow under about ten boards, and these are over 8"
    assert len(data["episodes"]) == 12  # of 16
    for episode in data["episodes"]:
        kinds = ["reasoning", "action", "format", "luck"]
        assert [segment["kind"] for segment in episode["segments"]] == kinds
        assert "".join(segment["text"] for segment in episode["segments"]) in COUPLED
        assert episode["segments"][-1]["tokens"] == 0
        assert len(episode["means"]) == len(episode["errors"]) == 5
        assert episode["means"][-1] in (0.0, 1.0)
        assert episode["errors"][-1] == 0.0
        assert len(episode["states"]) == 1
    largest = [max(abs(np.diff(episode["means"])[:3])) for episode in data["episodes"]]
    assert largest == sorted(largest, reverse=True)
