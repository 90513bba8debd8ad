"""A progress bar on the terminal, fed by the files the trainer writes in another process."""

from __future__ import annotations

import json
import threading
from itertools import takewhile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from actfocus_verl.credit.early_stop import REASON

POLL_SECONDS = 0.5
_NOTED = {
    "episode/success_rate": "success {:.3f}",
    "episode/valid_action_rate": "valid {:.3f}",
    "timing_s/step": "{:.1f} s/step",
}
"""Metrics shown of a step, and how."""


def noted_progress(console: Console) -> Progress:
    """A bar with counts, the task's field `note`, and the times gone and left; nothing where there is no terminal."""
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


class ProgressBar:
    """Shows step, success rate, last evaluation and time left until stopped; without a terminal, one line a step."""

    def __init__(self, folder: Path, total_steps: int | None, console: Console) -> None:
        self._metrics = _Follower(folder / "metrics.jsonl")
        self._evaluations = _Follower(folder / "evaluations.jsonl")
        self._console = console
        self._progress = noted_progress(console)
        self._task = self._progress.add_task("starting", total=total_steps, note="")
        self._evaluation = ""
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
            self._show()

    def _show(self) -> None:
        for line in self._evaluations.new():
            self._evaluation = f"{line['split']} {line['rate']:.3f} [{line['ci_low']:.3f}, {line['ci_high']:.3f}]"
            self._progress.update(self._task, description="training", note=self._evaluation)
            if not self._console.is_terminal:
                text = f"step {line['step']}: {self._evaluation} ({line['episodes']} episodes)"
                self._console.print(text, highlight=False, soft_wrap=True)
        for line in self._metrics.new():
            note = _note(line)
            self._progress.update(
                self._task, description="training", completed=line["step"], note=f"{note}  {self._evaluation}"
            )
            if not self._console.is_terminal:
                self._console.print(f"step {line['step']}: {note}", highlight=False, soft_wrap=True)
            if line.get(REASON):
                text = f"the next step is the last: {line[REASON]}"
                self._console.print(text, highlight=False, markup=False, soft_wrap=True)


def _note(line: dict[str, Any]) -> str:
    """What a step's metrics say; one that is missing, or null because it was not finite, is left out."""
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
        """Return the new lines. Of a file that was rewritten shorter, the lines it kept at its start are not new."""
        if not self._path.exists():
            return []
        earlier: list[bytes] = []
        if self._path.stat().st_size < self._position:  # a run that resumes forgets what came after its checkpoint
            earlier, self._lines, self._position = self._lines, [], 0
        with self._path.open("rb") as file:
            file.seek(self._position)
            data = file.read()
        complete = data[: data.rfind(b"\n") + 1]
        self._position += len(complete)
        lines = complete.split(b"\n")[:-1]
        self._lines += lines
        kept = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(lines, earlier, strict=False)))
        return [json.loads(line) for line in lines[kept:]]
