"""The scatter plots: what they show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from actfocus_verl.diagnosis.correlations import Group, correlations
from actfocus_verl.diagnosis.figures import plot_energy


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that were created."""
    figures: list[Figure] = []
    original = Figure.__init__

    def recording(self: Figure, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        figures.append(self)

    monkeypatch.setattr(Figure, "__init__", recording)
    return figures


def groups(steps: tuple[int, ...]) -> list[Group]:
    return [
        Group(step, f"g{number}", 0.1 * number, {"all": -30.0 - number, "reasoning": -31.0, "action": None})
        for step in steps
        for number in range(4)
    ]


def test_a_point_a_group_and_labelled_axes(drawn: list[Figure], tmp_path: Path) -> None:
    found = groups((10, 20))
    path = plot_energy(found, correlations(found)["pooled"], tmp_path / "energy.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    whole, reasoning, action, bar = drawn[0].axes
    assert whole.get_ylabel() == "standard deviation of the group's returns (reward)"
    assert bar.get_ylabel() == "training step"
    for axes in (whole, reasoning, action):
        assert axes.get_xlabel() == "mean energy of the group's tokens (nats)"
    points = whole.collections[0].get_offsets().tolist()
    assert points == [[-30.0 - number, pytest.approx(0.1 * number)] for _ in (10, 20) for number in range(4)]
    assert whole.collections[0].get_array().tolist() == [10] * 4 + [20] * 4
    assert "Spearman -1.00" in whole.get_title()
    assert reasoning.get_title() == "reasoning tokens\nSpearman undefined, 8 groups"
    assert len(action.collections[0].get_offsets()) == 0


def test_one_step_needs_no_scale_of_steps(drawn: list[Figure], tmp_path: Path) -> None:
    found = groups((10,))
    plot_energy(found, correlations(found)["pooled"], tmp_path / "energy.png")
    assert len(drawn[0].axes) == 3
