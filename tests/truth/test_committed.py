"""results/truth: the table is what the results give, to the byte, and each is of a cell of recipes/truth.yaml."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest
import yaml

from actfocus_verl.reproduction.composition import compose_experiment
from actfocus_verl.reproduction.matrix import read_matrix

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = runpy.run_path(str(ROOT / "scripts" / "truth_table.py"))
CONTENT = yaml.safe_load((ROOT / "recipes" / "truth.yaml").read_text(encoding="utf-8"))
RESULTS: dict[str, dict[str, Any]] = SCRIPT["_results"](CONTENT["cells"])


def test_the_results_give_the_table_again() -> None:
    assert RESULTS
    assert {file.stem for file in SCRIPT["RESULTS"].glob("*.json")} == set(RESULTS)
    text = "\n".join(SCRIPT["_document"](RESULTS)) + "\n"
    assert text == (SCRIPT["RESULTS"] / SCRIPT["TABLE"]).read_text(encoding="utf-8")


def _policy(name: str, cell: dict[str, Any]) -> str:
    """The beginning of the name of its folder."""
    if "train" in cell:
        return f"{name}_run"
    return Path(cell["model"]).name if "model" in cell else "-".join(cell[key] for key in ("env", "preset", "coupling"))


@pytest.mark.parametrize("name", RESULTS)
def test_a_result_is_of_its_cell(name: str) -> None:
    settings, judged = RESULTS[name]["settings"], RESULTS[name]["judged"]
    cell = CONTENT["cells"][name]
    expected = CONTENT["settings"] | cell.get("settings", {})
    assert Path(settings["model"]).name.startswith(_policy(name, cell))
    engine = {f"engine.{key}": value for key, value in settings["engine"].items()}
    sampled = {**settings, **settings["world"], **engine, **judged.get("parameters", {})}
    asked = {key: value for key, value in expected.items() if key not in ("batch", "plain", "methods")}
    assert {key: sampled[key] for key in asked} == asked
    for method in filter(None, expected.get("methods", "").split(", ")):
        assert method in judged["methods"].keys() | judged["left_out"].keys()
    assert judged["batch_boards"] == expected["batch"]
    assert judged["reference"]["episodes"] == expected["plain"] * expected["boards"] * expected["episodes"]


def test_no_result_has_a_path_of_the_machine() -> None:
    for name in RESULTS:
        assert '"/' not in json.dumps(RESULTS[name])
        assert "/" not in RESULTS[name]["settings"]["model"]


@pytest.mark.parametrize("study", CONTENT["trained"], ids=lambda study: f"{study['matrix']}-{study['cell']}")
def test_trained_arms_are_compared_with_what_the_ruler_compares_with(study: dict[str, Any]) -> None:
    """Its gains are over one base. That an arm is that method on these boards is what the matrix says."""
    judged, (base, *methods) = RESULTS[study["cell"]]["judged"], study["arms"].values()
    assert base == judged["base"]
    assert set(methods) <= judged["methods"].keys()
    experiments = read_matrix(ROOT / "recipes" / "matrices" / f"{study['matrix']}.yaml").experiments
    for arm, method in study["arms"].items():
        composed = compose_experiment(experiments[arm])
        credit, taught = composed.config["credit"], CONTENT["cells"][study["cell"]]
        assert f"{composed.algorithm} + {credit['name']}{' placebo' * credit.get('placebo', False)}" == method
        assert [composed.config["env"][key] for key in ("name", "preset")] == [taught["env"], taught["preset"]]
        assert composed.config["tiny_policy"]["coupling"] == taught["coupling"]


def test_the_results_page_leads_with_their_summary() -> None:
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    assert "\n".join(SCRIPT["summary"](RESULTS)) in page
    assert "\n".join(SCRIPT["training"](CONTENT["trained"], RESULTS)) in page
