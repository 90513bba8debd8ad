"""The matrix file: what it means, and that a mistake in it is one line."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from actfocus_verl.errors import ConfigurationError
from actfocus_verl.reproduction.matrix import Matrix, Run, read_matrix

CONTENT = {
    "name": "mine",
    "seeds": [3, 1],
    "overrides": ["run.verbose=true"],
    "sections": {
        "one": {"small/sudoku_grpo_uniform": None, "quickstart": {"label": "Quick", "overrides": ["credit.alpha=0.3"]}},
        "two": {"small/sudoku_ppo_uniform": {"paper": ["sudoku_1.5b_ppo_uniform"]}},
    },
    "comparisons": [{"arm": "quickstart", "base": "small/sudoku_grpo_uniform"}],
    "sweeps": [{"title": "alpha", "key": "credit.alpha", "arms": {"a": ["quickstart"]}}],
    "cost_guess": {"start": 1, "episode": {"sudoku": 2}},
}


def written(tmp_path: Path, content: object) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


@pytest.fixture
def matrix(tmp_path: Path) -> Matrix:
    return read_matrix(written(tmp_path, CONTENT))


def test_experiments_have_labels_and_overrides(matrix: Matrix) -> None:
    first, quick, last = matrix.experiments.values()
    assert (first.name, first.label, first.overrides) == (
        "small/sudoku_grpo_uniform",
        "sudoku grpo uniform",
        ("run.verbose=true",),
    )
    assert (quick.label, quick.overrides) == ("Quick", ("run.verbose=true", "credit.alpha=0.3"))
    assert last.paper == ("sudoku_1.5b_ppo_uniform",)
    assert matrix.sweeps[0].arms == {"a": ("quickstart",)}


def test_every_cell_is_seen_before_a_second_seed(matrix: Matrix) -> None:
    assert [str(run) for run in matrix.runs()] == [
        *("small/sudoku_grpo_uniform/seed3", "quickstart/seed3", "small/sudoku_ppo_uniform/seed3"),
        *("small/sudoku_grpo_uniform/seed1", "quickstart/seed1", "small/sudoku_ppo_uniform/seed1"),
    ]


@pytest.mark.parametrize(
    ("patterns", "number"),
    [(["*sudoku*"], 4), (["*/seed1"], 3), (["quickstart"], 2), (["quickstart/seed3", "*ppo*"], 3)],
)
def test_patterns_choose_runs(matrix: Matrix, patterns: list[str], number: int) -> None:
    assert len(matrix.runs(patterns)) == number


def test_a_pattern_without_a_run_is_a_mistake(matrix: Matrix) -> None:
    with pytest.raises(ConfigurationError, match="--only='nothing': matches no run of the matrix mine"):
        matrix.runs(["quickstart", "nothing"])


def test_runs_are_told_apart(matrix: Matrix) -> None:
    quick = matrix.experiments["quickstart"]
    assert Run(quick, 1) in set(matrix.runs())
    assert Run(quick, 2) not in set(matrix.runs())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "a/b"}, "name='a/b': is no name of a folder"),
        ({"seeds": []}, "seeds=[]: must be whole numbers"),
        ({"seeds": [-1]}, "seeds=[-1]: must be whole numbers"),
        ({"seeds": [1, 1]}, "seeds=[1, 1]: names a seed twice"),
        ({"seds": [1]}, "matrix='seds': is no key here"),
        ({"sections": {"one": {"nothing": None}}}, "sections='nothing': is no file of configs/experiment"),
        ({"sections": {"one": {"quickstart": {"lable": "x"}}}}, "quickstart='lable': is no key here"),
        ({"sections": {"one": {"quickstart": None}, "two": {"quickstart": None}}}, "'quickstart': is listed twice"),
        ({"comparisons": [{"arm": "quickstart"}]}, "is not complete"),
        (
            {"comparisons": [{"arm": "quickstart", "base": "small/webshop_ppo_uniform"}]},
            "is not in the matrix's sections",
        ),
        ({"overrides": "credit.alpha=1"}, "overrides='credit.alpha=1': is no list of words"),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read_matrix(written(tmp_path, CONTENT | changes))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"matrix='.*': cannot be read \(.*No such file"):
        read_matrix(tmp_path / "nothing.yaml")
