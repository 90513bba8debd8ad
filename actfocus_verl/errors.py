"""The errors a user meets: one names the key, the value and the remedy; and how a command ends otherwise.

What another package raised is quoted in them on one line.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Final

FREE_SPACE: Final = "Free space on its disk"
"""The remedy where a file could not be written for want of space."""
_NO_SPACE: Final = tuple(os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT))


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


def no_space_behind(error: BaseException) -> BaseException | None:
    """The exception that tells of a full disk or a used-up quota: this one or one behind it; None where none does.

    Not only OSErrors do: safetensors and Ray quote the system's words in exceptions of their own.
    """
    seen: list[BaseException] = []
    following: BaseException | None = error
    while following is not None and following not in seen:
        if any(words in str(following) for words in _NO_SPACE):
            return following
        seen.append(following)
        following = following.__cause__ or following.__context__
    return None


def not_writable(key: str, folder: Path, error: OSError, file: Path | None = None) -> ConfigurationError:
    """The refusal of a setting whose folder cannot be written to. file: of the error, where that does not name it."""
    problem = f"cannot be written ({error.strerror or type(error).__name__}: {error.filename or file or folder})"
    remedy = f"{FREE_SPACE}, or choose another {key}" if no_space_behind(error) else f"Choose another {key}"
    return ConfigurationError(key, str(folder), problem, remedy)
