"""The summaries of a matrix by cell, and values computed from one run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from actfocus_verl.errors import ConfigurationError
from actfocus_verl.reproduction.matrix import Experiment, Matrix
from actfocus_verl.reproduction.summary import FORMAT, Summary
from actfocus_verl.reproduction.version import difference

STABLE_VALID_RATE = 0.9
STABLE_DROP = 0.1


@dataclass(frozen=True)
class Cell:
    """An experiment and its finished runs, by seed."""

    experiment: Experiment
    runs: Mapping[int, Summary]

    @property
    def label(self) -> str:
        return self.experiment.label

    def values(self, measure: Callable[[Summary], float | None]) -> list[float]:
        """One number per run, in the order of seeds; runs without one are left out."""
        return [value for value in map(measure, self.runs.values()) if value is not None]


def cells_of(matrix: Matrix, summaries: Sequence[Summary]) -> dict[str, Cell]:
    """Every cell of the matrix, by experiment; those without a finished run too.

    Raises:
        ConfigurationError: a summary is of another format, or two claim one seed of a cell.
    """
    runs: dict[str, dict[int, Summary]] = {name: {} for name in matrix.experiments}
    for summary in sorted(summaries, key=lambda each: int(each["seed"])):
        name, seed = summary["experiment"], summary["seed"]
        if summary["format"] != FORMAT:
            raise ConfigurationError(
                "format", summary["format"], f"of {name}/seed{seed} is not a known format", "Run it again"
            )
        if seed in runs[name]:
            raise ConfigurationError("seed", seed, f"of {name} has two summaries", "Delete one")
        runs[name][seed] = summary
    return {name: Cell(experiment, runs[name]) for name, experiment in matrix.experiments.items()}


def mixed_versions(cell: Cell) -> bool:
    """Whether code or settings were not the same for all of its runs, or changed within one."""
    if not cell.runs:
        return False
    first, *others = cell.runs.values()
    unlike = (
        difference(first["code"], each["code"]) is not None or first["settings_digest"] != each["settings_digest"]
        for each in others
    )
    return any(unlike) or any(each["mixed_versions"] for each in cell.runs.values())


def first_rate(run: Summary) -> float:
    """Success before training."""
    return float(run["evaluations"][0]["rate"])


def final_rate(run: Summary) -> float:
    """Success at the last evaluation."""
    return float(run["evaluations"][-1]["rate"])


def elsewhere_rate(run: Summary) -> float | None:
    """Success of the last policy in the final evaluation, on boards that the run was not evaluated on; None without."""
    return float(run["final_evaluation"]["success"]["rate"]) if "final_evaluation" in run else None


def peak_rate(run: Summary) -> float:
    """Success at the best evaluation, that before training included."""
    return max(float(each["rate"]) for each in run["evaluations"])


def drop(run: Summary) -> float:
    """Peak to final; never negative."""
    return peak_rate(run) - final_rate(run)


def last_gain(run: Summary) -> float | None:
    """Success at the last evaluation minus that at the one before; None where there is one only."""
    rates = [float(each["rate"]) for each in run["evaluations"]]
    return rates[-1] - rates[-2] if len(rates) > 1 else None


def final_return(run: Summary) -> float:
    """Mean return at the last evaluation."""
    return float(run["evaluations"][-1]["mean_return"])


def first_return(run: Summary) -> float:
    """Mean return before training."""
    return float(run["evaluations"][0]["mean_return"])


def final_valid_rate(run: Summary) -> float | None:
    """Share of turns with valid actions only, at the last evaluation."""
    rate = run["evaluations"][-1].get("valid_action_rate")
    return None if rate is None else float(rate)


def is_stable(run: Summary) -> bool:
    """Whether its replies stayed valid (at least 0.9 of the turns) and success within 0.1 of its peak."""
    valid = final_valid_rate(run)
    return (valid is None or valid >= STABLE_VALID_RATE) and drop(run) <= STABLE_DROP


def minutes(run: Summary) -> float:
    return float(run["cost"]["seconds"]) / 60


def setting(run: Summary, key: str) -> Any:
    """A setting by its dotted key, whether its section or the key itself was kept."""
    if key in run["settings"]:
        return run["settings"][key]
    value: Any = run["settings"]
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def metric(run: Summary, name: str) -> list[float | None]:
    """A metric at every step; empty where it was not kept."""
    return list(run["metrics"].get(name, []))


def early_and_late(run: Summary, name: str) -> tuple[float, float] | None:
    """Means of a metric over the first and the last quarter of the steps."""
    values = metric(run, name)
    quarter = max(1, len(values) // 4)
    early, late = ([value for value in part if value is not None] for part in (values[:quarter], values[-quarter:]))
    return (fmean(early), fmean(late)) if early and late else None
