"""The figure of the shares: by kind, and by turn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from actfocus_verl.reporting.figures import OKABE_ITO, PANEL_SIZE
from actfocus_verl.truth.segments import Kind

_STYLES: Final = {
    Kind.REASONING: (OKABE_ITO[0], "o"),
    Kind.ACTION: (OKABE_ITO[1], "s"),
    Kind.FORMAT: (OKABE_ITO[2], "^"),
    Kind.LUCK: ("0.4", "D"),
}
"""Colour and marker of each kind: the colours are those of the report's token roles."""
_APART: Final = 0.12
"""Between the kinds at a turn, so that their intervals do not cover each other."""


def plot_shares(found: Mapping[str, Any], path: Path) -> Path:
    """Draw the shares with their 95 % intervals by kind and, if there is more than one turn, by turn.

    found: as `decompose` gives it. path: the file to write; its suffix gives the format.
    """
    turns = found["by_turn"]
    width, height = PANEL_SIZE
    panels = 2 if len(turns) > 1 else 1
    figure = Figure(figsize=(width * panels, height), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots(1, panels, squeeze=False)[0]
    for place, kind in enumerate(Kind):
        _draw(axes[0], kind, [place], [found["shares"][kind.value]])
    axes[0].set_xticks(range(len(Kind)), [kind.value for kind in Kind])
    axes[0].set_title(f"{found['episodes']} episodes on {found['boards']} boards")
    if panels > 1:
        for place, kind in enumerate(Kind):
            shift = _APART * (place - (len(Kind) - 1) / 2)
            _draw(axes[1], kind, [turn["turn"] + shift for turn in turns], [turn[kind.value] for turn in turns])
        axes[1].xaxis.set_major_locator(MaxNLocator(integer=True))
        axes[1].set_xlabel("turn")
        axes[1].set_title("by turn")
        axes[1].legend(frameon=False)
    for panel in axes:
        panel.axhline(0, color="0.6", linewidth=0.8, zorder=0)
        panel.grid(axis="y", alpha=0.3)
    axes[0].set_ylabel("share of Var(return | board)")
    canvas.print_figure(path, dpi=150)
    return path


def _draw(axes: Axes, kind: Kind, places: Sequence[float], figures: Sequence[Mapping[str, Any]]) -> None:
    """Points with their intervals, joined by a line. The interval of a bootstrap need not hold its estimate."""
    colour, marker = _STYLES[kind]
    axes.plot(places, [each["estimate"] for each in figures], color=colour, marker=marker, lw=1, label=kind.value)
    axes.vlines(places, [each["low"] for each in figures], [each["high"] for each in figures], color=colour)
