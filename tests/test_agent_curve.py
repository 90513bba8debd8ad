"""scripts/agent_curve.py: the gain and its interval, by hand."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def curve(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    return importlib.import_module("agent_curve")


def test_an_interval_by_hand(curve: Any) -> None:
    found = curve.summarise({str(seed): [0.0, 9.0] + [gain] * 5 for seed, gain in enumerate((0.1, 0.2, 0.3))})
    assert found["gain"] == pytest.approx({"0": 0.1, "1": 0.2, "2": 0.3})
    assert found["mean_gain"] == pytest.approx(0.2)
    half = 4.302653 * 0.1 / 3**0.5  # Student's t with two degrees of freedom
    assert (found["ci_low"], found["ci_high"]) == pytest.approx((0.2 - half, 0.2 + half))


def test_the_committed_gain_follows_from_its_curves(curve: Any) -> None:
    result = json.loads((ROOT / "results" / "agent" / "sums.json").read_text())
    rewards = {seed: columns[curve.REWARD] for seed, columns in result["curves"].items()}
    assert all(len(each) == 20 for each in rewards.values())
    for key, value in curve.summarise(rewards).items():
        assert result[key] == pytest.approx(value), key
    page = (ROOT / "docs" / "your_agent.md").read_text()
    assert f"**{result['mean_gain']:.2f} [{result['ci_low']:.2f}, {result['ci_high']:.2f}]**" in page
