"""Whether the reasoning or the action tokens decide the answer, in the kept episodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from actfocus_verl.credit.influence import ALPHA, METRICS, REPEATED, MovingInfluence, verdict
from actfocus_verl.diagnosis.samples import StepSample


def influence_figures(samples: Sequence[StepSample]) -> dict[str, Any] | None:
    """The entropies of the first answers, averaged over the steps, the influence they imply, and the sentence on it.

    Returns:
        By the name of the metric, and `sentence`. None where no step has something to compare. Steps without a repeated
        answer count only if no step has one; then there is no `alpha`.
    """
    found = [answers.metrics() for answers in (sample.answers for sample in samples) if answers is not None]
    if not found:
        return None
    counted = [metrics for metrics in found if metrics[REPEATED] > 0] or found
    means = {name: sum(metrics[name] for metrics in counted) / len(counted) for name in METRICS}
    share = influence_of(means)
    figures = means | ({} if share is None else {ALPHA: share})
    return {name.rpartition("/")[2]: value for name, value in figures.items()} | {"sentence": verdict(figures)}


def influence_of(metrics: dict[str, float]) -> float | None:
    """The influence by the entropies of one step; None where it is unknown."""
    moving = MovingInfluence()
    moving.add_step(metrics)
    return moving.value
