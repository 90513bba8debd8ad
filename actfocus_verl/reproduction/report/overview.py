"""The one table of docs/results.md: a row for each section of matrices, with its weightings and their differences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from actfocus_verl.reporting.statistics import sign_test
from actfocus_verl.reproduction.matrix import Comparison, Matrix
from actfocus_verl.reproduction.report import cells as of
from actfocus_verl.reproduction.report.cells import Cell
from actfocus_verl.reproduction.report.document import Table
from actfocus_verl.reproduction.report.numbers import NONE, mean_of
from actfocus_verl.reproduction.report.tables import paired

_Pair = tuple[str, str]
"""Labels of a comparison's arm and base."""


@dataclass(frozen=True)
class _Setting:
    """A section in which cells are compared. cells: by label. comparisons: by the labels of arm and base."""

    title: str
    cells: Mapping[str, Cell]
    comparisons: Mapping[_Pair, Comparison]

    def differences(self, pair: _Pair) -> list[float]:
        """Of final success, over the seeds that both have; none where the two are not compared."""
        return paired(*(self.cells[label] for label in pair)) if pair in self.comparisons else []


def overview_table(matrices: Sequence[tuple[Matrix, Mapping[str, Cell]]]) -> Table:
    """Final success of each weighting in percent, and differences in percentage points, paired by seed.

    Rows are the sections in which cells are compared. Columns are the labels of those cells, and of the comparisons,
    that more than one row has, if there is more than one. Below the rows of a matrix stand those together that ask the
    same question, as the report has them under "Over settings".
    """
    settings = [(matrix, _settings(matrix, cells)) for matrix, cells in matrices]
    every = [setting for _, own in settings for setting in own]
    labels = _common([each.cells for each in every])
    pairs = _common([each.comparisons for each in every])
    rows = []
    for matrix, own in settings:
        rows += [_row(setting, labels, pairs) for setting in own]
        alike = [_alike(own, pair) for pair in pairs]
        if number := max(map(len, alike), default=0):
            pooled = [_pooled(each, pair) for each, pair in zip(alike, pairs, strict=True)]
            rows.append([f"{number} settings of {matrix.name} together", *[""] * len(labels), *pooled])
    return Table(["setting", *labels, *(f"{arm} minus {base}" for arm, base in pairs)], rows)


def _settings(matrix: Matrix, cells: Mapping[str, Cell]) -> list[_Setting]:
    found = []
    for title, experiments in matrix.sections.items():
        names = {each.name for each in experiments}
        compared = [each for each in matrix.comparisons if {each.arm, each.base} <= names]
        if compared:
            arms = {name for each in compared for name in (each.arm, each.base)}
            own = {cells[each.name].label: cells[each.name] for each in experiments if each.name in arms}
            by_labels = {(cells[each.arm].label, cells[each.base].label): each for each in compared}
            found.append(_Setting(title, own, by_labels))
    return found


_T = TypeVar("_T")


def _common(settings: Sequence[Iterable[_T]]) -> list[_T]:
    """What more than one has, or the only one, in the order in which it comes first."""
    counts = Counter(each for setting in settings for each in setting)
    return [each for each, count in counts.items() if count >= min(2, len(settings))]


def _row(setting: _Setting, labels: Sequence[str], pairs: Sequence[_Pair]) -> list[str]:
    success = [
        mean_of(setting.cells[label].values(of.final_rate), 100) if label in setting.cells else NONE for label in labels
    ]
    return [setting.title, *success, *(mean_of(setting.differences(pair), 100) for pair in pairs)]


def _alike(settings: Sequence[_Setting], pair: _Pair) -> list[_Setting]:
    """Those that compare the two with the same question as the first that does; none where it is alone."""
    asked = [(setting.comparisons[pair].question, setting) for setting in settings if pair in setting.comparisons]
    alike = [setting for question, setting in asked if question and question == asked[0][0]]
    return alike if len(alike) > 1 else []


def _pooled(settings: Sequence[_Setting], pair: _Pair) -> str:
    """Mean over all pairs of runs, how many of them are above 0, and the sign test's p."""
    differences = [each for setting in settings for each in setting.differences(pair)]
    if not differences:
        return NONE
    above = sum(each > 0 for each in differences)
    return f"{mean_of(differences, 100)}, {above} of {len(differences)} above 0, p {sign_test(differences):.3f}"
