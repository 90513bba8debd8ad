"""recipes/quickstart.sh and field_world.sh: the words they give to the training, and the folder it goes to."""

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
    text = "".join((ROOT / "recipes" / name).read_text() for name in ("quickstart.sh", "field_world.sh"))
    worlds = {path.name for path in Path(ROOT / "configs" / "small").glob("*.yaml")} - {"common.yaml"}
    assert all(name.removesuffix(".yaml") in text for name in worlds - {"frozen_lake.yaml"})


@pytest.fixture
def field_world(scripts: ScriptTree) -> ScriptTree:
    """A tree whose fake .venv is up to date, with the script and what it looks for."""
    for folder, name in (
        ("recipes", "field_world.sh"),
        ("configs/small", "babyai.yaml"),
        ("configs/small", "sokoban.yaml"),
    ):
        (scripts.root / folder).mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / folder / name, scripts.root / folder)
    shutil.copy(ROOT / "requirements" / "babyai.txt", scripts.root / "requirements")
    assert scripts.run().returncode == 0
    return scripts


def test_a_field_world_is_installed_trained_in_and_reported_on(field_world: ScriptTree) -> None:
    result = field_world.run("recipes/field_world.sh", "babyai", "credit=uniform")
    assert result.returncode == 0, result.stderr
    assert field_world.calls()[-3:] == [
        "-m pip install -q -c requirements/constraints-cpu.txt -r requirements/babyai.txt",
        "-m actfocus_verl.train experiment=small/babyai run.dir=outputs/babyai credit=uniform",
        "-m actfocus_verl.report run=outputs/babyai",
    ]


@pytest.mark.parametrize("arguments", [[], ["sokoban"], ["credit=uniform"]])
def test_another_world_is_refused_in_one_line(field_world: ScriptTree, arguments: list[str]) -> None:
    result = field_world.run("recipes/field_world.sh", *arguments)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line.endswith("name a world, textcraft or babyai")
