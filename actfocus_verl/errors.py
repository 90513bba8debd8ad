"""The one error type a user meets: it names the key, the value and the remedy."""

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
