"""Display of an evaluation: its progress, and its metrics as tables."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.table import Table

from actfocus_verl.launch.progress import noted_progress

_PRINTED_PARTS = 10
"""Number of progress lines without a terminal."""


class EpisodeProgress:
    """Episodes done and success so far; a context manager."""

    def __init__(self, total: int, done: int, successes: int, console: Console) -> None:
        self._total, self._done, self._successes = total, done, successes
        self._console = console
        self._progress = noted_progress(console)
        self._task = self._progress.add_task("episodes", total=total, completed=done, note=self._note())

    def __enter__(self) -> EpisodeProgress:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._progress.stop()

    def add(self, success: bool) -> None:
        """Count an episode that has ended."""
        before = self._done * _PRINTED_PARTS // self._total
        self._done, self._successes = self._done + 1, self._successes + success
        self._progress.update(self._task, completed=self._done, note=self._note())
        if not self._console.is_terminal and self._done * _PRINTED_PARTS // self._total > before:
            self._console.print(f"{self._done} of {self._total} episodes: {self._note()}", highlight=False)

    def _note(self) -> str:
        return f"success {self._successes / self._done:.3f}" if self._done else ""


def summary_tables(settings: Mapping[str, Any], summary: Mapping[str, Any]) -> Group:
    """The metrics, also by stratum if there is more than one."""
    tables = [_whole(settings, summary)]
    if len(summary["strata"]) > 1:
        tables.append(_strata(summary["strata"]))
    return Group(*tables)


def _whole(settings: Mapping[str, Any], summary: Mapping[str, Any]) -> Table:
    world = f"{settings['env']}/{settings['preset']}/{settings['split']}"
    played = f"{summary['episodes']} episodes on {summary['boards']} boards"
    title = f"{world}: {played}, temperature {settings['temperature']:g}"
    table = Table("figure", "value", "95 % interval", "by", title=title, title_justify="left", box=None, pad_edge=False)
    for name, label in (("success", "success rate"), ("return", "return"), ("regret", "regret")):
        table.add_row(label, *_cells(summary[name]))
    if summary["regret"]["left_out"]:
        table.add_row("  episodes without a known optimum", str(summary["regret"]["left_out"]), "", "")
    for name, label in (("valid_turns", "valid turns"), ("parsed_turns", "parsed replies")):
        table.add_row(label, *_cells(summary[name]))
    rest = {"turns": summary["turns"], "actions": summary["actions"]}
    rest |= {f"{name} tokens": value for name, value in summary["tokens"].items()} | summary["outcome"]
    for label, value in rest.items():
        table.add_row(label, _number(value), "", "mean per episode")
    for reason, count in summary["stop_reasons"].items():
        table.add_row(f"stopped by {reason}", str(count), "", "")
    return table


def _strata(strata: Mapping[str, Mapping[str, Any]]) -> Table:
    columns = ("stratum", "boards", "episodes", "success rate", "95 % interval", "return", "regret")
    table = Table(*columns, title="By stratum", title_justify="left", box=None, pad_edge=False)
    for stratum, part in strata.items():
        rate, interval, _ = _cells(part["success"])
        means = [_number(part[name]["mean"]) for name in ("return", "regret")]
        table.add_row(stratum, str(part["boards"]), str(part["episodes"]), rate, interval, *means)
    return table


def _cells(figure: Mapping[str, Any]) -> tuple[str, str, str]:
    value = figure["rate"] if "rate" in figure else figure["mean"]
    known = figure["low"] is not None
    interval = f"[{figure['low']:.3f}, {figure['high']:.3f}]" if known else ""
    return _number(value), interval, (figure["interval"] or "") if known else ""


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}"
