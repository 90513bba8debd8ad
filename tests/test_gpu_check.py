"""scripts/gpu_check.py on a CPU, tiny; and its committed figures."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tests.helpers.engines import process_group

ROOT = Path(__file__).parents[1]


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))


@pytest.fixture
def checks(scripts: None, tmp_path: Path) -> Iterator[ModuleType]:
    with process_group(tmp_path):
        yield importlib.import_module("gpu_checks")


def test_checks_run_and_a_failing_one_is_reported(
    checks: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    main, bench_module = importlib.import_module("gpu_check"), importlib.import_module("engine_bench")
    bench = bench_module.Bench("cpu", tiny=True, folder=tmp_path, rounds=1)
    chosen = {check.name: check for check in checks.checks(tiny=True)}

    energy = main.run_one(chosen["energy, fsdp2"], bench, left=60)
    assert energy["passed"]
    assert len(energy["cases"]) == 4
    loss = main.run_one(chosen["loss"], bench, left=60)
    assert loss["weights of 1 change nothing"]
    assert loss["Eq. 6, error"] < 1e-6
    assert set(main.run_one(chosen["cost, 0.5B"], bench, left=60)["arms"]["energy"]) >= {"seconds", "peak_gb", "ratio"}
    monkeypatch.setattr(bench, "rounds", "none")
    assert main.run_one(chosen["logit kernels"], bench, left=60)["error"].startswith("TypeError")
    assert main.run_one(chosen["loss"], bench, left=0) == {"left_out": True}


def test_what_is_absent_is_replaced(scripts: None, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = importlib.import_module("engine_bench")
    monkeypatch.setattr(sys, "meta_path", [bench.AbsentFinder(("nowhere",)), *sys.meta_path])
    module = importlib.import_module("nowhere.inner")
    for name in ("nowhere", "nowhere.inner"):
        monkeypatch.delitem(sys.modules, name)
    assert isinstance(module.Actor, type)
    assert module.remote(len) is len
    assert not hasattr(module, "__version__")


def test_tables(scripts: None) -> None:
    table = importlib.import_module("gpu_check_table")
    arm = {"seconds": 0.5, "peak_gb": 1.25}
    ratio = {"ratio": 2, "smallest ratio": 1, "largest ratio": 4}
    report = {
        "checks": {
            "energy, fsdp2": {"passed": True, "cases": {"a": {"largest error": 2e-6}, "b": {"largest error": 1e-7}}},
            "loss": {"passed": False, "error": "ValueError: no"},
            "bf16": {"left_out": True},
            "cost, 3B": {"passed": True, "tokens": 65536, "arms": {"without": arm, "energy": arm | ratio}},
        }
    }
    assert table.tables(report).splitlines() == [
        "| model | pass | s | against without | memory, GB |",
        "| --- | --- | --- | --- | --- |",
        "| 3B, 65,536 tokens | without | 0.500 | 1 | 1.25 |",
        "| 3B, 65,536 tokens | energy | 0.500 | 2.000 (1.000 to 4.000) | 1.25 |",
        "",
        "| check | passed | largest error |",
        "| --- | --- | --- |",
        "| energy, fsdp2 | yes | 2e-06 |",
        "| loss | failed | ValueError |",
        "| bf16 | left out |  |",
        "| cost, 3B | measured |  |",
    ]


def test_committed_tables_are_those_of_the_reports(scripts: None) -> None:
    table = importlib.import_module("gpu_check_table")
    page = (ROOT / "docs" / "performance.md").read_text()
    for report in (ROOT / "results" / "gpu").glob("*.json"):
        assert table.tables(json.loads(report.read_text())) in page, report.name
