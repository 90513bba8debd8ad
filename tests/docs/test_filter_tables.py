"""The pages' tables of filters say what the files in configs/filter say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
FILES = {path.stem: yaml.safe_load(path.read_text()) for path in (ROOT / "configs" / "filter").glob("*.yaml")}
FILES = {
    name: config.get("filter", config) for name, config in FILES.items()
}  # of another package: verl's keys as well
# `none` has the key of `reward_variance`, with the one value that says the same: no knob of its own.
KNOBS = {name: {key: config[key] for key in config if key != "name"} for name, config in FILES.items()} | {"none": {}}


def knobs(cell: str) -> dict[str, Any]:
    return {key: yaml.safe_load(value) for key, value in re.findall(r"`(\w+): ([^`]+)`", cell)}


def test_methods() -> None:
    """There `loss_scaling` is told once, below the table."""
    _, _, section = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8").partition("\n## Filters\n")
    rows = re.findall(r"^\| `(\w+)` \|[^|]+\|([^|]+)\|[^|]+\|$", section, re.MULTILINE)
    told = {name: {key: value for key, value in KNOBS[name].items() if key != "loss_scaling"} for name in KNOBS}
    assert {name: knobs(cell) for name, cell in rows} == told


@pytest.mark.parametrize("name", ["zero_variance", "zero_variance_refill", "top_p", "min_p", "soft_reweight"])
def test_configuration(name: str) -> None:
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    (cell,) = re.findall(rf"^\| `{name}` \|([^|]+)\|", page, re.MULTILINE)
    assert knobs(cell) == KNOBS[name]
