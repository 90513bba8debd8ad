"""The line a run ends with."""

from __future__ import annotations

from actfocus_verl.errors import ConfigurationError
from actfocus_verl.reporting.run_folder import Evaluation, RunFolder


def success_summary(run: RunFolder) -> str:
    """First against last evaluation: ``success: 0.xxx [lo, hi] -> 0.xxx [lo, hi] (512 boards)``.

    The brackets are the 95 % intervals of the two rates. A run with one evaluation has no arrow. A run that was
    evaluated in several ways gets a line for each, which names it: ``success (frozen_lake/clean/test): ...``.

    Raises:
        ConfigurationError: the run has no evaluation.
    """
    curves = run.curves()
    if not curves:
        raise ConfigurationError(
            "run", str(run.path), "has no evaluation to sum up", "Evaluate it, or let it reach one"
        )
    if len(curves) == 1:
        return "\n".join(f"success: {_first_to_last(curve)}" for curve in curves.values())
    return "\n".join(f"success ({name}): {_first_to_last(curve)}" for name, curve in curves.items())


def _first_to_last(curve: list[Evaluation]) -> str:
    ends = [curve[0], curve[-1]] if len(curve) > 1 else curve
    rates = " -> ".join(f"{end.rate:.3f} [{end.ci_low:.3f}, {end.ci_high:.3f}]" for end in ends)
    boards = " -> ".join(str(number) for number in dict.fromkeys(end.episodes for end in ends))
    return f"{rates} ({boards} boards)"
