"""Common behaviour of all commands: `--help`, one-line errors on stderr, exit statuses, signals.

Exit status: 0 finished, 1 failed, 2 a mistake in the command, 130 interrupted.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Final, NoReturn

from rich.console import Console

from actfocus_verl.errors import FREE_SPACE, CommandFailed, ConfigurationError, Interrupted, no_space_behind, one_line

EXIT_FAILED: Final = 1
EXIT_MISTAKE: Final = 2
EXIT_LOST_NODE: Final = 75
"""BSD's EX_TEMPFAIL: a node, or a part of the run on another node, is gone; the same command resumes on other nodes."""
EXIT_INTERRUPTED: Final = 130
STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


def run_command(
    words: Sequence[str],
    work: Callable[[Sequence[str], Console], None],
    help_text: Callable[[], str],
    *,
    interrupted: str = "interrupted",
) -> int:
    """Run a command, or show its help; returns the exit status.

    work: takes the words and a console for progress on stderr; results go to stdout. It raises ConfigurationError
    for a mistake in the command and CommandFailed for a failure. interrupted: the message after a signal.
    """
    if not words or any(word in ("-h", "--help") for word in words):
        sys.stdout.write(help_text())
        return 0 if words else EXIT_MISTAKE
    console = Console(stderr=True, highlight=False)
    try:
        work(words, console)
    except (Interrupted, KeyboardInterrupt):
        console.print(interrupted)
        return EXIT_INTERRUPTED
    except (ConfigurationError, CommandFailed) as error:
        console.print(f"error: {error}", style="red", markup=False, soft_wrap=True)
        return EXIT_MISTAKE if isinstance(error, ConfigurationError) else EXIT_FAILED
    except Exception as error:
        full = no_space_behind(error)
        if full is None:
            raise
        told = f"error: {one_line(full)}. {FREE_SPACE}, and repeat the command"
        console.print(told, style="red", markup=False, soft_wrap=True)
        return EXIT_FAILED
    return 0


def start(main: Callable[[Sequence[str]], int]) -> NoReturn:
    """Run a command as this process: SIGTERM ends it like Ctrl-C, and its status becomes the process's."""
    for number in STOP_SIGNALS:
        signal.signal(number, _interrupt)
    sys.exit(main(sys.argv[1:]))


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise Interrupted
