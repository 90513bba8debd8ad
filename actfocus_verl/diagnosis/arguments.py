"""The command line of a diagnosis: `key=value` words, checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from actfocus_verl.arguments import read_options
from actfocus_verl.environments.base import require_integer
from actfocus_verl.errors import ConfigurationError

_INTEGERS = {"tokens": 0, "seed": 0}
_OPTIONAL_INTEGERS = {"step": 1, "checkpoint": 1}
"""Keys that must be integers of at least this much."""


@dataclass(frozen=True)
class Arguments:
    """See `python -m actfocus_verl.diagnose --help` for the keys. None: not given."""

    run: str
    out: str | None = None
    step: int | None = None
    tokens: int = 100
    model: str | None = None
    checkpoint: int | None = None
    device: str = "cpu"
    seed: int = 0

    @property
    def folder(self) -> Path:
        """Where the results go."""
        return Path(self.run) / "diagnose" if self.out is None else Path(self.out)

    @property
    def asks_for_a_model(self) -> bool:
        """Whether one was named, so that it must be there."""
        return self.model is not None or self.checkpoint is not None


KEYS = tuple(Arguments.__dataclass_fields__)


def read_arguments(words: Sequence[str]) -> Arguments:
    """Raises ConfigurationError for an unknown key, a value that cannot be, or no run."""
    options = {key: value for key, value in read_options(words).items() if value is not None}
    for key, value in options.items():
        if key not in KEYS:
            raise ConfigurationError(key, value, "unknown key", f"Known: {', '.join(KEYS)}")
    if "run" not in options:
        raise ConfigurationError("run", None, "is not given", "Add run=outputs/<experiment>/<run>")
    for key in ("run", "out", "model", "device"):
        if key in options:
            options[key] = str(options[key])
    arguments = Arguments(**options)
    for key, low in {**_INTEGERS, **_OPTIONAL_INTEGERS}.items():
        value = getattr(arguments, key)
        if value is not None:
            require_integer(key, value, low=low)
    return arguments
