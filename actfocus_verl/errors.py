"""Errors shown to users: one names the key, the value and the remedy; the others end a command."""

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
