"""The Markdown tables of a report of gpu_check.py, as docs/performance.md shows them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

PRECISION = (
    "energy's standard deviation",
    "bf16 against float32, rms",
    "bf16 against float32, largest",
    "16 rows against 4 x 4, largest",
)
"""The figures of the check `bf16`."""


def tables(report: dict[str, Any]) -> str:
    """What the energy costs a pass, and the logits; which checks passed; the precision. Ends in a line break."""
    checks: dict[str, dict[str, Any]] = report["checks"]
    measured = {name: check for name, check in checks.items() if check.get("passed")}
    parts = [
        *_passes({name: check for name, check in measured.items() if name.startswith("cost")}),
        *(_kernels(measured[name]) for name in ("logit kernels",) if name in measured),
        *(_update(measured[name]) for name in ("update",) if name in measured),
        _table(("check", "passed", "largest error"), [_verdict(name, check) for name, check in checks.items()]),
        *(_precision(measured[name]) for name in ("bf16",) if name in measured),
        *(_model_dtype(measured[name]) for name in ("model_dtype",) if name in measured),
    ]
    return "\n".join(parts)


def _verdict(name: str, check: dict[str, Any]) -> tuple[str, ...]:
    if check.get("left_out"):
        return name, "left out", ""
    if "error" in check:
        return name, "failed", check["error"].split(":")[0]
    errors = [case["largest error"] for case in check.get("cases", {}).values()]
    errors += [check["Eq. 6, error"]] if "Eq. 6, error" in check else []
    verdict = ("yes" if check["passed"] else "no") if errors else "measured"
    return name, verdict, f"{max(errors):.0e}" if errors else ""


def _kernels(check: dict[str, Any]) -> str:
    rows = [(name, f"{1000 * arm['seconds']:.1f}", _memory(arm)) for name, arm in check["arms"].items()]
    return _table((f"{check['rows']:,} x {check['vocabulary']:,} logits", "ms", "memory, GB"), rows)


def _passes(checks: dict[str, dict[str, Any]]) -> list[str]:
    rows = []
    for name, check in checks.items():
        title = f"{name.removeprefix('cost, ')}, {check['tokens']:,} tokens"
        for arm, line in check["arms"].items():
            ratio = "1"
            if "ratio" in line:
                ratio = f"{line['ratio']:.3f} ({line['smallest ratio']:.3f} to {line['largest ratio']:.3f})"
            rows.append((title, arm, f"{line['seconds']:.3f}", ratio, _memory(line)))
    return [_table(("model", "pass", "s", "against without", "memory, GB"), rows)] if rows else []


def _update(check: dict[str, Any]) -> str:
    rows = [(name, f"{arm['seconds']:.2f}", _memory(arm)) for name, arm in check["arms"].items()]
    return _table((f"update of {check['tokens']:,} tokens, entropy", "s", "memory, GB"), rows)


def _precision(check: dict[str, Any]) -> str:
    rows = [(name, f"{check[name]:.2g}") for name in PRECISION]
    return _table(("energy under bf16", "nats"), rows)


def _model_dtype(check: dict[str, Any]) -> str:
    rows = [
        (engine, place.removeprefix("position "), f"{error['energy']:.2f}", f"{error['logit']:.2f}")
        for engine, places in check["arms"].items()
        for place, error in places.items()
    ]
    return _table(("weights in bf16, engine", "position", "error of the energy", "of a logit"), rows)


def _memory(line: dict[str, Any]) -> str:
    return "" if line["peak_gb"] is None else f"{line['peak_gb']:.2f}"


def _table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)
