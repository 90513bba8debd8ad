"""`scripts/reproduce.py` as it is typed, with the stand-in's trainings."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from actfocus_verl.reproduction import command
from actfocus_verl.reproduction.composition import Composition
from tests.reproduction.conftest import STAND_IN

ROOT = Path(__file__).resolve().parents[2]
MATRIX = """
name: typed
seeds: [0, 1]
sections:
  one:
    experiment: small/frozen_lake
    cells:
      small/frozen_lake_grpo_uniform: {label: uniform, overrides: [credit=uniform]}
      small/frozen_lake_grpo_actfocus: {label: ActFocus}
comparisons:
  - {arm: small/frozen_lake_grpo_actfocus, base: small/frozen_lake_grpo_uniform}
"""

Typed = Callable[..., tuple[int, str]]


@pytest.fixture
def typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], composed: dict[str, Any]
) -> Typed:
    """Types a command on a matrix of two experiments and two seeds; returns status and everything that was shown."""
    monkeypatch.setattr(command, "compose_experiment", lambda experiment: Composition(composed))
    monkeypatch.setenv("STAND_IN_JOURNAL", str(tmp_path / "journal"))
    matrix = tmp_path / "typed.yaml"
    matrix.write_text(MATRIX)

    def run(action: str, *more: str) -> tuple[int, str]:
        places = ["--results", str(tmp_path / "results"), "--outputs", str(tmp_path / "outputs")]
        status = command.main([action, str(matrix), *places, *more])
        shown = capsys.readouterr()
        return status, shown.out + shown.err

    return run


def test_from_plan_to_report(typed: Typed, tmp_path: Path) -> None:
    status, shown = typed("plan")
    assert status == 0
    assert "unknown" in shown
    assert "4 of 4 runs are left; time in sequence: unknown" in shown

    training = ["--training", shlex.join(STAND_IN)]
    status, shown = typed("run", *training, "--only", "*actfocus/seed0")
    assert (status, "1 done, 0 failed, 0 left" in shown) == (0, True)
    assert "[1/1] small/frozen_lake_grpo_actfocus/seed0" in shown
    assert "done in 1.0 min, success 0.195 -> 0.352 (512 episodes)" in shown  # 100 and 180 of 512

    status, shown = typed("status")
    assert "done 0.352" in shown
    assert "1 done, 3 missing" in shown
    status, shown = typed("plan")
    assert "3 of 4 runs are left; time in sequence: about 0.1 hours" in shown  # three of a minute

    assert typed("run", *training)[0] == 0
    assert "4 done" in typed("status")[1]
    status, shown = typed("table")
    assert (status, shown.splitlines()[0]) == (0, "| setting | uniform | ActFocus | ActFocus minus uniform |")
    report = tmp_path / "results" / "typed" / "report"
    status, shown = typed("report")
    assert status == 0
    for name in ("report.md", "figures/one.png"):
        assert (report / name).exists()
        assert name in shown
    assert not (report / "report.html").exists()
    status, shown = typed("report", "--html")
    assert "report.html" in shown
    assert (report / "report.html").read_text().startswith("<!doctype html>")


def test_the_plan_tells_runs_of_settings_that_have_changed(typed: Typed, composed: dict[str, Any]) -> None:
    assert typed("run", "--training", shlex.join(STAND_IN), "--only", "*/seed0")[0] == 0
    assert "other settings" not in typed("plan")[1]
    composed["trainer"]["total_training_steps"] = 9
    assert typed("plan")[1].count("1 (1 with other settings)") == 2


def test_settings_are_shown_as_a_training_takes_them(typed: Typed) -> None:
    name = "run.name=frozen_lake_grpo_uniform-seed${run.seed}"
    lines = ["# small/frozen_lake_grpo_uniform", "experiment=small/frozen_lake", name, "credit=uniform"]
    assert typed("show", "--only", "*uniform") == (0, "\n".join(lines) + "\n")
    _, shown = typed("show", "--only", "*uniform", "--config")
    assert shown.startswith("\n".join(lines))
    assert yaml.safe_load(shown.partition("credit=uniform\n")[2])["trainer"]["total_training_steps"] == 8


def test_a_failed_run_shows_in_the_exit_status(typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAND_IN_FAILS", "frozen_lake_grpo_uniform")
    status, shown = typed("run", "--training", shlex.join(STAND_IN), "--only", "*/seed0")
    assert status == 1
    assert "1 done, 1 failed, 0 left" in shown
    assert "1 done, 1 failed, 2 missing" in typed("status")[1]


def test_a_mistake_is_one_line(typed: Typed) -> None:
    status, shown = typed("run", "--only", "nothing")
    assert status == 2
    assert shown.count("\n") == 1
    assert shown.startswith("error: --only='nothing': matches no run")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--dry-run"], "--dry-run=True: nothing is submitted, so the runs would start here. Add --submit="),
        (
            ["--submit=here.sh", "--minutes=5"],
            "--minutes=5.0: submitted runs start when the cluster starts them. Leave",
        ),
        (
            ["--submit=here.sh", "--training=mine"],
            "--training='mine': submitted runs use the recipe's command. Leave it",
        ),
    ],
)
def test_an_option_of_the_other_way_of_running_is_refused(typed: Typed, options: list[str], message: str) -> None:
    status, shown = typed("run", *options)
    assert status == 2
    assert message in shown.replace("\n", " ")


def test_several_reports_have_no_folder_in_common(
    typed: Typed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert typed("run", "--training", shlex.join(STAND_IN), "--only", "*/seed0")[0] == 0
    other = tmp_path / "other.yaml"
    other.write_text(MATRIX.replace("typed", "other"))
    shutil.copytree(tmp_path / "results" / "typed", tmp_path / "results" / "other")
    words = ["report", str(tmp_path / "typed.yaml"), str(other), "--results", str(tmp_path / "results")]
    assert command.main([*words, "--out", str(tmp_path / "both")]) == 2
    assert "is a single folder, but several matrices are given" in capsys.readouterr().err
    assert command.main(words) == 0
    for name in ("typed", "other"):
        assert f"# Matrix {name}" in (tmp_path / "results" / name / "report" / "report.md").read_text()


def test_scripts_are_written_for_a_cluster(typed: Typed, tmp_path: Path) -> None:
    template = ROOT / "recipes" / "cluster" / "slurm.sh"
    status, shown = typed("run", "--submit", str(template), "--dry-run")
    assert status == 0
    assert shown.count("would run sbatch --parsable") == 4
    assert len(list(tmp_path.rglob("seed*.sh"))) == 4


def test_the_script_says_what_it_can_do() -> None:
    script = [sys.executable, str(ROOT / "scripts" / "reproduce.py"), "--help"]
    answer = subprocess.run(script, capture_output=True, text=True, check=True, cwd=ROOT)
    assert "plan|show|run|status|table|report" in answer.stdout
