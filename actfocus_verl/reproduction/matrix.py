"""A matrix of runs, read from a YAML file: experiments times seeds, and which of them to compare."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TypeVar

import yaml

from actfocus_verl.errors import ConfigurationError, one_line
from actfocus_verl.preflight.overrides import known_names

_NAME = re.compile(r"\w[\w.-]*", re.ASCII)
_CELL = re.compile(rf"{_NAME.pattern}(/{_NAME.pattern})*", re.ASCII)
"""Names of cells: part of a path and of an override, so no character may need quoting."""


@dataclass(frozen=True)
class Experiment:
    """One cell: `name` names its results, `label` is its name in tables.

    overrides: of the configuration, `key=value`. paper: cells of report/paper.json shown beside it. file: the file
    of configs/experiment that it starts from; None: the one with the cell's name.
    """

    name: str
    label: str
    overrides: tuple[str, ...] = ()
    paper: tuple[str, ...] = ()
    file: str | None = None

    @property
    def settings(self) -> tuple[str, ...]:
        """Its arguments for `python -m actfocus_verl.train`. A cell without its own file names its runs."""
        if self.file in (None, self.name):
            return (f"experiment={self.name}", *self.overrides)
        run = f"run.name={self.name.rpartition('/')[2]}-seed${{run.seed}}"
        return (f"experiment={self.file}", run, *self.overrides)


@dataclass(frozen=True)
class Run:
    """One seed of one experiment."""

    experiment: Experiment
    seed: int

    def __str__(self) -> str:
        return f"{self.experiment.name}/seed{self.seed}"


@dataclass(frozen=True)
class Comparison:
    """Two cells whose runs are paired by seed: the difference is `arm` minus `base`. question: the one it answers."""

    arm: str
    base: str
    question: str = ""


@dataclass(frozen=True)
class Sweep:
    """Cells that differ in one number. arms: name of a curve -> its cells, each with its value of `key`.

    choose_best: also compare the arms at their best cells. choose_seeds: the runs by which these are chosen, and which
    are then not compared; empty: all runs choose, and all are compared.
    """

    title: str
    key: str
    arms: Mapping[str, tuple[str, ...]]
    choose_best: bool = False
    choose_seeds: tuple[int, ...] = ()


@dataclass(frozen=True)
class CostGuess:
    """Seconds per start, per episode played and trained on, and per board evaluated, for cells without finished runs.

    `episode` and `board` are by world; there is no estimate for a missing world.
    """

    start: float = math.nan
    episode: Mapping[str, float] = field(default_factory=dict)
    board: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Matrix:
    """Experiments times seeds. sections: title -> experiments, in the order of the report; every cell is in one.

    final_evaluation: world -> what `actfocus evaluate` is given, beside the model, for the last policy of each run.
    """

    name: str
    seeds: tuple[int, ...]
    sections: Mapping[str, tuple[Experiment, ...]]
    note: str = ""
    comparisons: tuple[Comparison, ...] = ()
    sweeps: tuple[Sweep, ...] = ()
    cost_guess: CostGuess = CostGuess()
    final_evaluation: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def experiments(self) -> dict[str, Experiment]:
        """By name, in the order of the file."""
        return {each.name: each for section in self.sections.values() for each in section}

    def runs(self, patterns: Sequence[str] = ()) -> list[Run]:
        """All runs, ordered by seed, so that an interrupted matrix has covered every cell.

        patterns: for `<experiment>/seed<k>`, with `*` as in a shell; a run must match one of them. Empty: all.

        Raises:
            ConfigurationError: a pattern that matches no run.
        """
        runs = [Run(experiment, seed) for seed in self.seeds for experiment in self.experiments.values()]
        for pattern in patterns:
            if not any(_matches(run, pattern) for run in runs):
                raise ConfigurationError(
                    "--only",
                    pattern,
                    f"matches no run of the matrix {self.name}",
                    "Use for example --only '*grpo*' or --only small/sudoku_ppo_uniform/seed0",
                )
        return [run for run in runs if not patterns or any(_matches(run, pattern) for pattern in patterns)]


def _matches(run: Run, pattern: str) -> bool:
    return fnmatchcase(str(run), pattern) or fnmatchcase(run.experiment.name, pattern)


def read_matrix(path: Path) -> Matrix:
    """Read and check a matrix.

    Raises:
        ConfigurationError: the file cannot be read, is malformed, or names a missing experiment.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        problem = f"cannot be read ({one_line(error)})"
        raise ConfigurationError("matrix", str(path), problem, "Give a file of recipes/matrices") from error
    content = _mapping("matrix", content)
    common = tuple(_strings("overrides", content.pop("overrides", [])))
    sections = {
        str(title): _section(str(title), _mapping(str(title), section), common)
        for title, section in _mapping("sections", content.pop("sections", None)).items()
    }
    sweeps = [_mapping("sweeps", each) for each in content.pop("sweeps", [])]
    for sweep in sweeps:
        sweep["choose_seeds"] = _seeds("choose_seeds", sweep.get("choose_seeds", []))
        sweep["arms"] = {str(arm): tuple(cells) for arm, cells in _mapping("arms", sweep.get("arms")).items()}
    matrix = _build(
        Matrix,
        "matrix",
        {
            **content,
            "seeds": _seeds("seeds", content.get("seeds", [])),
            "sections": sections,
            "comparisons": tuple(_build(Comparison, "comparisons", each) for each in content.pop("comparisons", [])),
            "sweeps": tuple(_build(Sweep, "sweeps", each) for each in sweeps),
            "cost_guess": _build(CostGuess, "cost_guess", content.pop("cost_guess", {})),
            "final_evaluation": {
                str(world): tuple(_strings("final_evaluation", words))
                for world, words in _mapping("final_evaluation", content.pop("final_evaluation", {})).items()
            },
        },
    )
    _check(matrix)
    return matrix


def _section(title: str, section: dict[str, Any], common: tuple[str, ...]) -> tuple[Experiment, ...]:
    """The cells of a section, each with the section's experiment and overrides unless it has its own experiment."""
    _check_keys(title, section, ("experiment", "overrides", "cells"))
    common = (*common, *_strings("overrides", section.get("overrides", [])))
    cells = _mapping("cells", section.get("cells"))
    file = section.get("experiment")
    return tuple(_experiment(str(name), _mapping(str(name), cell or {}), file, common) for name, cell in cells.items())


def _experiment(name: str, cell: dict[str, Any], file: str | None, common: tuple[str, ...]) -> Experiment:
    _check_keys(name, cell, ("label", "experiment", "overrides", "paper"))
    return Experiment(
        name=name,
        label=str(cell.get("label", name.rpartition("/")[2].replace("_", " "))),
        overrides=(*common, *_strings("overrides", cell.get("overrides", []))),
        paper=tuple(_strings("paper", cell.get("paper", []))),
        file=cell.get("experiment", file),
    )


def _check(matrix: Matrix) -> None:
    if not _NAME.fullmatch(str(matrix.name)):
        raise ConfigurationError("name", matrix.name, "is not a valid folder name", "Use letters, digits, _, . and -")
    if not matrix.seeds:
        raise ConfigurationError("seeds", [], "must be a list of integers >= 0", "Write [0, 1, 2]")
    if len(set(matrix.seeds)) < len(matrix.seeds):
        raise ConfigurationError("seeds", list(matrix.seeds), "has a duplicate seed", "List each seed once")
    for sweep in matrix.sweeps:
        chosen = set(sweep.choose_seeds)
        if chosen and not chosen < set(matrix.seeds):
            problem = "must be some of the matrix's seeds, but not all"
            remedy = f"Choose from {', '.join(map(str, matrix.seeds))}"
            raise ConfigurationError("choose_seeds", list(sweep.choose_seeds), problem, remedy)
    listed = [each.name for section in matrix.sections.values() for each in section]
    for name in listed:
        if listed.count(name) > 1:
            raise ConfigurationError("sections", name, "is listed twice", "List it once")
        if not _CELL.fullmatch(name):
            problem = "is not a valid name of a cell"
            raise ConfigurationError("sections", name, problem, "Use ASCII letters, digits, _, ., - and /")
    known = known_names("experiment")
    for file in dict.fromkeys(each.file or each.name for each in matrix.experiments.values()):
        if file not in known:
            remedy = f"Choose one of: {', '.join(known)}"
            raise ConfigurationError("experiment", file, "there is no such file in configs/experiment", remedy)
    compared = [name for each in matrix.comparisons for name in (each.arm, each.base)]
    swept = [name for sweep in matrix.sweeps for cells in sweep.arms.values() for name in cells]
    for name in [*compared, *swept]:
        if name not in matrix.experiments:
            raise ConfigurationError(
                "comparisons", name, "is not in the matrix's sections", "Add it, or remove the comparison"
            )


_T = TypeVar("_T")


def _build(kind: type[_T], where: str, values: Mapping[str, Any]) -> _T:
    """Make a dataclass from a mapping. Raises ConfigurationError for an unknown or missing key."""
    _check_keys(where, values, [each.name for each in fields(kind)])  # type: ignore[arg-type]
    try:
        return kind(**values)
    except TypeError as error:
        raise ConfigurationError(where, dict(values), f"is not complete ({error})", "Add what is missing") from error


def _check_keys(where: str, values: Mapping[str, Any], known: Sequence[str]) -> None:
    for key in values:
        if key not in known:
            raise ConfigurationError(where, key, "is not a known key here", f"Known are {', '.join(known)}")


def _mapping(key: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigurationError(key, value, "must be a mapping", "See recipes/matrices/pilot.yaml for the form")
    return dict(value)


def _seeds(key: str, value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or any(not isinstance(seed, int) or seed < 0 for seed in value):
        raise ConfigurationError(key, value, "must be a list of integers >= 0", "Write [0, 1, 2]")
    return tuple(value)


def _strings(key: str, value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise ConfigurationError(key, value, "must be a list of words", "Write for example [credit.alpha=0.3]")
    return value
