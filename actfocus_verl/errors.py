"""The errors a user meets: one names the key, the value and the remedy; and how a command ends otherwise."""

from __future__ import annotations


class ConfigurationError(ValueError):
    """A setting that cannot work, in one line: which key, which value, what to do instead."""

    def __init__(self, key: str, value: object, problem: str, remedy: str) -> None:
        super().__init__(key, value, problem, remedy)
        self.key = key
        self.value = value
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.key}={self.value!r}: {self.problem}. {self.remedy}"


class CommandFailed(RuntimeError):  # noqa: N818  (an outcome, not a mistake in a call)
    """A command's work could not be done although its arguments are right; the message is one line and says why."""


class Interrupted(BaseException):
    """A signal asked a command to stop. Not KeyboardInterrupt: vLLM's start catches that, and then hangs."""
