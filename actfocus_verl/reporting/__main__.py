"""``python -m actfocus_verl.reporting run=<folder>``: draws ``figures/success.png`` and prints the line of the run."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from actfocus_verl.errors import ConfigurationError
from actfocus_verl.reporting.figures import plot_success
from actfocus_verl.reporting.run_folder import RunFolder
from actfocus_verl.reporting.summary import success_summary

USAGE = "usage: python -m actfocus_verl.reporting run=<folder>"


def main(arguments: Sequence[str]) -> int:
    """Report on one run. The line goes to stdout, everything else to stderr; returns the exit status."""
    if any(argument in ("-h", "--help") for argument in arguments):
        print(USAGE)  # noqa: T201
        return 0
    try:
        run = RunFolder.open(_run_argument(arguments))
        figure = plot_success(run, run.figures / "success.png")
    except (ConfigurationError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 2
    for note in run.notes:
        print(f"note: {note}", file=sys.stderr)  # noqa: T201
    print(f"figure: {figure}", file=sys.stderr)  # noqa: T201
    print(success_summary(run))  # noqa: T201
    return 0


def _run_argument(arguments: Sequence[str]) -> str:
    """The value of the one argument, ``run=<folder>``."""
    for argument in arguments:
        key, separator, value = argument.partition("=")
        if key != "run" or not separator:
            raise ConfigurationError("argument", argument, "is unknown", USAGE)
    if len(arguments) != 1 or not value:
        raise ConfigurationError("run", ", ".join(arguments), "one folder is needed", USAGE)
    return value


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
