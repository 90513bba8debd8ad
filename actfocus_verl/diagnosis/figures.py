"""Scatter plots of the diagnostic: one point per prompt group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from actfocus_verl.diagnosis.correlations import Group
from actfocus_verl.reporting.figures import PANEL_SIZE

_PARTS: Final = {"all": "all response tokens", "reasoning": "reasoning tokens", "action": "action tokens"}
_COLOURS: Final = "cividis"
"""Colour-blind safe, and rising in lightness, so that steps stay in order in greyscale, too."""


def plot_energy(groups: Sequence[Group], pooled: Mapping[str, Mapping[str, Any]], path: Path) -> Path:
    """Draw each group's mean energy against the spread of its returns, one panel per part, coloured by training step.

    Args:
        groups: at least one.
        pooled: the figures of `correlations(groups)["pooled"]`, for the titles.
        path: the file to write; its suffix gives the format.
    """
    width, height = PANEL_SIZE
    figure = Figure(figsize=(width * len(_PARTS) * 0.75, height), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(_PARTS), sharey=True)
    for axes, part in zip(panels, _PARTS, strict=True):
        points = _draw(axes, groups, part)
        axes.set_title(f"{_PARTS[part]}\n{_caption(pooled[part])}", fontsize="medium")
    panels[0].set_ylabel("standard deviation of the group's returns (reward)")
    if len({group.step for group in groups}) > 1:
        figure.colorbar(points, ax=panels, label="training step", ticks=MaxNLocator(integer=True))
    canvas.print_figure(path, dpi=150)
    return path


def _draw(axes: Axes, groups: Sequence[Group], part: str) -> PathCollection:
    known = [(energy, group.return_std, group.step) for group in groups if (energy := group.energy[part]) is not None]
    steps = [group.step for group in groups]
    points = axes.scatter(
        [energy for energy, _, _ in known],
        [spread for _, spread, _ in known],
        c=[step for _, _, step in known],
        cmap=_COLOURS,
        vmin=min(steps),
        vmax=max(steps),
        s=18,
        alpha=0.8,
        linewidths=0.3,
        edgecolors="0.3",
    )
    axes.set_xlabel("mean energy of the group's tokens (nats)")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.grid(alpha=0.3)
    return points


def _caption(figures: Mapping[str, Any]) -> str:
    groups = f"{figures['groups']} groups"
    if figures["rho"] is None:
        return f"Spearman undefined, {groups}"
    interval = f"[{figures['low']:.2f}, {figures['high']:.2f}]"
    return f"Spearman {figures['rho']:+.2f} {interval}, p = {figures['p']:.1e}, {groups}"
