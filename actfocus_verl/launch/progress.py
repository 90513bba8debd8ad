"""A progress bar on the terminal, fed by the files the trainer writes in another process."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

POLL_SECONDS = 0.5


class ProgressBar:
    """Shows step, success rate, last evaluation and time left until stopped; one line a step when there is no terminal."""

    def __init__(self, folder: Path, total_steps: int | None, console: Console) -> None:
        self._metrics = _Follower(folder / "metrics.jsonl")
        self._evaluations = _Follower(folder / "evaluations.jsonl")
        self._console = console
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
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
                self._console.print(f"step {line['step']}: {self._evaluation} ({line['episodes']} episodes)", highlight=False)
        for line in self._metrics.new():
            note = _note(line)
            self._progress.update(
                self._task, description="training", completed=line["step"], note=f"{note}  {self._evaluation}"
            )
            if not self._console.is_terminal:
                self._console.print(f"step {line['step']}: {note}", highlight=False)


def _note(line: dict[str, Any]) -> str:
    return (
        f"success {line['episode/success_rate']:.3f}, valid {line['episode/valid_action_rate']:.3f}, "
        f"{line['timing_s/step']:.1f} s/step"
    )


class _Follower:
    """Reads the complete lines that were appended to a JSON-lines file since the last call."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._position = 0

    def new(self) -> list[dict[str, Any]]:
        if not self._path.exists():
            return []
        if self._path.stat().st_size < self._position:  # rewritten when a run resumes
            self._position = 0
        with self._path.open() as file:
            file.seek(self._position)
            text = file.read()
        complete = text[: text.rfind("\n") + 1]
        self._position += len(complete.encode())
        return [json.loads(line) for line in complete.splitlines()]
