"""The line a run ends with."""

import pytest

from actfocus_verl.errors import ConfigurationError
from actfocus_verl.reporting.run_folder import RunFolder
from actfocus_verl.reporting.summary import success_summary

# 138 / 512 = 0.26953, 231 / 512 = 0.45117
LINE = "success: 0.270 [0.233, 0.310] -> 0.451 [0.409, 0.494] (512 boards)"


def test_first_against_last(run_path):
    assert success_summary(RunFolder.open(run_path)) == LINE


def test_one_evaluation(run_path, make_evaluation, write):
    write(run_path / "evaluations.jsonl", [make_evaluation(0, 256, (0.457, 0.543))])
    assert success_summary(RunFolder.open(run_path)) == "success: 0.500 [0.457, 0.543] (512 boards)"


def test_another_number_of_boards_at_the_end(run_path, make_evaluation, write):
    records = [make_evaluation(0, 16, (0.3, 0.7), episodes=32), make_evaluation(5, 256, (0.457, 0.543))]
    write(run_path / "evaluations.jsonl", records)
    line = success_summary(RunFolder.open(run_path))
    assert line == "success: 0.500 [0.300, 0.700] -> 0.500 [0.457, 0.543] (32 -> 512 boards)"


def test_several_worlds_are_named(run_path, make_evaluation, write):
    records = [
        make_evaluation(s, 128 + s, (0.2, 0.3), preset=preset) for s in (0, 128) for preset in ("clean", "ragen")
    ]
    write(run_path / "evaluations.jsonl", records)
    assert success_summary(RunFolder.open(run_path)).splitlines() == [
        "success (frozen_lake/clean/test): 0.250 [0.200, 0.300] -> 0.500 [0.200, 0.300] (512 boards)",
        "success (frozen_lake/ragen/test): 0.250 [0.200, 0.300] -> 0.500 [0.200, 0.300] (512 boards)",
    ]


def test_no_evaluation(run_path):
    (run_path / "evaluations.jsonl").unlink()
    with pytest.raises(ConfigurationError, match=r"has no evaluation to sum up"):
        success_summary(RunFolder.open(run_path))
