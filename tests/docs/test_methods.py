"""docs/methods.md: a section a weighting, with its knobs, their defaults, and a choice that composes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from actfocus_verl.credit.estimation import ESTIMATORS, build_estimator
from actfocus_verl.credit.registry import build_weighting, known_weightings
from actfocus_verl.credit.weighting import ACTFOCUS_SIGNALS
from tests.config.conftest import composed

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "methods.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## `credit=(\w+)`\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
CHOICES = re.findall(r"^Choose it: `(.+)`\.$", PAGE, re.MULTILINE)


def test_every_weighting_has_a_section() -> None:
    assert sorted(SECTIONS) == list(known_weightings())
    assert all(f"credit={name}" in re.findall(r"^Choose it: .*$", text, re.M)[0] for name, text in SECTIONS.items())


@pytest.mark.parametrize("name", SECTIONS)
def test_its_knobs_and_defaults_are_those_of_the_function(name: str) -> None:
    _, _, table = SECTIONS[name].partition("| knob | default | source |\n")
    rows = re.findall(r"^\| `(\w+)` \| `([^`]+)` \|", table, re.MULTILINE)
    assert {knob: yaml.safe_load(default) for knob, default in rows} == build_weighting({"name": name}).params


def test_the_table_of_signals_is_complete() -> None:
    _, _, table = SECTIONS["actfocus"].partition("| signal | s of a token |")
    table, _, _ = table.partition("\n\n")
    signals = dict(re.findall(r"^\| `(\w+)` \| .* \| (reference|nothing) \|", table, re.MULTILINE))
    reads_reference = {
        signal: bool({"energy", "reference_entropy", "gauge_free_energy", "ref_log_prob"} & set(columns))
        for signal, columns in ACTFOCUS_SIGNALS.items()
    }
    assert {signal: needs == "reference" for signal, needs in signals.items()} == reads_reference


@pytest.mark.parametrize("choice", CHOICES)
def test_a_choice_composes_and_passes_the_checks(choice: str) -> None:
    config = composed(*shlex.split(choice))
    build_weighting(OmegaConf.to_container(config.credit, resolve=True))


@pytest.mark.parametrize("name", ESTIMATORS.known())
def test_an_estimators_section_has_its_knobs_and_the_defaults_of_its_file(name: str) -> None:
    [section] = re.findall(rf"^### `algorithm={name}`\n(.*?)(?=^##)", PAGE, re.MULTILINE | re.DOTALL)
    rows = re.findall(r"^\| `([\w.]+)` \| `([^`]+)` \|", section, re.MULTILINE)
    config = composed(f"algorithm={name}")
    assert {key: yaml.safe_load(default) for key, default in rows} == {
        key: OmegaConf.select(config, key) for key, _ in rows
    }
    spec = build_estimator(name, {})
    assert spec is not None
    assert {f"estimator.{key}" for key in spec.params} <= {key for key, _ in rows}
    own = OmegaConf.to_container(config.estimator) if "estimator" in config else {}
    assert own == spec.params
    assert f"algorithm={name}" in re.findall(r"^Choose it: .*$", section, re.MULTILINE)[0]
