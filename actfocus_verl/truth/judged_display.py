"""The judged methods as tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from actfocus_verl.truth.judging import CREDIT_KINDS

Json = Mapping[str, Any]


def judged_tables(judged: Json) -> Iterator[RenderableType]:
    """The credit that methods give to turns and roles, and their gradients; intervals are 95 %."""
    methods = judged["methods"]
    yield _credit(methods)
    yield Text()
    yield _gradients(methods, judged["base"])
    if methods[judged["base"]]["gradient"]["alignment"] is None:
        yield Text(
            "No alignment can be given: the reference gradient's squared length, estimated without the boards' own"
        )
        yield Text("noise, is not above 0. More boards or plain= episodes would show it.")
    reference = judged["reference"]
    cosine = figure(reference["cosine"]) or "unknown"
    yield Text(f"alignment: with the policy gradient of {reference['episodes']} other episodes; of the measured")
    yield Text(f"changes' expected gradient with it: {cosine}. Batches of {judged['batch_boards']} boards.")
    proxy = {name.removeprefix("spearman_"): rho for name, rho in judged["proxy"].items() if name != "groups"}
    ranks = ", ".join(f"{part} {rho:.2f}" for part, rho in proxy.items()) or "undefined"
    yield Text(f"The paper's proxy, Spearman's rho of a board's mean energy and the spread of its returns: {ranks}")
    remarks = sorted({each["remark"] for each in methods.values() if each["remark"]})
    yield Text("* uses what no training has: " + "; ".join(remarks))
    if judged["left_out"]:
        yield Text("Not judged: " + "; ".join(f"{name} ({why})" for name, why in judged["left_out"].items()))


def _credit(methods: Json) -> Table:
    kinds = [f"on {kind.value}" for kind in CREDIT_KINDS]
    table = _table("Credit of turns", "method", "correlation", "right sign", "with luck", "segments", *kinds)
    for name, found in methods.items():
        turns = found["turns"] or {}
        cells = [figure(turns.get(key)) for key in ("correlation", "sign", "luck")]
        mass = [f"{found['mass'][kind.value] or 0:.2f}" for kind in CREDIT_KINDS]
        table.add_row(_name(name, found), *cells, figure(found["segments"]), *mass)
    return table


def _gradients(methods: Json, base: str) -> Table:
    table = _table("Gradients", "method", "alignment", f"minus {base}", "steps", "Adam's alignment", "minus", "steps")
    for name, found in methods.items():
        cells = [figure(found[kind][key]) for kind in ("gradient", "adam") for key in ("alignment", "gain", "worth")]
        table.add_row(_name(name, found), *cells)
    return table


def _name(name: str, found: Json) -> str:
    return f"{name} *" if found["remark"] else name


def _table(title: str, *columns: str) -> Table:
    return Table(*columns, title=title, title_justify="left", box=None, pad_edge=False)


def figure(found: Json | None, digits: int = 2) -> str:
    """An estimate and its interval; empty where there is none."""
    if found is None:
        return ""
    estimate, low, high = (f"{found[key]:.{digits}f}" for key in ("estimate", "low", "high"))
    return f"{estimate} [{low}, {high}]"
