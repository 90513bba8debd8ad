"""Checks of numbers that users and worlds give."""

from __future__ import annotations

import math

from actfocus_verl.errors import ConfigurationError


def require_integer(key: str, value: object, *, low: int, high: int | None = None) -> None:
    """Raise ConfigurationError unless `value` is an int in [low, high]."""
    bounds = f"at least {low}" if high is None else f"between {low} and {high}"
    if isinstance(value, bool) or not isinstance(value, int) or value < low or (high is not None and value > high):
        raise ConfigurationError(key, value, f"must be an integer {bounds}", f"Set {key} to a value {bounds}")


def finite_number(value: object) -> float | None:
    """The number that a reward is; None for what is none: NaN, an infinity, None, a text, a list."""
    if isinstance(value, str | bytes):
        return None
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError):  # a tensor of several raises RuntimeError
        return None
    return number if math.isfinite(number) else None


def require_number(key: str, value: object, *, low: float, high: float) -> None:
    """Raise ConfigurationError unless `value` is a finite number in [low, high]."""
    number = None if isinstance(value, bool) or not isinstance(value, int | float) else finite_number(value)
    if number is None or not low <= number <= high:
        bounds = f"at most {high:g}" if low == float("-inf") else f"between {low:g} and {high:g}"
        raise ConfigurationError(key, value, f"must be a number {bounds}", f"Set {key} to a value {bounds}")
