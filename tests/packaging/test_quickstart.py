"""recipes/quickstart.sh: the words it gives to the training, and the folder they go to."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.packaging.conftest import ROOT, ScriptTree


@pytest.fixture
def quickstart(scripts: ScriptTree) -> ScriptTree:
    """A tree whose fake .venv is up to date, and the script in it."""
    (scripts.root / "recipes").mkdir()
    shutil.copy(ROOT / "recipes" / "quickstart.sh", scripts.root / "recipes")
    assert scripts.run().returncode == 0
    return scripts


@pytest.mark.parametrize(
    ("arguments", "variables", "training", "folder"),
    [
        ([], {}, "", "outputs/quickstart"),
        (["credit=uniform"], {"STEPS": "5"}, " trainer.total_training_steps=5 credit=uniform", "outputs/quickstart"),
        (["credit=uniform", "env=sokoban"], {}, " credit=uniform env=sokoban", "outputs/quickstart_sokoban"),
        (["env=sudoku"], {"OUTPUT": "elsewhere/mine"}, " env=sudoku", "elsewhere/mine"),
    ],
)
def test_a_world_has_a_folder_of_its_own(
    quickstart: ScriptTree, arguments: list[str], variables: dict[str, str], training: str, folder: str
) -> None:
    result = quickstart.run("recipes/quickstart.sh", *arguments, **variables)
    assert result.returncode == 0, result.stderr
    assert quickstart.calls()[-2:] == [
        f"-m actfocus_verl.train experiment=quickstart run.dir={folder}{training}",
        f"-m actfocus_verl.report run={folder}",
    ]


def test_the_script_names_the_worlds_there_are() -> None:
    text = (ROOT / "recipes" / "quickstart.sh").read_text()
    worlds = {path.name for path in Path(ROOT / "configs" / "small").glob("*.yaml")} - {"common.yaml"}
    assert all(name.removesuffix(".yaml") in text for name in worlds - {"frozen_lake.yaml"})
