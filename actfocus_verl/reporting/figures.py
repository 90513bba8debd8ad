"""Figures of one run, drawn with matplotlib's Figure objects: no pyplot, no display, no global state."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Final

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from actfocus_verl.errors import ConfigurationError
from actfocus_verl.reporting.run_folder import Evaluation, RunFolder

OKABE_ITO: Final[tuple[str, ...]] = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442")
"""A colour-blind safe palette (Okabe and Ito 2008), the strongest on white first."""

PANEL_SIZE: Final[tuple[float, float]] = (6.4, 4.0)
"""Inches."""


def plot_success(run: RunFolder, path: str | Path) -> Path:
    """Draw success over training steps with its 95 % interval, a panel for each of ``run.curves()``.

    Args:
        run: a run with at least one evaluation.
        path: the file to write; its suffix gives the format (png, svg, pdf). Folders are created as needed.

    Returns:
        ``path``.

    Raises:
        ConfigurationError: the run has no evaluation.
    """
    curves = run.curves()
    if not curves:
        raise ConfigurationError(
            "run", str(run.path), "has no evaluation to draw", "Train until an evaluation (trainer.test_freq)"
        )

    width, height = PANEL_SIZE
    figure = Figure(figsize=(width * len(curves), height), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(curves), squeeze=False, sharey=True)[0]
    top = min(1.0, 1.15 * max(evaluation.ci_high for evaluation in run.evaluations))
    for axes, (name, curve), colour in zip(panels, curves.items(), itertools.cycle(OKABE_ITO)):
        _draw_success(axes, curve, colour)
        axes.set_title(f"{name}: {_boards(curve)} boards")
        axes.set_ylim(0.0, top or 1.0)
    panels[0].set_ylabel("success (% of boards)")

    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    canvas.print_figure(target, dpi=150)
    return target


def _draw_success(axes: Axes, curve: list[Evaluation], colour: str) -> None:
    """One world: a line with its band, and error bars, so that a single evaluation shows too."""
    steps = [evaluation.step for evaluation in curve]
    rates = [evaluation.rate for evaluation in curve]
    lows = [evaluation.ci_low for evaluation in curve]
    highs = [evaluation.ci_high for evaluation in curve]
    # max(): the ends of an interval are rounded in the file, and may cross a rate of 0 or 1 by 1e-17
    below = [max(0.0, rate - low) for rate, low in zip(rates, lows, strict=True)]
    above = [max(0.0, high - rate) for rate, high in zip(rates, highs, strict=True)]

    axes.fill_between(steps, lows, highs, color=colour, alpha=0.2, linewidth=0, label="95 % interval")
    axes.errorbar(steps, rates, (below, above), color=colour, marker="o", markersize=4, capsize=3, label="success")
    axes.set_xlabel("training step (one batch of rollouts each)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1.0, symbol=None))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", frameon=False)


def _boards(curve: list[Evaluation]) -> str:
    """How many boards each evaluation played: ``512``, or ``64 to 512`` where it changed."""
    boards = sorted({evaluation.episodes for evaluation in curve})
    return str(boards[0]) if len(boards) == 1 else f"{boards[0]} to {boards[-1]}"
