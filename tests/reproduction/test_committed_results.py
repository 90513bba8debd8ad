"""The committed reports are what the committed summaries give, to the byte."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from actfocus_verl.reproduction.command import main

ROOT = Path(__file__).resolve().parents[2]
REPORTS = sorted((ROOT / "results").glob("*/report"))


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_there_is_one() -> None:
    assert REPORTS


@pytest.mark.parametrize("report", REPORTS, ids=lambda report: report.parent.name)
def test_summaries_give_the_report_again(report: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert main(["report", f"recipes/matrices/{report.parent.name}.yaml", "--out", str(tmp_path)]) == 0
    again, committed = files(tmp_path), files(report)
    assert again.keys() == committed.keys()
    assert [name for name in committed if again[name] != committed[name]] == []


def test_the_page_of_results_quotes_the_reports() -> None:
    reports = "\n".join((report / "report.md").read_text(encoding="utf-8") for report in REPORTS)
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    quoted = re.findall(r"-?\d+\.\d \[[^\]]+\]|[+-]?\d+\.\d(?= %|[,)])|\d+ of \d+ runs", page.replace("\n", " "))
    assert len(quoted) > 5
    assert [number for number in quoted if number not in reports] == []
