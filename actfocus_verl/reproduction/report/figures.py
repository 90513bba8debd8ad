"""Curves over seeds, drawn so that equal numbers give equal bytes."""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Final

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from actfocus_verl.reporting.figures import OKABE_ITO, PANEL_SIZE
from actfocus_verl.reporting.statistics import mean_interval
from actfocus_verl.reproduction.matrix import Sweep
from actfocus_verl.reproduction.report import cells as of
from actfocus_verl.reproduction.report.cells import Cell
from actfocus_verl.reproduction.summary import Summary

_MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X")
_PNG: Final = {"Software": None}
"""Else the file names the version of matplotlib."""

WINDOW: Final = 4
"""Steps."""

Series = list[tuple[float, float]]
"""Points (x, y) of one run."""


def curves_figure(cells: Sequence[Cell]) -> bytes:
    """Three panels over training steps: held-out success, success in training, tokens of reasoning an episode.

    A line is the mean over seeds, its band the 95 % t interval; thin lines are single runs, of the first panel. The
    other two average each run over windows of `WINDOW` steps first.
    """
    figure = _new_figure(3)
    panels: tuple[tuple[str, Callable[[Summary], Series], tuple[float, float | None], bool], ...] = (
        ("held-out success (% of episodes)", _evaluations, (0, 100), True),
        (
            "success in training (% of episodes)",
            lambda run: _windows(run, "episode/success_rate", 100),
            (0, 100),
            False,
        ),
        ("reasoning (tokens an episode)", lambda run: _windows(run, "response_tokens/reasoning", 1), (0, None), False),
    )
    for axes, (label, series, limits, with_runs) in zip(figure.axes, panels, strict=True):
        top = 0.0
        for cell, colour, marker in zip(cells, itertools.cycle(OKABE_ITO), itertools.cycle(_MARKERS)):
            runs = [series(run) for run in cell.runs.values()]
            top = max([top, *(y for run in runs for _, y in run)])
            _draw(axes, runs, cell.label, colour, marker if with_runs else "", limits)
        axes.set_ylabel(label)
        axes.set_xlabel("training step")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylim(limits[0], 1.1 * top if top else 1.0)
        axes.grid(alpha=0.3)
    figure.axes[0].legend(frameon=False, fontsize="small")
    return _png(figure)


def sweep_figure(sweep: Sweep, cells: Mapping[str, Cell]) -> bytes:
    """Final success against the value that is swept: mean over seeds with the 95 % t interval, and every run."""
    figure = _new_figure(1)
    (axes,) = figure.axes
    values = []
    for (arm, names), colour, marker in zip(sweep.arms.items(), itertools.cycle(OKABE_ITO), itertools.cycle(_MARKERS)):
        runs = [run for name in names for run in cells[name].runs.values()]
        points = [(float(of.setting(run, sweep.key)), 100 * of.final_rate(run)) for run in runs]
        values += [x for x, _ in points]
        _draw(axes, [[point] for point in points], arm, colour, marker, (0, 100))
    axes.set_ylabel("final held-out success (% of episodes)")
    axes.set_xlabel(sweep.key.rpartition(".")[2])
    if values and min(values) > 0 and max(values) >= 8 * min(values):
        axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize="small")
    return _png(figure)


def _evaluations(run: Summary) -> Series:
    return [(each["step"], 100 * each["rate"]) for each in run["evaluations"]]


def _windows(run: Summary, name: str, scale: float) -> Series:
    """Means over windows of WINDOW steps, each at its mean step; a step without the metric is left out."""
    steps, values = of.metric(run, "step"), of.metric(run, name)
    points = [(x, scale * y) for x, y in zip(steps, values, strict=False) if x is not None and y is not None]
    windows = [points[start : start + WINDOW] for start in range(0, len(points), WINDOW)]
    return [(fmean(x for x, _ in window), fmean(y for _, y in window)) for window in windows]


def _draw(
    axes: Axes, runs: Sequence[Series], label: str, colour: str, marker: str, limits: tuple[float, float | None]
) -> None:
    """The mean at every x that any run has, its band inside `limits`; with a marker also the runs themselves."""
    at: dict[float, list[float]] = {}
    for run in runs:
        for x, y in run:
            at.setdefault(x, []).append(y)
        if marker:
            axes.plot([x for x, _ in run], [y for _, y in run], marker, color=colour, alpha=0.4, markersize=3)
            axes.plot([x for x, _ in run], [y for _, y in run], color=colour, alpha=0.25, linewidth=0.8)
    xs = sorted(at)
    means = [fmean(at[x]) for x in xs]
    bands = [mean_interval(at[x]) for x in xs]
    ends = [mean if math.isnan(band.low) else band.low for mean, band in zip(means, bands, strict=True)]
    tops = [mean if math.isnan(band.high) else band.high for mean, band in zip(means, bands, strict=True)]
    low, high = limits[0], math.inf if limits[1] is None else limits[1]
    axes.fill_between(
        xs, [max(low, end) for end in ends], [min(high, top) for top in tops], color=colour, alpha=0.15, linewidth=0
    )
    axes.plot(xs, means, color=colour, marker=marker or None, markersize=5, label=label)


def _new_figure(panels: int) -> Figure:
    width, height = PANEL_SIZE
    figure = Figure(figsize=(width * panels * (0.75 if panels > 1 else 1.0), height), layout="constrained")
    FigureCanvasAgg(figure)
    figure.subplots(1, panels, squeeze=False)
    return figure


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100, metadata=_PNG)
    return buffer.getvalue()
