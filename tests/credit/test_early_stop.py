"""When a run ends before its last step: each rule against histories worked by hand."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from actfocus_verl.credit.early_stop import History, build_early_stop
from actfocus_verl.errors import ConfigurationError

RAGEN2 = {"name": "ragen2", "success_below": 0.01, "std_share_below": 0.1, "empty_steps": 5}


def test_without_a_rule_nothing_ends_a_run() -> None:
    history = History(success_rates=[0.0] * 20, deviations=[1.0] * 10 + [0.0] * 50, empty=[True] * 60)
    assert build_early_stop({}).reason(history) is None
    assert build_early_stop({"name": "none"}).reason(history) is None


@pytest.mark.parametrize(
    ("rates", "ends"),
    [
        ([0.0] * 5, True),
        ([0.5, 0.009, 0.009, 0.009, 0.009, 0.009], True),
        ([0.0] * 4, False),  # too few
        ([0.0, 0.0, 0.01, 0.0, 0.0], False),  # 0.01 is not below 0.01
        ([0.0] * 5 + [0.02], False),  # the last ones count
    ],
)
def test_success_that_stays_near_nothing(rates: list[float], ends: bool) -> None:
    reason = build_early_stop(RAGEN2).reason(History(success_rates=rates))
    assert (reason is not None) == ends
    assert not ends or reason == "success was below 0.01 in 5 evaluations in a row"


@pytest.mark.parametrize(
    ("deviations", "ends"),
    [
        ([2.0] * 10 + [0.19] * 10, True),  # the limit is 0.1 * 2
        ([1.0, 3.0] * 5 + [0.19] * 10, True),
        ([2.0] * 10 + [0.2] * 10, False),
        ([2.0] * 10 + [0.19] * 9, False),
        ([2.0] * 10 + [0.1] * 20 + [0.3], False),
        ([2.0] * 10 + [0.1] * 5 + [0.3] + [0.1] * 9, False),
        ([2.0] * 10 + [5.0] * 100 + [0.19] * 10, True),  # against the first steps, not the largest
        ([0.0] * 40, False),  # nothing is below a share of nothing
        ([], False),
    ],
)
def test_groups_that_come_to_agree(deviations: list[float], ends: bool) -> None:
    reason = build_early_stop(RAGEN2).reason(History(deviations=deviations, empty=[False] * len(deviations)))
    assert (reason is not None) == ends
    assert not ends or "below 0.1 times its initial value for 10 steps in a row" in str(reason)


@pytest.mark.parametrize(
    ("empty", "ends"), [([True] * 5, True), ([True] * 4, False), ([True, True, False, True, True], False)]
)
def test_filters_that_leave_nothing(empty: list[bool], ends: bool) -> None:
    reason = build_early_stop(RAGEN2).reason(History(deviations=[1.0] * len(empty), empty=empty))
    assert (reason is not None) == ends
    assert not ends or reason == "the filter left nothing to train on for 5 steps in a row"


def test_a_history_is_read_from_the_lines_of_a_run() -> None:
    history = History()
    history.add_step({"step": 1, "filter/group_std/mean": 0.5, "filter/nothing_left": 1.0})
    history.add_step({"step": 2, "loss": 1.0})  # a step that says nothing of groups
    history.add_step({"step": 3, "filter/group_std/mean": None, "filter/nothing_left": 0.0})  # NaN, as the file has it
    line = {"step": 0, "split": "evaluation", "successes": 1, "episodes": 4}
    history.add_evaluations([line, line | {"split": "test", "successes": 5, "episodes": 8}, line | {"step": 10}])
    assert history == History(success_rates=[0.5, 0.25], deviations=[0.5], empty=[True])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"patience": 3}, "early_stop.patience=3: is not a known key"),
        ({"success_below": 0.0}, "early_stop.success_below=0.0"),
        ({"success_below": "1%"}, "early_stop.success_below"),
        ({"std_share_below": 1.5}, "early_stop.std_share_below=1.5"),
        ({"steps": 0}, "early_stop.steps=0"),
        ({"evaluations": None}, "early_stop.evaluations"),
        ({"empty_steps": 2.5}, "early_stop.empty_steps=2.5"),
    ],
)
def test_what_cannot_be_is_named(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        build_early_stop(config)
    assert message in str(error.value)


def test_a_rule_of_ones_own_is_asked_after_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_rule.py").write_text(
        "def solved(history, *, reached=0.9):\n"
        "    return 'it is solved' if history.success_rates[-1:] > [reached] else None\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "own_rule", raising=False)
    rules = build_early_stop({"name": "own_rule:solved", "reached": 0.5, "empty_steps": 1})
    assert rules.reason(History(success_rates=[0.5])) is None
    assert rules.reason(History(success_rates=[0.6])) == "it is solved"
    assert str(rules.reason(History(success_rates=[0.6], empty=[True]))).startswith("the filter left nothing")
    with pytest.raises(
        ConfigurationError, match=r"early_stop.reached=1: is not a known key. Known keys: name, success_below"
    ):
        build_early_stop({"reached": 1})
