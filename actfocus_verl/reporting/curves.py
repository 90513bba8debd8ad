"""The curves of a run's page: which series a run folder has, and which share a panel."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from actfocus_verl.reporting.run_folder import RunFolder

Series = dict[str, list[float | None]]
"""`x` (steps) and `y`, of one length; with an interval also `low` and `high`. None where the file has none."""


@dataclass(frozen=True)
class Panel:
    """Axes and the series drawn in them.

    series: (label, regular expression of whole series names); a `{}` in the label is what the first group matched.
    bounds: of the y axis; None is chosen from the data.
    band: endings of the series that bound a band around one that ends in `p50`.
    """

    title: str
    unit: str
    series: tuple[tuple[str, str], ...]
    bounds: tuple[float | None, float | None] = (None, None)
    band: tuple[str, str] | None = None


_ROLE = "(environment|reasoning|action|format)"

PANELS: Final[tuple[Panel, ...]] = (
    Panel(
        "Success",
        "share of episodes",
        (("{}", "evaluation/(.+)/success"), ("training batch", "episode/success_rate")),
        (0.0, 1.0),
    ),
    Panel("Return", "mean", (("{}", "evaluation/(.+)/return"), ("training batch", "critic/score/mean"))),
    Panel("Response length by role", "tokens per episode", (("{}", f"response_tokens/{_ROLE}"),), (0.0, None)),
    Panel(
        "Valid turns",
        "share of turns",
        (("{}", "val-aux/(.+)/valid_action_rate/mean@.+"), ("training batch", "episode/valid_action_rate")),
        (0.0, 1.0),
    ),
    Panel("Entropy of the policy", "nats per token", (("policy", "actor/entropy"),), (0.0, None)),
    Panel(
        "KL divergence",
        "nats per token",
        (
            ("to the reference, in the loss", "actor/kl_loss"),
            ("to the reference, in the reward", "actor/reward_kl_penalty"),
            ("to the policy that played", "actor/ppo_kl"),
        ),
    ),
    Panel("Mean weight by role", "weight", (("{}", f"credit/mean_weight/{_ROLE}"),), (0.0, None)),
    Panel("Gradient mass by role", "share", (("{}", f"credit/gradient_mass/{_ROLE}"),), (0.0, 1.0)),
    Panel(
        "Weights",
        "share of tokens",
        (("effective sample size", "credit/effective_sample_size"), ("action tokens", "credit/action_token_share")),
        (0.0, 1.0),
    ),
    Panel(
        "Energy by role: median, 10th to 90th percentile",
        "energy",
        (("{}", f"credit/energy/{_ROLE}/p50"),),
        band=("p10", "p90"),
    ),
    Panel("Why episodes end", "share of episodes", (("{}", "stop/(.+)"),), (0.0, 1.0)),
    Panel("Turns", "per episode", (("training batch", "episode/turns"),), (0.0, None)),
    Panel("Gradient norm", "before clipping", (("actor", "actor/grad_norm"), ("critic", "critic/grad_norm"))),
    Panel("Policy loss", "loss", (("policy", "actor/pg_loss"),)),
    Panel("Value loss", "loss", (("critic", "critic/vf_loss"),)),
    Panel("Prompt groups", "groups", (("{}", "filter/(kept|dropped)_groups"),), (0.0, None)),
    Panel(
        "Time of a step",
        "seconds",
        (("{}", "timing_s/(step|gen|old_log_prob|ref|adv|update_critic|update_actor|update_weights)"),),
        (0.0, None),
    ),
)


def run_series(run: RunFolder) -> dict[str, Series]:
    """Every series of a run by name: its numeric metrics, and `evaluation/<curve>/success` and `.../return`.

    The success of an evaluation has its 95 % interval as band. A metric without any finite number is left out.
    """
    series: dict[str, Series] = {}
    for name, curve in run.curves().items():
        steps: list[float | None] = [evaluation.step for evaluation in curve]
        series[f"evaluation/{name}/success"] = {
            "x": steps,
            "y": _numbers(evaluation.rate for evaluation in curve),
            "low": _numbers(evaluation.ci_low for evaluation in curve),
            "high": _numbers(evaluation.ci_high for evaluation in curve),
        }
        series[f"evaluation/{name}/return"] = {
            "x": steps,
            "y": _numbers(evaluation.mean_return for evaluation in curve),
        }
    for record in run.metrics:
        for name, value in record.items():
            number = finite(value)
            if name != "step" and number is not None:
                points = series.setdefault(name, {"x": [], "y": []})
                points["x"].append(record["step"])
                points["y"].append(number)
    return series


def panels(runs: Iterable[Mapping[str, Series]]) -> list[dict[str, Any]]:
    """The panels that any of the runs has a series for; each as title, unit, bounds and series (name, label, role).

    A series names the two that bound its band as `low` and `high`; `role` is the token role that it is about, or None.
    """
    names = list(dict.fromkeys(name for run in runs for name in run))
    drawn = []
    for panel in PANELS:
        series = [
            _series(label, match, panel.band)
            for label, pattern in panel.series
            for name in names
            if (match := re.fullmatch(pattern, name))
        ]
        if series:
            drawn.append({"title": panel.title, "unit": panel.unit, "bounds": list(panel.bounds), "series": series})
    return drawn


def _series(label: str, match: re.Match[str], band: tuple[str, str] | None) -> dict[str, str | None]:
    name, first = match[0], next(iter(match.groups()), "")
    entry = {"name": name, "label": label.format(first), "role": first if re.fullmatch(_ROLE, first) else None}
    if band is not None:
        entry["low"], entry["high"] = (name.removesuffix("p50") + ending for ending in band)
    return entry


def finite(value: Any) -> float | None:
    """The number for JSON: at most 6 significant digits; None if not a finite number, or a bool."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return value if isinstance(value, int) else float(f"{value:.6g}")


def _numbers(values: Iterable[Any]) -> list[float | None]:
    return [finite(value) for value in values]
