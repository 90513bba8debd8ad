"""What the progress bar shows of files that another process writes."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from actfocus_verl.credit.influence import ALPHA, METRICS, REPEATED, verdict
from actfocus_verl.launch.progress import LINE_SECONDS, ProgressBar, StageProgress, _Follower


def step(number: int, success: float | None = 0.25, **more: Any) -> dict[str, Any]:
    metrics = {"step": number, "episode/success_rate": success, "episode/valid_action_rate": 1.0, "timing_s/step": 3.21}
    return metrics | more


EVALUATION = {"step": 0, "split": "test", "episodes": 512, "rate": 0.27, "ci_low": 0.2333, "ci_high": 0.3100}


def append(path: Path, entries: Sequence[dict[str, Any]]) -> None:
    with path.open("a") as file:
        file.writelines(json.dumps(entry) + "\n" for entry in entries)


def rewrite(path: Path, entries: Sequence[dict[str, Any]]) -> None:
    path.unlink(missing_ok=True)
    append(path, entries)


def without_terminal() -> Console:
    return Console(file=io.StringIO(), force_terminal=False, width=40)


def output(console: Console) -> list[str]:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_a_follower_returns_each_line_once(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    follower = _Follower(path)
    assert follower.new() == []  # not there yet
    append(path, [step(1), step(2)])
    assert [line["step"] for line in follower.new()] == [1, 2]
    assert follower.new() == []
    append(path, [step(3)])
    assert [line["step"] for line in follower.new()] == [3]


def test_a_follower_waits_for_the_end_of_a_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    follower = _Follower(path)
    path.write_bytes('{"step": 1}\n{"step": 2, "name": "é'.encode()[:-1])  # in the middle of a character, even
    assert follower.new() == [{"step": 1}]
    assert follower.new() == []
    path.write_bytes('{"step": 1}\n{"step": 2, "name": "é"}\n'.encode())
    assert follower.new() == [{"step": 2, "name": "é"}]


def test_lines_that_a_resumed_run_kept_are_not_new(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    follower = _Follower(path)
    append(path, [step(1), step(2), step(3), step(4)])
    assert len(follower.new()) == 4
    rewrite(path, [step(1), step(2)])
    assert follower.new() == []
    append(path, [step(3, 0.5), step(4, 0.5)])
    assert follower.new() == [step(3, 0.5), step(4, 0.5)]


def test_a_step_done_again_is_new(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    follower = _Follower(path)
    append(path, [step(1), step(2), step(3), step(4)])
    follower.new()
    rewrite(path, [step(1), step(2, 0.75)])  # between two looks
    assert follower.new() == [step(2, 0.75)]


def test_without_a_terminal_a_step_is_a_line(tmp_path: Path) -> None:
    console = without_terminal()
    with ProgressBar(tmp_path, 2, console):
        append(tmp_path / "evaluations.jsonl", [EVALUATION])
        append(tmp_path / "metrics.jsonl", [step(1), step(2, 0.5)])
    # The files may be read at any moment between, so the order of evaluations and steps is not promised; no line is
    # broken, although the console is narrow.
    assert sorted(output(console)) == [
        "step 0: test 0.270 [0.233, 0.310] (512 episodes)",
        "step 1: success 0.250, valid 1.000, 3.2 s/step",
        "step 2: success 0.500, valid 1.000, 3.2 s/step",
    ]


def test_what_an_earlier_start_wrote_is_not_shown(tmp_path: Path) -> None:
    append(tmp_path / "metrics.jsonl", [step(1), step(2), step(3), step(4)])
    append(tmp_path / "evaluations.jsonl", [EVALUATION])
    console = without_terminal()
    with ProgressBar(tmp_path, 4, console):
        rewrite(tmp_path / "metrics.jsonl", [step(1), step(2), step(3, 0.5)])
    assert output(console) == ["step 3: success 0.500, valid 1.000, 3.2 s/step"]


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (step(1, None), "step 1: valid 1.000, 3.2 s/step"),  # not finite: null in the file
        ({"step": 1, "episode/success_rate": 0.25}, "step 1: success 0.250"),
        ({"step": 1}, "step 1:"),
    ],
)
def test_a_missing_metric_does_not_end_the_run(tmp_path: Path, line: dict[str, Any], shown: str) -> None:
    console = without_terminal()
    with ProgressBar(tmp_path, None, console):
        append(tmp_path / "metrics.jsonl", [line])
    assert [text.rstrip() for text in output(console)] == [shown]


def test_on_a_terminal_the_bar_holds_step_success_and_evaluation(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=200)
    with ProgressBar(tmp_path, 40, console):
        append(tmp_path / "evaluations.jsonl", [EVALUATION])
        append(tmp_path / "metrics.jsonl", [step(7)])
    last = next(line for line in reversed(output(console)) if "training" in line)
    assert "7/40" in last
    assert "success 0.250, valid 1.000, 3.2 s/step  test 0.270 [0.233, 0.310]" in last


# --- The stages of a run's start --------------------------------------------------------------------------------------


def test_the_stages_of_the_start_are_lines_until_the_first_step(tmp_path: Path) -> None:
    """Each once, and None, an answer that did not come, is no stage."""
    console, asked = without_terminal(), threading.Event()
    stages = iter(["starting Ray", "starting Ray", None, "loading the models", "starting Ray"])

    def next_stage() -> str | None:
        stage = next(stages)
        if stage == "loading the models":
            append(tmp_path / "metrics.jsonl", [step(1)])
            asked.set()
        return stage

    with ProgressBar(tmp_path, 2, console, next_stage):
        assert asked.wait(30)
    assert output(console) == ["starting Ray", "loading the models", "step 1: success 0.250, valid 1.000, 3.2 s/step"]


def test_on_a_terminal_the_stage_is_what_the_bar_says(tmp_path: Path) -> None:
    console, asked = Console(file=io.StringIO(), force_terminal=True, width=200), threading.Event()
    with ProgressBar(tmp_path, 2, console, lambda: asked.set() or "loading the models"):
        assert asked.wait(30)
    assert any("loading the models" in line for line in output(console))


# --- Work in stages ---------------------------------------------------------------------------------------------------


def test_without_a_terminal_a_stage_is_a_line_and_one_that_lasts_several() -> None:
    console, now = without_terminal(), [100.0]
    with StageProgress("tiny policy", console, clock=lambda: now[0]) as progress:
        progress("building a/very/long/path/that/is/wider/than/the/console", 0, 0)
        progress("training", 0, 400)
        for done in (1, 2, 3):
            now[0] += LINE_SECONDS / 2
            progress("training", done * 100, 400)
        now[0] += LINE_SECONDS / 4
        progress("evaluating", 5, 10)
    assert output(console) == [
        "tiny policy: building a/very/long/path/that/is/wider/than/the/console",
        "tiny policy: training",
        "tiny policy: training: 200 of 400 (50%)",
        "tiny policy: evaluating: 5 of 10 (50%)",
    ]


def test_on_a_terminal_a_stage_is_a_bar() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=200)
    with StageProgress("tiny policy", console) as progress:
        progress("building", 0, 0)
        progress("training", 3, 400)
    last = next(line for line in reversed(output(console)) if "tiny policy" in line)
    assert "tiny policy: training" in last
    assert "3/400" in last


@pytest.mark.parametrize("terminal", [True, False])
def test_work_that_was_done_long_ago_shows_nothing(terminal: bool) -> None:
    console = Console(file=io.StringIO(), force_terminal=terminal)
    with StageProgress("tiny policy", console):
        pass
    assert output(console) == []


def test_the_first_step_says_what_decides_the_answers(tmp_path: Path) -> None:
    measured = dict(zip(METRICS, (1.5, 0.09, 0.8), strict=True)) | {ALPHA: 0.94}
    unknown = measured | {REPEATED: 0.0, ALPHA: None}
    console = without_terminal()
    with ProgressBar(tmp_path, 4, console):
        append(
            tmp_path / "metrics.jsonl",
            [step(1, **unknown), step(2, **unknown), step(3, **measured), step(4, **measured)],
        )
    assert [line for line in output(console) if "first answer" in line] == [
        f"note: {verdict(each)}" for each in (unknown, measured)
    ]
