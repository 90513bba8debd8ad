"""Progress: a bar on a terminal, lines elsewhere. A run's progress is read from the files that its trainer writes."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from itertools import takewhile
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from actfocus_verl.credit.early_stop import REASON
from actfocus_verl.credit.influence import ALPHA, REPEATED, verdict
from actfocus_verl.run_files import EVALUATIONS_FILE, METRICS_FILE, complete_lines

POLL_SECONDS = 0.5
LINE_SECONDS = 12.0
"""Seconds between lines about a stage in progress, without a terminal."""
_NOTED = {
    "episode/success_rate": "success {:.3f}",
    "episode/valid_action_rate": "valid {:.3f}",
    "episode/outcome/chains": "chains {:.1f}",
    "episode/outcome/tool_calls": "tool calls {:.1f}",
    "timing_s/step": "{:.1f} s/step",
}
"""Metrics shown per step, and their format."""


def noted_progress(console: Console) -> Progress:
    """A bar with counts, the task's field `note`, and the elapsed and remaining time; nothing without a terminal."""
    return Progress(
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )


class StageProgress:
    """Shows the stages of a task: a context manager that is called as the work goes on.

    title: name of the work. clock: seconds, for lines.
    """

    def __init__(self, title: str, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._title = title
        self._console = console
        self._clock = clock
        self._progress = noted_progress(console)
        self._stage: str | None = None
        self._said = 0.0

    def __enter__(self) -> StageProgress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._progress.stop()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """`done` of `total` parts of a stage are done; a total of 0 means unknown."""
        new = stage != self._stage
        if new:
            self._progress.start()  # not before: work that was done long ago has no stages
            for task in self._progress.task_ids:
                self._progress.remove_task(task)
            self._progress.add_task(f"{self._title}: {stage}", total=total or None, note="")
        self._stage = stage
        self._progress.update(self._progress.task_ids[-1], completed=done)
        if not self._console.is_terminal and (new or self._clock() - self._said >= LINE_SECONDS):
            self._said = self._clock()
            count = f": {done} of {total} ({done / total:.0%})" if done and total else ""
            self._console.print(f"{self._title}: {stage}{count}", highlight=False, markup=False, soft_wrap=True)


class ProgressBar:
    """Shows step, success rate, last evaluation and time left until stopped; without a terminal, one line per step.

    After the first step it says what decides the answers (`credit.influence.verdict`); if that is unknown then, again
    after the first step that can tell.

    start_up: returns the stage of the start, or None; called until the first evaluation or step.
    """

    def __init__(
        self, folder: Path, total_steps: int | None, console: Console, start_up: Callable[[], str | None] | None = None
    ) -> None:
        self._metrics = _Follower(folder / METRICS_FILE)
        self._evaluations = _Follower(folder / EVALUATIONS_FILE)
        self._console = console
        self._progress = noted_progress(console)
        self._task = self._progress.add_task("starting", total=total_steps, note="")
        self._evaluation = ""
        self._start_up = start_up
        self._stage = ""
        self._judged = self._known = False
        """Whether it was said what decides the answers, and whether that was known."""
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="actfocus-progress", daemon=True)

    def __enter__(self) -> ProgressBar:
        # What earlier starts of a resumed run wrote is not news.
        for line in self._metrics.new():
            self._progress.update(self._task, completed=line["step"])
        self._evaluations.new()
        self._progress.start()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join(timeout=5)
        self._show()
        self._progress.stop()

    def _run(self) -> None:
        while not self._stopping.wait(POLL_SECONDS):
            self._show_start()
            self._show()

    def _show_start(self) -> None:
        stage = self._start_up() if self._start_up is not None else None
        if stage is None or stage == self._stage:
            return
        self._stage = stage
        self._progress.update(self._task, description=stage)
        if not self._console.is_terminal:
            self._console.print(stage, highlight=False, soft_wrap=True)

    def _show(self) -> None:
        for line in self._evaluations.new():
            self._start_up = None
            self._evaluation = f"{line['split']} {line['rate']:.3f} [{line['ci_low']:.3f}, {line['ci_high']:.3f}]"
            self._progress.update(self._task, description="training", note=self._evaluation)
            if not self._console.is_terminal:
                text = f"step {line['step']}: {self._evaluation} ({line['episodes']} episodes)"
                self._console.print(text, highlight=False, soft_wrap=True)
        for line in self._metrics.new():
            self._start_up = None
            note = _note(line)
            self._progress.update(
                self._task, description="training", completed=line["step"], note=f"{note}  {self._evaluation}"
            )
            if not self._console.is_terminal:
                self._console.print(f"step {line['step']}: {note}", highlight=False, soft_wrap=True)
            self._judge(line)
            if line.get(REASON):
                text = f"the next step is the last: {line[REASON]}"
                self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _judge(self, line: dict[str, Any]) -> None:
        known = line.get(ALPHA) is not None and bool(line.get(REPEATED))
        if self._known or (self._judged and not known):
            return
        sentence = verdict(line)
        if sentence is None:
            return
        self._judged, self._known = True, known
        self._console.print(f"note: {sentence}", highlight=False, markup=False, soft_wrap=True)


def _note(line: dict[str, Any]) -> str:
    """A step's metrics as text, without those that are missing or null (not finite)."""
    found = ((text, line.get(key)) for key, text in _NOTED.items())
    return ", ".join(text.format(value) for text, value in found if value is not None)


class _Follower:
    """Reads the complete lines that were appended to a JSON-lines file since the last call."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._position = 0
        self._lines: list[bytes] = []
        """Read so far."""

    def new(self) -> list[dict[str, Any]]:
        """Return the new lines. In a file that was rewritten shorter, the lines kept are not new."""
        if not self._path.exists():
            return []
        earlier: list[bytes] = []
        if self._path.stat().st_size < self._position:  # a run that resumes forgets what came after its checkpoint
            earlier, self._lines, self._position = self._lines, [], 0
        with self._path.open("rb") as file:
            file.seek(self._position)
            lines = complete_lines(file.read())
        self._position += sum(len(line) + 1 for line in lines)
        self._lines += lines
        kept = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(lines, earlier, strict=False)))
        return [json.loads(line) for line in lines[kept:]]
