"""The decomposition as tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from actfocus_verl.files import json_text
from actfocus_verl.truth.checks import checks, remarks
from actfocus_verl.truth.decomposition import KINDS
from actfocus_verl.truth.judged_display import judged_tables

_KINDS = tuple(kind.value for kind in KINDS)
_REACH = "luck is what the world draws: no weighting of tokens can reach it"


def truth_tables(found: Mapping[str, Any]) -> Group:
    """Shares of the variance, the checks of them, the shares by turn and by stratum; intervals are 95 %."""
    title = Text(f"Shares of Var(return | board) = {found['variance']:.4f}")
    played = f"{found['episodes']} episodes on {found['boards']} boards"
    size = Text(f"{played}, {found['continuations']} continuations per boundary")
    strata: list[RenderableType] = [Text(), _strata(found["strata"])] if len(found["strata"]) > 1 else []
    notes = [Text(f"note: {remark}") for remark in (_REACH, *remarks(found))]
    tokens: list[RenderableType] = [Text(), _tokens(found["tokens"])] if "tokens" in found else []
    judged: list[RenderableType] = [Text(), *judged_tables(found["judged"])] if "judged" in found else []
    tables: list[RenderableType] = [_shares(found), Text(), _checks(found), Text(), _turns(found["by_turn"]), *strata]
    return Group(title, size, *tables, *tokens, *judged, Text(), *notes)


def show(found: Mapping[str, Any]) -> None:
    """Print the tables on stdout."""
    Console(highlight=False).print(truth_tables(found))


def _table(title: str | None, *columns: str) -> Table:
    return Table(*columns, title=title, title_justify="left", box=None, pad_edge=False)


def _shares(found: Mapping[str, Any]) -> Table:
    table = _table(None, "kind", "share", "95 % interval")
    for name in _KINDS:
        table.add_row(name, *_cells(found["shares"][name]))
    return table


def _checks(found: Mapping[str, Any]) -> Table:
    title = "Checks: no results, they say whether the shares can be believed"
    table = _table(title, "check", "value", "95 % interval", "expected")
    for check in checks(found):
        table.add_row(check.name, *_cells(check.figure), check.beside or str(check.expected))
    return table


def _turns(turns: list[Mapping[str, Any]]) -> Table:
    table = _table("Shares by turn", "turn", "reached", *_KINDS)
    for turn in turns:
        table.add_row(str(turn["turn"]), f"{turn['reached']:.2f}", *_narrow(turn))
    return table


def _strata(strata: Mapping[str, Mapping[str, Any]]) -> Table:
    table = _table("By stratum", "stratum", "boards", "episodes", "Var(return)", *_KINDS)
    for stratum, part in strata.items():
        size = str(part["boards"]), str(part["episodes"]), f"{part['variance']:.4f}"
        table.add_row(stratum, *size, *_narrow(part))
    return table


def _tokens(tokens: Mapping[str, Any]) -> Table:
    drawn = f"{tokens['tokens']} tokens of {tokens['segments']} {tokens['kind']} segments"
    table = _table(f"Single tokens: {drawn}", "token", "times", "share", "95 % interval")
    for token in tokens["top"]:
        table.add_row(Text(json_text(token["token"], ensure_ascii=False)), str(token["count"]), *_cells(token))
    table.add_row("sum, over the segments' own (expected 1)", "", *_cells(tokens["sum"]))
    return table


def _narrow(shares: Mapping[str, Any]) -> list[str]:
    """A cell of two lines for each kind."""
    return ["\n".join(cell for cell in _cells(shares[kind], digits=2) if cell) for kind in _KINDS]


def _cells(figure: Mapping[str, Any] | None, *, digits: int = 3) -> tuple[str, str]:
    """Estimate and interval; empty where there is none."""
    if figure is None or figure["estimate"] is None:
        return "", ""
    estimate, low, high = (
        "" if figure[name] is None else f"{figure[name]:.{digits}f}" for name in ("estimate", "low", "high")
    )
    return estimate, f"[{low}, {high}]" if low else ""
