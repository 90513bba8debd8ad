"""The decomposition as tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from actfocus_verl.truth.decomposition import KINDS, SUM
from actfocus_verl.truth.judged_display import judged_tables

_KINDS = tuple(kind.value for kind in KINDS)
_NULL = "null (expected 0)"


def truth_tables(found: Mapping[str, Any]) -> Group:
    """Shares of the variance, the checks beside them, and the shares by turn; intervals are 95 %."""
    title = Text(f"Shares of Var(return | board) = {found['variance']:.4f}")
    played = f"{found['episodes']} episodes on {found['boards']} boards"
    size = Text(f"{played}, {found['continuations']} continuations per boundary")
    judged = [Text(), *judged_tables(found["judged"])] if "judged" in found else []
    return Group(title, size, _shares(found), Text(), _checks(found), Text(), _turns(found["by_turn"]), *judged)


def show(found: Mapping[str, Any]) -> None:
    """Print the tables on stdout."""
    Console(highlight=False).print(truth_tables(found))


def _table(title: str | None, *columns: str) -> Table:
    return Table(*columns, title=title, title_justify="left", box=None, pad_edge=False)


def _shares(found: Mapping[str, Any]) -> Table:
    table = _table(None, "kind", "share", "95 % interval")
    for name in (*_KINDS, SUM):
        table.add_row(name, *_cells(found["shares"][name]))
    table.add_row(_NULL, *_cells(found["null"]))
    return table


def _checks(found: Mapping[str, Any]) -> Table:
    table = _table("Checks", "kind", "share by covariance", "drift (expected 0)")
    for name in (*_KINDS, SUM):
        figures = found["covariance"][name], found["drift"].get(name)
        table.add_row(name, *(" ".join(_cells(figure)) for figure in figures))
    return table


def _turns(turns: list[Mapping[str, Any]]) -> Table:
    table = _table("Shares by turn", "turn", "reached", *_KINDS)
    for turn in turns:
        shares = ["\n".join(_cells(turn[name], digits=2)) for name in _KINDS]
        table.add_row(str(turn["turn"]), f"{turn['reached']:.2f}", *shares)
    return table


def _cells(figure: Mapping[str, Any] | None, *, digits: int = 3) -> tuple[str, str]:
    if figure is None:
        return "", ""
    estimate, low, high = (f"{figure[name]:.{digits}f}" for name in ("estimate", "low", "high"))
    return estimate, f"[{low}, {high}]"
