"""What unit tests write in place of a run says what a real run says: the same files, keys and types.

A quick test cannot train for two steps, so some write run folders themselves. Here each of them is held against the
folder that the README's own command wrote.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from tests.config import test_output
from tests.diagnosis import conftest as diagnosis
from tests.e2e.runs import ROOT
from tests.helpers.run_folders import write_run

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

Folder = Callable[[Path], Path]


def report_run(folder: Path) -> Path:
    return write_run(folder / "report")


def diagnosis_run(folder: Path) -> Path:
    diagnosis.write_rollouts(folder, 2, diagnosis.records(2))
    return folder


def stand_in_run(folder: Path) -> Path:
    run, experiment = folder / "run", "small/frozen_lake_grpo_actfocus"
    command = [sys.executable, "-m", "tests.reproduction.stand_in", f"run.dir={run}", "run.seed=0"]
    environment = {"STAND_IN_JOURNAL": str(folder / "journal"), "PATH": "/usr/bin:/bin"}
    subprocess.run([*command, f"experiment={experiment}"], cwd=ROOT, env=environment, check=True, timeout=60)
    return run


IMITATIONS: dict[str, Folder] = {"report": report_run, "diagnosis": diagnosis_run, "reproduction": stand_in_run}


def read(run: Path) -> dict[str, Any]:
    """The run's files by kind: every object of a JSON-lines file is one more example of the same thing."""
    lines = {
        "metrics": [run / "metrics.jsonl"],
        "evaluations": [run / "evaluations.jsonl"],
        "rollouts": sorted((run / "rollouts").glob("*.jsonl")),
    }
    found: dict[str, Any] = {}
    for kind, paths in lines.items():
        objects = [json.loads(line) for path in paths if path.exists() for line in path.read_text().splitlines()]
        if objects:
            found[kind] = objects
    if (run / "run.json").exists():
        found["run"] = [json.loads((run / "run.json").read_text())]
    if (run / "config.yaml").exists():
        found["config"] = [yaml.safe_load((run / "config.yaml").read_text())]
    return found


def places(value: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """(where, type) of every value; list items and their like share a place, and all numbers are of one type."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from places(part, f"{place}.{key}" if place else str(key))
    elif isinstance(value, list):
        yield place, "list"
        for part in value:
            yield from places(part, f"{place}[]")
    elif value is not None:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        yield place, "number" if number else type(value).__name__


@pytest.mark.parametrize("name", IMITATIONS)
def test_an_imitated_run_has_the_places_and_types_of_a_real_one(name: str, real_run: Path, tmp_path: Path) -> None:
    real, imitated = read(real_run), read(IMITATIONS[name](tmp_path))
    assert imitated
    for kind, objects in imitated.items():
        known = set(places(real[kind]))
        made_up = {(where, type_) for where, type_ in places(objects) if (where, type_) not in known}
        assert {where for where, _ in made_up} <= ALLOWED.get((name, kind), set()), f"{kind}: {sorted(made_up)}"


ALLOWED: dict[tuple[str, str], set[str]] = {
    ("reproduction", "metrics"): {"[].not/kept"},  # what a summary must leave out
}


def test_an_imitated_checkpoint_has_the_names_of_a_real_one(real_run: Path, tmp_path: Path) -> None:
    config = OmegaConf.create({"trainer": {"default_local_dir": str(tmp_path / "checkpoints")}})
    imitated = test_output.save(config, 2)
    real = real_run / "checkpoints" / "global_step_2"
    names = {path.relative_to(imitated) for path in imitated.rglob("*") if path.is_file()}
    assert names <= {path.relative_to(real) for path in real.rglob("*") if path.is_file()}
    tracker = "latest_checkpointed_iteration.txt"
    assert (imitated.parent / tracker).read_text() == (real.parent / tracker).read_text()
