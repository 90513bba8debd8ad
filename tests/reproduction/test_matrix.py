"""The matrix file: what it means, and that a mistake in it is one line."""

from __future__ import annotations

import re
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
        "one": {
            "cells": {"small/sudoku": None, "quickstart": {"label": "Quick", "overrides": ["credit.alpha=0.3"]}},
        },
        "two": {
            "experiment": "small/sudoku",
            "overrides": ["algorithm=ppo"],
            "cells": {
                "small/sudoku_ppo_uniform": {"overrides": ["credit=uniform"], "paper": ["sudoku_1.5b_ppo_uniform"]},
                "lake": {"experiment": "small/frozen_lake"},
            },
        },
    },
    "comparisons": [{"arm": "quickstart", "base": "small/sudoku"}],
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


def test_cells_have_labels_and_settings(matrix: Matrix) -> None:
    first, quick, uniform, lake = matrix.experiments.values()
    assert (first.label, first.settings) == ("sudoku", ("experiment=small/sudoku", "run.verbose=true"))
    assert (quick.label, quick.settings) == (
        "Quick",
        ("experiment=quickstart", "run.verbose=true", "credit.alpha=0.3"),
    )
    assert matrix.sweeps[0].arms == {"a": ("quickstart",)}
    assert (uniform.label, uniform.paper) == ("sudoku ppo uniform", ("sudoku_1.5b_ppo_uniform",))
    assert lake.label == "lake"


def test_a_cell_adds_to_its_section_and_names_its_runs(matrix: Matrix) -> None:
    *_, uniform, lake = matrix.experiments.values()
    common = ("run.verbose=true", "algorithm=ppo")
    name = "run.name=sudoku_ppo_uniform-seed${run.seed}"
    assert uniform.settings == ("experiment=small/sudoku", name, *common, "credit=uniform")
    assert lake.settings == ("experiment=small/frozen_lake", "run.name=lake-seed${run.seed}", *common)


def test_every_cell_is_seen_before_a_second_seed(matrix: Matrix) -> None:
    assert [str(run) for run in matrix.runs()] == [
        *("small/sudoku/seed3", "quickstart/seed3", "small/sudoku_ppo_uniform/seed3", "lake/seed3"),
        *("small/sudoku/seed1", "quickstart/seed1", "small/sudoku_ppo_uniform/seed1", "lake/seed1"),
    ]


@pytest.mark.parametrize(
    ("patterns", "number"),
    [(["*sudoku*"], 4), (["*/seed1"], 4), (["quickstart"], 2), (["quickstart/seed3", "*ppo*"], 3)],
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
        ({"name": "a/b"}, "name='a/b': is not a valid folder name"),
        ({"seeds": []}, "seeds=[]: must be a list of integers"),
        ({"seeds": [-1]}, "seeds=[-1]: must be a list of integers"),
        ({"seeds": [1, 1]}, "seeds=[1, 1]: has a duplicate seed"),
        (
            {"sweeps": [{"title": "t", "key": "k", "arms": {}, "choose_seeds": [1, 3]}]},
            "must be some of the matrix's seeds",
        ),
        (
            {"sweeps": [{"title": "t", "key": "k", "arms": {}, "choose_seeds": 3}]},
            "choose_seeds=3: must be a list of in",
        ),
        ({"seds": [1]}, "matrix='seds': is not a known key here"),
        (
            {"sections": {"one": {"cells": {"nothing": None}}}},
            "experiment='nothing': there is no such file in configs/e",
        ),
        (
            {"sections": {"one": {"experiment": "small/frozen", "cells": {"a": None}}}},
            "experiment='small/frozen': there is no such file in configs/experiment. Choose one of: paper/frozen_lake",
        ),
        (
            {"sections": {"one": {"quickstart": None}}},
            "one='quickstart': is not a known key here. Known are experiment, over",
        ),
        ({"sections": {"one": {"experiment": "quickstart"}}}, "cells=None: must be a mapping"),
        (
            {"sections": {"one": {"cells": {"quickstart": {"lable": "x"}}}}},
            "quickstart='lable': is not a known key here",
        ),
        (
            {"sections": {"one": {"cells": {"quickstart": None}}, "two": {"cells": {"quickstart": None}}}},
            "'quickstart': is listed twice",
        ),
        ({"sections": {"one": {"experiment": "quickstart", "cells": {"../a": None}}}}, "'../a': is not a valid name"),
        ({"sections": {"one": {"experiment": "quickstart", "cells": {"a b": None}}}}, "'a b': is not a valid name"),
        ({"sections": {"one": {"experiment": "quickstart", "cells": {"a/": None}}}}, "'a/': is not a valid name"),
        ({"comparisons": [{"arm": "quickstart"}]}, "is not complete"),
        (
            {"comparisons": [{"arm": "quickstart", "base": "small/webshop_ppo_uniform"}]},
            "is not in the matrix's sections",
        ),
        ({"overrides": "credit.alpha=1"}, "overrides='credit.alpha=1': must be a list of words"),
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


def test_the_page_s_matrix_is_one(tmp_path: Path) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "reproducing.md").read_text(encoding="utf-8")
    (content,) = re.findall(r"^```yaml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "mine.yaml").write_text(content)
    cells = read_matrix(tmp_path / "mine.yaml").experiments
    assert cells["alpha_0.3"].settings == (
        *("experiment=small/frozen_lake", "run.name=alpha_0.3-seed${run.seed}"),
        *("algorithm=ppo", "credit.alpha=0.3"),
    )
