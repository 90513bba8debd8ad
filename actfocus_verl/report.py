"""Write one HTML page of a run, or of two side by side: curves, and every token of the sampled episodes.

    python -m actfocus_verl.report run=outputs/quickstart
    python -m actfocus_verl.report run=<folder> other=<folder> out=comparison.html

run, other       folders of runs
out              the page; default: report.html in the first run's folder, or comparison.html for two
episodes=1000    how many sampled episodes of a run to show at most, evenly chosen over its steps

The page is one file that opens from disk and loads nothing from anywhere. Its path goes to stdout. Exit status: 0
written, 2 a mistake in the command or a damaged folder. See docs/report.md.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from actfocus_verl.arguments import read_options
from actfocus_verl.errors import ConfigurationError
from actfocus_verl.reporting.html_page import build_page
from actfocus_verl.reporting.run_folder import RunFolder

EXIT_MISTAKE = 2

_KEYS = ("run", "other", "out", "episodes")
_EPISODES = 1000


def write_report(words: Sequence[str]) -> tuple[Path, list[str]]:
    """Write the page that the command line asks for; returns its path, and what was left out of the runs it shows.

    Raises ConfigurationError for a mistake in the command, a folder that is no run's, and a damaged one.
    """
    options = read_options(words)
    for key, value in options.items():
        if key not in _KEYS:
            raise ConfigurationError(key, value, "is unknown", f"Choose among {', '.join(_KEYS)}")
    if options.get("run") is None:
        raise ConfigurationError("run", "", "one folder is needed", "Write run=outputs/<experiment>/<run>")
    runs = [RunFolder.open(_path(options, key)) for key in ("run", "other") if options.get(key) is not None]
    target = runs[0].path / ("report.html" if len(runs) == 1 else "comparison.html")
    if options.get("out") is not None:
        target = _path(options, "out")
    page = build_page(runs, episodes=_episodes(options))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(page, encoding="utf-8")
    except OSError as error:
        problem = f"cannot be written ({error.strerror})"
        raise ConfigurationError("out", str(target), problem, "Name a file in a folder you may write to") from error
    return target, [f"{run.path}: {note}" for run in runs for note in run.notes]


def _path(options: dict[str, Any], key: str) -> Path:
    value = options[key]
    if not isinstance(value, str | int | float) or value == "":
        raise ConfigurationError(key, value, "is no path", f"Write {key}=<path>")
    return Path(str(value))


def _episodes(options: dict[str, Any]) -> int:
    value = options.get("episodes", _EPISODES)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ConfigurationError("episodes", value, "is no whole number from 0 on", "Write for example episodes=200")
    return value


def main(arguments: Sequence[str]) -> int:
    """Write the page; its path goes to stdout, everything else to stderr. Returns the exit status."""
    if not arguments or any(word in ("-h", "--help") for word in arguments):
        sys.stdout.write(__doc__ or "")
        return 0 if arguments else EXIT_MISTAKE
    try:
        page, notes = write_report(arguments)
    except ConfigurationError as error:
        sys.stderr.write(f"error: {error}\n")
        return EXIT_MISTAKE
    for note in notes:
        sys.stderr.write(f"note: {note}\n")
    sys.stdout.write(f"{page}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
