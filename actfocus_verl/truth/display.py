"""The decomposition as tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from actfocus_verl.truth.decomposition import KINDS, SUM

_KINDS = tuple(kind.value for kind in KINDS)
_NULL = "null (expected 0)"


def truth_tables(found: Mapping[str, Any]) -> Group:
    """Shares of the variance, the checks beside them, and the shares by turn; intervals are 95 %."""
    return Group(_shares(found), Text(), _turns(found["by_turn"]))


def show(found: Mapping[str, Any]) -> None:
    """Print the tables on stdout."""
    Console(highlight=False).print(truth_tables(found))


def _shares(found: Mapping[str, Any]) -> Table:
    played = f"{found['episodes']} episodes on {found['boards']} boards"
    sampled = f"{found['continuations']} continuations per boundary"
    title = f"Shares of Var(return | board) = {found['variance']:.4f}: {played}, {sampled}"
    columns = ("kind", "share", "95 % interval", "by covariance", "95 % interval", "drift", "95 % interval")
    table = Table(*columns, title=title, title_justify="left", box=None, pad_edge=False)
    for name in (*_KINDS, SUM):
        cells = [*_cells(found["shares"][name]), *_cells(found["covariance"][name])]
        table.add_row(name, *cells, *_cells(found["drift"].get(name)))
    table.add_row(_NULL, *_cells(found["null"]))
    return table


def _turns(turns: list[Mapping[str, Any]]) -> Table:
    title = "Shares by turn"
    table = Table("turn", "reached", *_KINDS, title=title, title_justify="left", box=None, pad_edge=False)
    for turn in turns:
        shares = [" ".join(_cells(turn[name])) for name in _KINDS]
        table.add_row(str(turn["turn"]), f"{turn['reached']:.2f}", *shares)
    return table


def _cells(figure: Mapping[str, Any] | None) -> tuple[str, str]:
    if figure is None:
        return "", ""
    return f"{figure['estimate']:.3f}", f"[{figure['low']:.3f}, {figure['high']:.3f}]"
