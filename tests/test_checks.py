"""The one phrasing of checks, and what each lets through."""

from __future__ import annotations

import math

import pytest

from actfocus_verl.checks import bounds, require_choice, require_flag, require_integer, require_number
from actfocus_verl.errors import ConfigurationError


@pytest.mark.parametrize(
    ("low", "high", "open_low", "text"),
    [
        (1, None, False, ">= 1"),
        (0.5, None, True, "> 0.5"),
        (None, 0, False, "<= 0"),
        (0, 1, False, "between 0 and 1"),
        (0, 1, True, "> 0 and <= 1"),
    ],
)
def test_bounds_as_a_message_writes_them(low, high, open_low, text):
    assert bounds(low, high, open_low=open_low) == text


def test_what_lies_in_the_bounds_passes():
    require_integer("key", 1, low=1)
    require_integer("key", 3, low=1, high=3)
    require_number("key", 0, low=0.0)
    require_number("key", 1, low=0.0, high=1.0, open_low=True)
    require_number("key", -1e300, high=0.0)
    require_flag("key", False)
    require_choice("key", "a", choices=("a", "b"))


@pytest.mark.parametrize("value", [0, 4, 2.0, True, "2", None])
def test_no_integer_from_1_to_3(value):
    with pytest.raises(ConfigurationError, match=r"must be an integer between 1 and 3\. Set it to a value be"):
        require_integer("key", value, low=1, high=3)


@pytest.mark.parametrize("value", [0, -1.0, math.inf, math.nan, True, "1", None, 10**400])
def test_no_finite_number_above_0(value):
    with pytest.raises(ConfigurationError, match=r"must be a finite number > 0\. Set it to a value > 0"):
        require_number("key", value, low=0, open_low=True)
