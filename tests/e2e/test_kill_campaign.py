"""scripts/kill_campaign.py in short: one process of a run is killed, the run ends, says which, and resumes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.helpers.scripts import load_script

campaign = load_script("kill_campaign")

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]


@pytest.mark.parametrize(
    ("schedule", "victim", "step", "delay"),
    [
        ("sync", "gcs_server", 1, 1.0),  # Ray answers nothing from then on
        pytest.param("sync", "WorkerDict", 1, 1.0, marks=pytest.mark.nightly),
        pytest.param("colocate_async", "vLLMHttpServer", 1, 2.0, marks=pytest.mark.nightly),
        pytest.param("separate_async", "raylet", 2, 1.0, marks=pytest.mark.nightly),
    ],
)
def test_a_killed_run_ends_names_the_part_and_resumes(
    tmp_path: Path, schedule: str, victim: str, step: int, delay: float
) -> None:
    line = campaign.kill_once(tmp_path / "run", schedule, campaign.Moment(victim, step, delay))
    assert line is not None, "the run had ended before the kill"
    assert line["problems"] == []
    assert line["recorded"] >= step
    starts = json.loads((tmp_path / "run" / "run.json").read_text())["starts"]
    assert [start["exit_reason"].partition(":")[0] for start in starts] == ["failed", "finished"]
