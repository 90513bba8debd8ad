"""Which prompt groups are trained on."""

from __future__ import annotations

import random

import pytest

from actfocus_verl.errors import ConfigurationError
from actfocus_verl.integration.group_filter import apply_filter, build_filter, group_std

# Standard deviations (n - 1): a 0, b sqrt(1/3) = 0.577, c 0.1 * sqrt(1/3) = 0.058, d sqrt(4/3) = 1.155
RETURNS = {"a": [1, 1, 1], "b": [1, 0, 0], "c": [0.1, 0, 0], "d": [0, 2, 0]}
KEYS = [f"{group}_{session}_0" for group in RETURNS for session in range(3)]
VALUES = [value for values in RETURNS.values() for value in values]
TOP_QUARTER = build_filter({"name": "reward_variance", "ratio": 0.25})


def kept(keys: list[str], values: list[float], ratio: float) -> list[str]:
    positions, _ = apply_filter(keys, values, build_filter({"name": "reward_variance", "ratio": ratio}))
    return [keys[position] for position in positions]


def test_standard_deviation_by_hand() -> None:
    assert group_std([1, 0, 0]) == pytest.approx(0.57735, abs=1e-5)
    assert group_std([0.3]) == 0.0


@pytest.mark.parametrize(
    ("ratio", "groups"), [(0.25, "d"), (0.5, "bd"), (0.74, "bd"), (0.75, "bcd"), (1.0, "abcd"), (0.01, "d")]
)
def test_the_top_fraction_by_standard_deviation_stays(ratio: float, groups: str) -> None:
    assert {key[0] for key in kept(KEYS, VALUES, ratio)} == set(groups)


def test_every_row_of_a_kept_group_stays_in_its_place() -> None:
    assert kept(KEYS, VALUES, 0.5) == ["b_0_0", "b_1_0", "b_2_0", "d_0_0", "d_1_0", "d_2_0"]


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_arrival_does_not_matter(seed: int) -> None:
    rows = list(zip(KEYS, [1, 0, 0] * 4, strict=True))  # ties everywhere
    random.Random(seed).shuffle(rows)
    keys, values = map(list, zip(*rows, strict=True))
    assert sorted(kept(keys, values, 0.5)) == sorted(kept(KEYS, [1, 0, 0] * 4, 0.5))


def test_metrics_by_hand() -> None:
    _, outcome = apply_filter(KEYS, VALUES, TOP_QUARTER)
    metrics = outcome.metrics()
    assert metrics["filter/kept_groups"] == 1
    assert metrics["filter/dropped_groups"] == 3
    assert metrics["filter/zero_std_groups"] == 1
    assert metrics["filter/group_std/max"] == pytest.approx(1.1547, abs=1e-4)
    assert metrics["filter/group_std/mean"] == pytest.approx((0.57735 + 0.057735 + 1.154701) / 4, abs=1e-4)


def test_none_keeps_everything() -> None:
    positions, outcome = apply_filter(KEYS, VALUES, build_filter({"name": "none"}))
    assert positions == list(range(12))
    assert (outcome.kept, outcome.dropped) == (4, 0)


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({"name": "best"}, r"filter.name='best'.*none.*reward_variance"),
        ({"name": "none", "top": 1}, r"filter.top=1"),
        ({"name": "reward_variance", "ratio": 0}, r"filter.ratio=0"),
        ({"name": "reward_variance", "ratio": 1.5}, r"filter.ratio=1.5"),
        ({"name": "reward_variance", "ratio": "half"}, r"filter.ratio='half'"),
    ],
)
def test_bad_settings_are_named(config: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        build_filter(config)
