"""The rooms' imports: the tree keeps the contracts of pyproject.toml, and the contracts notice what they are for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.packaging.conftest import ROOT, copy_tree

LINT_IMPORTS = Path(sys.executable).with_name("lint-imports")


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [str(LINT_IMPORTS), "--no-logo", "--no-cache"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_the_tree_keeps_every_contract() -> None:
    result = lint(ROOT)
    assert result.returncode == 0, result.stdout


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rooms")
    copy_tree(folder)
    return folder


@pytest.mark.parametrize(
    ("room", "line"),
    [
        ("credit", "import actfocus_verl.environments"),
        ("credit", "import ray"),
        ("environments", "import actfocus_verl.credit.tokens"),
        ("environments", "import torch"),
        ("rollout", "import actfocus_verl.credit.weighting"),
        ("rollout", "import verl"),
        ("platforms", "import actfocus_verl.rollout"),
        ("platforms", "import actfocus_verl.integration"),
        ("reporting", "import actfocus_verl.credit"),
        ("environments", "import actfocus_verl.config"),
        ("reporting", "import verl"),
        ("integration", "import actfocus_verl.train"),
        ("integration", "import actfocus_verl.reporting"),
        ("preflight", "import actfocus_verl.reporting"),
        ("launch", "import actfocus_verl.reproduction"),
    ],
)
def test_a_forbidden_import_is_noticed(copied: Path, room: str, line: str) -> None:
    module = copied / "actfocus_verl" / room / "trespasser.py"
    module.write_text(f"{line}\n")
    try:
        result = lint(copied)
    finally:
        module.unlink()
    assert result.returncode == 1
    assert f"actfocus_verl.{room}" in result.stdout


def test_a_new_room_has_to_be_given_a_place(copied: Path) -> None:
    room = copied / "actfocus_verl" / "attic.py"
    room.touch()
    try:
        result = lint(copied)
    finally:
        room.unlink()
    assert result.returncode == 1
    assert "attic" in result.stdout


@pytest.mark.parametrize(
    ("room", "kept_out"),
    [
        ("environments", {"torch", "verl", "ray"}),
        ("rollout", {"torch", "verl", "ray"}),
        ("credit", {"verl", "ray"}),
        ("reporting", {"verl", "ray"}),
    ],
)
def test_importing_a_room_does_not_load_what_it_does_without(room: str, kept_out: set[str]) -> None:
    """The linter reads import statements; this also sees what a package's __init__ drags in."""
    code = f"import sys, actfocus_verl.{room}; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not kept_out & set(result.stdout.split())
