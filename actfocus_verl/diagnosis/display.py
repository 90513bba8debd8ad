"""The diagnosis as tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from actfocus_verl.diagnosis.gradients import SCORE
from actfocus_verl.diagnosis.tokens import ROLE_NAMES


def token_progress(console: Console) -> Progress:
    """A bar for the tokens whose gradients are being computed; nothing without a terminal."""
    columns = TextColumn("[bold]gradients"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def diagnosis_tables(diagnosis: Mapping[str, Any]) -> Group:
    """Everything but the single groups; intervals are 95 %, shares in %."""
    parts = _tokens(diagnosis)
    if diagnosis["influence"] is not None:
        parts.append(Text(f"\n{diagnosis['influence']['sentence']}"))
    if diagnosis["correlation"] is not None:
        parts += _correlation(diagnosis["correlation"])
    if diagnosis["gradient_mass"]:
        parts += _by_role("Gradient mass: share of sum w |A|, %", "weighting", diagnosis["gradient_mass"], _percent)
    if diagnosis["gradient_norms"] is not None:
        parts += _norms(diagnosis["gradient_norms"])
    return Group(*parts, *(Text(f"note: {note}") for note in diagnosis["notes"]))


def _tokens(diagnosis: Mapping[str, Any]) -> list[RenderableType]:
    kept = f"{diagnosis['episodes']} episodes of {diagnosis['groups']} groups, {len(diagnosis['steps'])} steps"
    mean = _number(diagnosis["tokens"]["an_episode"], "mean", ".1f")
    rows = {"share, %": diagnosis["tokens"]["share"]}
    return _by_role(f"{kept}; response tokens per episode: {mean}", "tokens", rows, _percent)


def correlation_rows(correlation: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Label and figures of each part: over all boards, whose labels are the parts' names, then at equal difficulty."""
    yield from correlation["pooled"].items()
    for part, figures in (correlation["equal_difficulty"] or {}).items():
        yield f"{part}, equal difficulty", figures


def _correlation(correlation: Mapping[str, Any]) -> list[RenderableType]:
    table = Table("tokens", "Spearman's rho", "95 % interval", "p", "groups", box=None, pad_edge=False)
    for label, figures in correlation_rows(correlation):
        if figures["rho"] is None:
            table.add_row(label, "undefined", "", "", str(figures["groups"]))
        else:
            interval = f"[{figures['low']:.3f}, {figures['high']:.3f}]"
            table.add_row(label, f"{figures['rho']:.3f}", interval, f"{figures['p']:.2g}", str(figures["groups"]))
    return [_title("Mean energy of a group against the spread of its returns"), table]


def _norms(norms: Mapping[str, Any]) -> list[RenderableType]:
    drawn = ", ".join(f"{figures['drawn']} of {figures['of']} {name}" for name, figures in norms["tokens"].items())
    gap = norms["log_prob_gap"]
    away = "" if gap is None else f"; {gap:.2g} nats per token from the policy that sampled"
    means = {SCORE: norms["score"], **norms["mean"]}
    return [
        *_by_role(f"Mean gradient norm of a token ({drawn}){away}", "norm times w |A|", means, _mean),
        *_by_role("Share of the sum of gradient norms, %", "weighting", norms["share"], _percent),
    ]


def _by_role(
    title: str, label: str, rows: Mapping[str, Mapping[str, Any]], cell: Callable[[Mapping[str, Any]], str]
) -> list[RenderableType]:
    table = Table(label, *ROLE_NAMES, box=None, pad_edge=False)
    for name, by_role in rows.items():
        table.add_row(name, *(cell(by_role[role]) for role in ROLE_NAMES))
    return [_title(title), table]


def _title(text: str) -> Text:
    """A separate line: a table's title is wrapped at the table's width."""
    return Text(f"\n{text}", style="italic")


def _percent(figures: Mapping[str, Any]) -> str:
    percent = {name: None if value is None else 100 * value for name, value in figures.items()}
    return _number(percent, "share", ".1f")


def _mean(figures: Mapping[str, Any]) -> str:
    return _number(figures, "mean", ".2g")


def _number(figures: Mapping[str, Any], name: str, form: str) -> str:
    if figures[name] is None:
        return "none"
    value = format(figures[name], form)
    return value if figures["low"] is None else f"{value} [{figures['low']:{form}}, {figures['high']:{form}}]"
