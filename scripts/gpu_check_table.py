"""The Markdown tables of a report of gpu_check.py, as docs/performance.md shows them."""

from __future__ import annotations

from statistics import median
from typing import Any


def tables(report: dict[str, Any]) -> str:
    """Which checks passed; what the logits cost; what the energy costs a pass. Ends in a line break."""
    checks: dict[str, dict[str, Any]] = report["checks"]
    parts = [
        _table(("check", "passed", "largest error"), [_verdict(name, check) for name, check in checks.items()]),
        *(_kernels(check) for name, check in checks.items() if name == "logit kernels" and "arms" in check),
        *_passes({name: check for name, check in checks.items() if name.startswith("cost") and "arms" in check}),
        *(_update(check) for name, check in checks.items() if name == "update" and "arms" in check),
    ]
    return "\n".join(parts)


def _verdict(name: str, check: dict[str, Any]) -> tuple[str, ...]:
    if check.get("left_out"):
        return name, "left out", ""
    if "error" in check:
        return name, "failed", check["error"].split(":")[0]
    errors = [case["largest error"] for case in check.get("cases", {}).values()]
    return name, "yes" if check["passed"] else "no", f"{max(errors):.0e}" if errors else ""


def _kernels(check: dict[str, Any]) -> str:
    rows = [(name, f"{1000 * arm['seconds']:.1f}", _memory(arm)) for name, arm in check["arms"].items()]
    return _table((f"{check['rows']:,} x {check['vocabulary']:,} logits", "ms", "memory, GB"), rows)


def _passes(checks: dict[str, dict[str, Any]]) -> list[str]:
    rows = []
    for name, check in checks.items():
        title = f"{name.removeprefix('cost, ')}, {check['tokens']:,} tokens"
        for arm, line in check["arms"].items():
            ratios = line.get("ratios")
            ratio = f"{median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})" if ratios else "1"
            rows.append((title, arm, f"{line['seconds']:.3f}", ratio, _memory(line)))
    return [_table(("model", "pass", "s", "against without", "memory, GB"), rows)] if rows else []


def _update(check: dict[str, Any]) -> str:
    rows = [(name, f"{arm['seconds']:.2f}", _memory(arm)) for name, arm in check["arms"].items()]
    return _table((f"update of {check['tokens']:,} tokens, entropy", "s", "memory, GB"), rows)


def _memory(line: dict[str, Any]) -> str:
    return "" if line["peak_gb"] is None else f"{line['peak_gb']:.2f}"


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)
