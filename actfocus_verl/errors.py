"""The errors a user meets: one names the key, the value and the remedy; and how a command ends otherwise.

What another package raised is quoted in them on one line.
"""

from __future__ import annotations


class ConfigurationError(ValueError):
    """An invalid setting, in one line: which key, which value, what to do instead."""

    def __init__(self, key: str, value: object, problem: str, remedy: str) -> None:
        super().__init__(key, value, problem, remedy)
        self.key = key
        self.value = value
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.key}={self.value!r}: {self.problem}. {self.remedy}"


class CommandFailed(RuntimeError):  # noqa: N818  (an outcome, not a mistake in a call)
    """A command failed although its arguments are valid; the message is one line and says why."""


class Interrupted(BaseException):
    """A signal asked a command to stop. Not KeyboardInterrupt: vLLM's start catches that, and then hangs."""


def first_line(error: BaseException) -> str:
    """The first line of an exception's message; the name of its type where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def one_line(error: BaseException, most: int | None = None) -> str:
    """An exception's whole message on one line, cut after `most` characters; the name of its type where it has none."""
    return " ".join(str(error).split())[:most] or type(error).__name__
