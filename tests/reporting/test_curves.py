"""Which series a run has, and which panels they make."""

import re

from actfocus_verl.credit.tokens import TokenRole
from actfocus_verl.reporting.curves import PANELS, finite, panels, run_series
from actfocus_verl.reporting.run_folder import RunFolder


def test_series_of_a_run_by_hand(run_path):
    series = run_series(RunFolder.open(run_path))
    assert series == {
        "evaluation/frozen_lake/clean/test/success": {
            "x": [0, 20, 40],
            "y": [0.269531, 0.351562, 0.451172],  # 138, 180 and 231 of 512
            "low": [0.2333, 0.3115, 0.4086],
            "high": [0.31, 0.394, 0.4944],
        },
        "evaluation/frozen_lake/clean/test/return": {"x": [0, 20, 40], "y": [0.1, 0.1, 0.1]},
        "a/b": {"x": [1], "y": [0.5]},  # the second is NaN
    }


def test_a_run_that_just_started_has_none(tmp_path):
    (tmp_path / "config.yaml").write_text("seed: 1\n")
    assert run_series(RunFolder.open(tmp_path)) == {}
    assert panels([{}]) == []


def test_a_panel_has_the_series_that_any_run_holds():
    points = {"x": [1], "y": [0.5]}
    first = {"response_tokens/action": points, "credit/energy/action/p50": points, "unknown": points}
    second = {"response_tokens/format": points, "evaluation/lake/clean/test/success": points}
    assert panels([first, second]) == [
        {
            "title": "Success",
            "unit": "share of episodes",
            "bounds": [0.0, 1.0],
            "series": [{"name": "evaluation/lake/clean/test/success", "label": "lake/clean/test", "role": None}],
        },
        {
            "title": "Response length by role",
            "unit": "tokens per episode",
            "bounds": [0.0, None],
            "series": [
                {"name": "response_tokens/action", "label": "action", "role": "action"},
                {"name": "response_tokens/format", "label": "format", "role": "format"},
            ],
        },
        {
            "title": "Energy by role: median, 10th to 90th percentile",
            "unit": "energy",
            "bounds": [None, None],
            "series": [
                {
                    "name": "credit/energy/action/p50",
                    "label": "action",
                    "role": "action",
                    "low": "credit/energy/action/p10",
                    "high": "credit/energy/action/p90",
                }
            ],
        },
    ]


def test_every_role_of_the_trainer_s_metrics_is_drawn():
    patterns = [pattern for panel in PANELS for _, pattern in panel.series]
    for role in TokenRole:
        assert any(re.fullmatch(pattern, f"response_tokens/{role.name.lower()}") for pattern in patterns)


def test_numbers_for_json():
    assert [finite(value) for value in (1, 0.1234567, float("nan"), float("inf"), None, "x", True)] == [
        *(1, 0.123457, None, None, None, None, None)
    ]
