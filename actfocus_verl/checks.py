"""Checks of single values that users give: `require_*` raise ConfigurationError, all in one phrasing.

For example `must be an integer >= 1`, `must be a number between 0 and 1`, `must be true or false`.
"""

from __future__ import annotations

import math
from collections.abc import Collection

from actfocus_verl.errors import ConfigurationError


def require_integer(key: str, value: object, *, low: int, high: int | None = None) -> None:
    """Raise ConfigurationError unless `value` is an int in [low, high]."""
    if isinstance(value, bool) or not isinstance(value, int) or value < low or (high is not None and value > high):
        allowed = bounds(low, high)
        raise ConfigurationError(key, value, f"must be an integer {allowed}", f"Set it to a value {allowed}")


def require_number(
    key: str, value: object, *, low: float | None = None, high: float | None = None, open_low: bool = False
) -> None:
    """Raise ConfigurationError unless `value` is a finite number in [low, high], or (low, high] if `open_low`."""
    number = None if isinstance(value, bool) or not isinstance(value, int | float) else finite_number(value)
    least, most = -math.inf if low is None else low, math.inf if high is None else high
    if number is None or not least <= number <= most or (open_low and number == least):
        allowed = bounds(low, high, open_low=open_low)
        finite = "" if low is not None and high is not None else "finite "
        raise ConfigurationError(key, value, f"must be a {finite}number {allowed}", f"Set it to a value {allowed}")


def require_choice(key: str, value: object, *, choices: Collection[str]) -> None:
    """Raise ConfigurationError, listing them, unless `value` is one of the choices."""
    if value not in choices:
        raise ConfigurationError(key, value, "is not a known value", f"Choose one of: {', '.join(choices)}")


def require_flag(key: str, value: object) -> None:
    """Raise ConfigurationError unless `value` is a bool."""
    if not isinstance(value, bool):
        raise ConfigurationError(key, value, "must be true or false", "Set it to one of the two")


def bounds(low: float | None, high: float | None, *, open_low: bool = False) -> str:
    """What a number must be, after the word for it: `>= 1`, `<= 0`, `between 0 and 1`, `> 0 and <= 1`.

    At least one of the two bounds is given.
    """
    if low is None:
        return f"<= {high:g}"
    if open_low:
        return f"> {low:g}" if high is None else f"> {low:g} and <= {high:g}"
    return f">= {low:g}" if high is None else f"between {low:g} and {high:g}"


def finite_number(value: object) -> float | None:
    """The number that a reward is; None for what is none: NaN, an infinity, None, a text, a list."""
    if isinstance(value, str | bytes):
        return None
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError, RuntimeError):  # a tensor of several raises RuntimeError
        return None
    return number if math.isfinite(number) else None
