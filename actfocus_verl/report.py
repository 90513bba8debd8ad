"""Report on a run, or on two side by side: an HTML page, a figure of success over steps, and the success rates.

    python -m actfocus_verl.report run=outputs/quickstart
    python -m actfocus_verl.report run=<folder> other=<folder> out=comparison.html

The page has curves and every token of the sampled episodes; it is one file that opens from disk and loads nothing from
anywhere. The figure is figures/success.png in the run's folder. The page's path and the success rates go to stdout.
Exit status: 0 written, 2 a mistake in the command or a damaged folder. See docs/report.md.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from actfocus_verl.arguments import help_text, option, read_arguments
from actfocus_verl.command import run_command, start
from actfocus_verl.errors import ConfigurationError
from actfocus_verl.reporting.figures import plot_success
from actfocus_verl.reporting.html_page import build_page
from actfocus_verl.reporting.run_folder import RunFolder
from actfocus_verl.reporting.summary import success_summary

FIGURE = "success.png"


@dataclass(frozen=True)
class Arguments:
    """The keys of the command line."""

    run: Path = option("a run's folder")
    other: Path | None = option("a second run's folder, shown beside the first", None)
    out: Path | None = option(
        "the page; default: report.html in the first run's folder, or comparison.html for two", None
    )
    episodes: int = option("maximum of sampled episodes shown per run, evenly chosen over its steps", 1000, low=0)


def report(arguments: Arguments, console: Console) -> list[str]:
    """Write the page and each run's figure; returns the lines for stdout.

    console: for notes on what was left out. Raises ConfigurationError for a folder that is not a run's, is damaged, or
    cannot be written to.
    """
    runs = [RunFolder.open(path) for path in (arguments.run, arguments.other) if path is not None]
    target = arguments.out or runs[0].path / ("report.html" if len(runs) == 1 else "comparison.html")
    page = build_page(runs, episodes=arguments.episodes)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(page, encoding="utf-8")
    except OSError as error:
        raise _not_writable("out", target, error) from error
    notes = [f"{run.path}: {note}" for run in runs for note in run.notes]
    lines = [str(target)]
    for run in runs:
        if not run.curves():
            notes.append(f"{run.path}: no evaluation yet, so no {FIGURE}")
            continue
        try:
            figure = plot_success(run, run.figures / FIGURE)
        except OSError as error:
            raise _not_writable("run", run.path, error) from error
        console.print(f"figure: {figure}", markup=False, soft_wrap=True)
        lines += [line if len(runs) == 1 else f"{run.path}: {line}" for line in success_summary(run).splitlines()]
    for note in notes:
        console.print(f"note: {note}", markup=False, soft_wrap=True)
    return lines


def _not_writable(key: str, path: Path, error: OSError) -> ConfigurationError:
    remedy = "Name a file in a folder you may write to"
    return ConfigurationError(key, str(path), f"cannot be written ({error.strerror})", remedy)


def _read_and_report(words: Sequence[str], console: Console) -> None:
    lines = report(read_arguments(Arguments, words), console)
    sys.stdout.write("".join(f"{line}\n" for line in lines))


def main(words: Sequence[str]) -> int:
    """Report on runs; returns the exit status."""
    return run_command(words, _read_and_report, lambda: help_text(__doc__ or "", Arguments))


if __name__ == "__main__":
    start(main)
