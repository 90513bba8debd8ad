"""The committed reports are what the committed summaries give, to the byte, and docs/results.md says what they say."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from actfocus_verl.reproduction.command import main
from actfocus_verl.reproduction.folders import Workspace
from actfocus_verl.reproduction.matrix import read_matrix
from actfocus_verl.reproduction.report import cells, write_report
from actfocus_verl.reproduction.runner import finished_summaries
from actfocus_verl.reproduction.summary import METRICS, to_text
from tests.helpers.scripts import load_script

ROOT = Path(__file__).resolve().parents[2]
REPORTS = sorted((ROOT / "results").glob("*/report"))
SUMMARIES = sorted((ROOT / "results").rglob("seed*.json"))
PAGE = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")


def matrix_file(report: Path) -> str:
    return f"recipes/matrices/{report.parent.name}.yaml"


def files(folder: Path) -> dict[str, bytes]:
    """What is committed of it: report.html is not."""
    paths = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".html")
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_there_is_one() -> None:
    assert REPORTS


@pytest.mark.parametrize("report", REPORTS, ids=lambda report: report.parent.name)
def test_summaries_give_the_report_again(report: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert main(["report", matrix_file(report), "--out", str(tmp_path)]) == 0
    again, committed = files(tmp_path), files(report)
    assert again.keys() == committed.keys()
    assert [name for name in committed if again[name] != committed[name]] == []


@pytest.mark.parametrize("report", REPORTS, ids=lambda report: report.parent.name)
def test_every_committed_run_is_done(report: Path) -> None:
    """Its summary is where the matrix looks for it, under the name that the matrix gives its cell."""
    workspace = Workspace(read_matrix(ROOT / matrix_file(report)), ROOT / "results", ROOT / "outputs")
    found = {workspace.places(run).summary for run in workspace.matrix.runs()}
    assert found == {path for path in SUMMARIES if path.is_relative_to(report.parent)}
    for run in workspace.matrix.runs():
        content = json.loads(workspace.places(run).summary.read_bytes())
        assert (content["matrix"], content["experiment"], content["seed"]) == (
            workspace.matrix.name,
            run.experiment.name,
            run.seed,
        )


def test_a_summary_has_a_key_a_line() -> None:
    for path in SUMMARIES:
        text = path.read_text(encoding="utf-8")
        assert text == to_text(json.loads(text)), path
        assert text.count("\n") < 100


def test_metrics_by_step_are_those_that_reports_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: set[str] = set()

    def metric(run: cells.Summary, name: str) -> list[float | None]:
        read.add(name)
        return list(run["metrics"].get(name, []))

    monkeypatch.setattr(cells, "metric", metric)
    matrix = read_matrix(ROOT / "recipes" / "matrices" / "longer.yaml")
    write_report(matrix, finished_summaries(Workspace(matrix, ROOT / "results", ROOT / "outputs")), tmp_path)
    assert read == {"step", *METRICS}
    for path in SUMMARIES:
        assert list(json.loads(path.read_bytes())["metrics"]) == ["step", *METRICS]


def test_the_table_of_the_page_is_the_command_s(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    (command,) = re.findall(r"^\.venv/bin/python scripts/reproduce\.py (table .*)$", PAGE, re.MULTILINE)
    assert main(command.split()) == 0
    assert f"\n\n{capsys.readouterr().out}\n" in PAGE


def test_the_numbers_of_the_page_are_the_reports() -> None:
    reports = "\n".join((report / "report.md").read_text(encoding="utf-8") for report in REPORTS)
    text = " ".join(line.strip() for line in PAGE.splitlines() if not line.startswith("|"))
    quoted = re.findall(r"-?\d+\.\d(?: \[[^\]]+\])?(?!\d)", text.replace("Qwen2.5", "Qwen"))
    assert len(quoted) > 10
    assert [number for number in quoted if number not in reports] == []
    assert "4.3 [1.1, 7.5] points above uniform weights, and its placebo 5.1 [2.4, 7.8] points" in text


def test_the_figures_of_the_pretrained_model_are_those_measured() -> None:
    measured = ROOT / "results" / "real_model"
    diagnosis, played = (json.loads((measured / name).read_bytes()) for name in ("diagnosis.json", "boards.json"))

    def text(figures: Mapping[str, float], name: str, scale: float, digits: int, unit: str = "") -> str:
        value, low, high = (f"{scale * figures[key]:.{digits}f}" for key in (name, "low", "high"))
        return f"{value}{unit} [{low}, {high}] |"

    correlation = diagnosis["correlation"]
    cells = [
        text(played["summary"]["success"], "rate", 100, 1, " %"),
        text(diagnosis["gradient_mass"]["actfocus"]["action"], "share", 100, 1, " %"),
        *(text(figures, "rho", 1, 2) for figures in correlation["pooled"].values()),
        text(correlation["equal_difficulty"]["action"], "rho", 1, 2),
    ]
    assert [cell for cell in cells if f"| {cell}" not in PAGE] == []
    table1 = (measured / "table1.md").read_text(encoding="utf-8")
    for tokens in ("362 [343, 373]", "156 [149, 163]", "3.9 [3.8, 4.0]"):
        assert tokens in table1
        assert tokens.replace("3.9 [", "3.9 % [") in PAGE


def test_the_table_of_kills_is_that_of_the_committed_ones() -> None:
    campaign = load_script("kill_campaign")
    kills = [json.loads(line) for line in (ROOT / "results/reliability/kills.jsonl").read_text().splitlines()]
    page = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    assert f"\n\n{campaign.table(kills)}\n" in page
    assert f"these are its {len(kills)} kills" in page
    assert [kill["kill"] for kill in kills] == list(range(len(kills)))


def test_the_readmes_quickstart_figures_are_those_of_the_committed_runs() -> None:
    """Its range, the line that it shows, and the table of docs/performance.md."""
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    table = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    starts, ends, shown = [], [], []
    for path in (path for path in SUMMARIES if path.is_relative_to(ROOT / "results" / "quickstart")):
        content = json.loads(path.read_bytes())
        before, after = (
            f"{each['rate']:.3f} [{each['ci_low']:.3f}, {each['ci_high']:.3f}]"
            for each in (content["evaluations"][0], content["evaluations"][-1])
        )
        assert f"| {path.parent.name}, seed {content['seed']} | {before} | {after} |" in table
        starts.append(content["evaluations"][0]["rate"])
        ends.append(content["evaluations"][-1]["rate"])
        shown.append(f"success: {before} -> {after} (512 boards)")
    spans = " and end at ".join(f"{min(rates):.3f} to {max(rates):.3f}" for rates in (starts, ends))
    assert f"the {len(ends)} runs in `results/quickstart` (seed 0 three times, seed 1 twice) start at {spans}" in readme
    assert any(line in readme for line in shown)
