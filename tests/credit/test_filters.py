"""Which prompt groups stay, and with which factor: by hand, and against slow loops."""

from __future__ import annotations

import itertools
import math
import random
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from actfocus_verl.credit.filters import build_filter, group_std
from actfocus_verl.errors import ConfigurationError

Returns = dict[str, list[float]]

# Standard deviations (n - 1): a 0, b sqrt(1/3) = 0.57735, c 0.1 * sqrt(1/3) = 0.05774, d sqrt(4/3) = 1.15470
RETURNS: Returns = {"a": [1, 1, 1], "b": [1, 0, 0], "c": [0.1, 0, 0], "d": [0, 2, 0]}
EQUAL: Returns = {"b": [1, 1], "a": [0, 0], "c": [-0.3, -0.3]}
NAMES = [
    {"name": "none"},
    {"name": "reward_variance", "ratio": 0.5},
    {"name": "zero_variance"},
    {"name": "top_p"},
    {"name": "top_p", "mass": "softmax"},
    {"name": "min_p", "p": 0.5},
    {"name": "soft_reweight"},
]
FILES = sorted((Path(__file__).resolve().parents[2] / "configs" / "filter").glob("*.yaml"))


def factors(returns: Mapping[str, list[float]], name: str, **params: Any) -> dict[str, float]:
    return build_filter({"name": name, **params})(returns).factors


def kept(returns: Mapping[str, list[float]], name: str, **params: Any) -> set[str]:
    found = factors(returns, name, **params)
    assert set(found.values()) == {1.0}
    return set(found)


def two(*deviations: float) -> Returns:
    """Groups a, b, ... of two returns with these standard deviations: 0 and x have x / sqrt(2)."""
    return {chr(ord("a") + i): [0.0, deviation * math.sqrt(2)] for i, deviation in enumerate(deviations)}


def test_standard_deviation_by_hand() -> None:
    assert group_std([1, 0, 0]) == pytest.approx(0.57735, abs=1e-5)
    assert group_std([0.3]) == 0.0


def test_float32_rounding_is_no_deviation() -> None:
    assert group_std([0.1, 0.1, 0.1]) == 0.0
    assert group_std([0.70000005, 0.69999999]) == 0.0  # 1 - 0.3 in float32, summed in two orders
    assert group_std([10.900001, 10.9]) == 0.0
    assert group_std([1e-8, 3e-8]) == 0.0  # what is left of 0.3 - 0.3
    assert group_std([0.7, 0.7001]) > 0


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_return_that_is_no_number_is_an_error_wherever_it_stands(value: float) -> None:
    for returns in ([1.0, value, 0.0], [value, 1.0, 0.0], [0.0, 1.0, value], [value]):
        with pytest.raises(ValueError, match=r"1 of [13] returns of a group are not finite"):
            group_std(returns)
        with pytest.raises(ValueError, match="not finite"):
            build_filter({"name": "none"})({"a": [0.0, 1.0], "b": returns})


def test_the_order_of_a_group_is_not_a_bit_of_its_deviation() -> None:
    returns = [0.1, 0.7, 0.3, 0.15, 0.9, 0.2]
    assert len({group_std(order) for order in itertools.permutations(returns)}) == 1


@pytest.mark.parametrize(
    ("config", "needs"),
    [
        ({"name": "none"}, False),
        ({"name": "reward_variance"}, False),  # of its function; the file sets ratio: 0.25
        ({"name": "reward_variance", "ratio": 0.999}, True),
        ({"name": "reward_variance", "ratio": 0.25}, True),
        ({"name": "zero_variance"}, True),
        ({"name": "zero_variance_refill"}, True),
        ({"name": "top_p"}, True),
        ({"name": "top_p", "include_zero": True}, True),
        ({"name": "top_p", "include_zero": True, "p": 1.0}, False),  # every group, whatever its deviation
        ({"name": "min_p"}, True),
        ({"name": "soft_reweight"}, True),
    ],
    ids=str,
)
def test_which_need_a_deviation(config: dict[str, Any], needs: bool) -> None:
    assert build_filter(config).needs_deviation is needs


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_no_filter_can_forget_that_it_does(path: Path) -> None:
    """In groups of one a filter keeps every group as it is, or says that it needs more: whatever file is added."""
    content = yaml.safe_load(path.read_text())
    built = build_filter(content.get("filter", content))
    selection = built({f"g{number}": [float(number)] for number in range(16)})
    assert (set(selection.factors.values()) == {1.0} and len(selection.factors) == 16) or built.needs_deviation


def test_none_keeps_every_group() -> None:
    assert kept(RETURNS, "none") == set("abcd")
    assert kept(EQUAL, "none") == set("abc")


@pytest.mark.parametrize(
    ("ratio", "groups"), [(0.25, "d"), (0.5, "bd"), (0.74, "bd"), (0.75, "bcd"), (1.0, "abcd"), (0.01, "d")]
)
def test_reward_variance_keeps_the_top_fraction(ratio: float, groups: str) -> None:
    assert kept(RETURNS, "reward_variance", ratio=ratio) == set(groups)


def test_zero_variance_drops_only_groups_of_equal_returns() -> None:
    assert kept(RETURNS, "zero_variance") == set("bcd")


@pytest.mark.parametrize(
    ("params", "groups"),
    [
        # Sum 10: cumulative 4, 7, 9, 10, 10
        ({"p": 0.4}, "a"),
        ({"p": 0.41}, "ab"),
        ({"p": 0.7}, "ab"),
        ({"p": 0.7005}, "ab"),  # 7.005 - 0.01 is reached by 7
        ({"p": 0.7005, "eps": 0.0}, "abc"),
        ({"p": 0.9}, "abc"),
        ({"p": 0.95}, "abcd"),
        ({"p": 1.0}, "abcd"),
        ({"p": 1.0, "include_zero": True}, "abcde"),
        # exp(0, -1, -2, -3, -4) = 1, 0.368, 0.135, 0.050, 0.018: sum 1.571 with the last, 1.553 without
        ({"p": 0.6, "mass": "softmax"}, "a"),  # 1 / 1.553 = 0.644
        ({"p": 0.64, "mass": "softmax"}, "a"),
        ({"p": 0.64, "mass": "softmax", "include_zero": True}, "ab"),  # 1 / 1.571 = 0.636
        ({"p": 0.88, "mass": "softmax"}, "ab"),  # 1.368 / 1.553 = 0.881
        ({"p": 0.96, "mass": "softmax"}, "abc"),  # 1.503 / 1.553 = 0.968
        ({"p": 1.0, "mass": "softmax"}, "abcd"),
    ],
)
def test_top_p_keeps_the_fewest_groups_with_the_share(params: dict[str, Any], groups: str) -> None:
    assert kept(two(4, 3, 2, 1, 0), "top_p", **params) == set(groups)


def test_rounding_costs_top_p_no_further_group() -> None:
    """A fifth of five equal groups is one of them; in floating point, 0.2 times their sum is a little more."""
    assert kept({group: [0.0, 0.7] for group in "abcde"}, "top_p", p=0.2, eps=0.0) == {"a"}


@pytest.mark.parametrize(
    ("p", "groups"), [(1.0, "a"), (0.8, "a"), (0.75, "ab"), (0.5, "abc"), (0.25, "abcd"), (0.01, "abcd")]
)
def test_min_p_keeps_what_comes_near_the_largest(p: float, groups: str) -> None:
    assert kept(two(4, 3, 2, 1, 0), "min_p", p=p) == set(groups)


def test_rounding_costs_min_p_no_group_on_the_threshold() -> None:
    """In floating point, the deviation of 0 and 0.7 is a little less than 0.7 times that of 0 and 1."""
    assert kept({"a": [0.0, 1.0], "b": [0.0, 0.7]}, "min_p", p=0.7) == {"a", "b"}


def test_soft_reweight_keeps_every_group_by_its_share_of_the_largest() -> None:
    assert factors(RETURNS, "soft_reweight") == pytest.approx({"a": 0.0, "b": 0.5, "c": 0.05, "d": 1.0})
    assert factors(EQUAL, "soft_reweight") == {"a": 0.0, "b": 0.0, "c": 0.0}


@pytest.mark.parametrize(("loss_scaling", "factor"), [("none", 1.0), ("linear", 0.25), ("sqrt", 0.5)])
def test_loss_scaling_is_of_the_share_of_groups_kept(loss_scaling: str, factor: float) -> None:
    returns = two(4, 1, 1, 0)  # one of four is near the largest; six tenths of the mass are in it, too
    assert factors(returns, "min_p", loss_scaling=loss_scaling) == {"a": factor}
    assert factors(returns, "top_p", p=0.6, loss_scaling=loss_scaling) == {"a": factor}
    assert factors(two(4, 0, 0, 0), "zero_variance", loss_scaling=loss_scaling) == {"a": factor}


@pytest.mark.parametrize("name", ["zero_variance", "top_p", "min_p"])
@pytest.mark.parametrize("loss_scaling", ["none", "linear"])
def test_where_everything_would_go_one_group_stays_without_weight(name: str, loss_scaling: str) -> None:
    selection = build_filter({"name": name, "loss_scaling": loss_scaling})(EQUAL)
    assert selection.nothing_left
    assert selection.factors == {"a": 0.0}
    assert selection.deviations == {"a": 0.0, "b": 0.0, "c": 0.0}


@pytest.mark.parametrize("config", NAMES, ids=str)
def test_nothing_is_left_where_no_group_has_a_factor_above_0(config: dict[str, Any]) -> None:
    """Whether the filter dropped them all or kept them all with the factor 0, as soft_reweight does."""
    selection = build_filter(config)(EQUAL)
    assert selection.nothing_left == (config["name"] not in ("none", "reward_variance"))
    assert selection.nothing_left == (sum(selection.factors.values()) == 0)


def test_top_p_leaves_nothing_where_eps_exceeds_the_share() -> None:
    """The authors' code does so, too: all deviations together are below eps / p."""
    selection = build_filter({"name": "top_p"})(two(0.004, 0.006))
    assert (selection.nothing_left, selection.factors) == (True, {"b": 0.0})
    assert not build_filter({"name": "top_p", "eps": 0.0})(two(0.004, 0.006)).nothing_left


def test_something_left_is_not_counted_as_nothing() -> None:
    assert not any(build_filter(config)(RETURNS).nothing_left for config in NAMES)


def slow_std(returns: list[float]) -> float:
    mean = sum(returns) / len(returns)
    return math.sqrt(sum((value - mean) ** 2 for value in returns) / (len(returns) - 1))


def slow_factors(returns: Returns, name: str, params: Mapping[str, Any]) -> dict[str, float]:
    """A loop over the groups, from the largest deviation down."""
    std = {group: slow_std(values) if len(set(values)) > 1 else 0.0 for group, values in returns.items()}
    largest = max(std.values())
    order: list[str] = []
    while len(order) < len(std):
        rest = sorted(group for group in std if group not in order)
        best = rest[0]
        for group in rest:
            if std[group] > std[best]:
                best = group
        order.append(best)
    if name == "none":
        chosen = order
    elif name == "reward_variance":
        chosen = order[: max(int(params["ratio"] * len(order)), 1)]
    elif name == "soft_reweight":
        return {group: std[group] / largest for group in order}
    elif name == "zero_variance":
        chosen = [group for group in order if std[group] > 0]
    elif name == "min_p":
        chosen = [group for group in order if std[group] > 0 and std[group] - params["p"] * largest > -1e-9]
    else:
        softmax = params.get("mass") == "softmax"
        candidates = [group for group in order if std[group] > 0]
        mass = {group: math.exp(std[group]) if softmax else std[group] for group in candidates}
        wanted = params.get("p", 0.9) * sum(mass.values()) - (0 if softmax else 0.01)
        chosen, reached = [], 0.0
        for group in candidates:
            if reached >= wanted - 1e-7:
                break
            chosen.append(group)
            reached += mass[group]
    factor = {"linear": len(chosen) / len(order), "sqrt": math.sqrt(len(chosen) / len(order))}
    return dict.fromkeys(chosen, factor.get(params.get("loss_scaling", "none"), 1.0)) or {order[0]: 0.0}


@pytest.mark.parametrize("config", [*NAMES, *({**NAMES[i], "loss_scaling": "sqrt"} for i in (2, 3, 4, 5))])
@pytest.mark.parametrize("seed", range(8))
def test_a_slow_loop_gives_the_same(config: dict[str, Any], seed: int) -> None:
    """Returns of few values, so that deviations tie and vanish often."""
    draw = random.Random(seed)
    returns = {f"g{i}": [draw.choice([0.0, 0.0, 0.0, 0.5, 1.0]) for _ in range(4)] for i in range(draw.randint(1, 20))}
    returns["g0"][:2] = [0.0, 1.0]
    params = {key: value for key, value in config.items() if key != "name"}
    assert build_filter(config)(returns).factors == pytest.approx(slow_factors(returns, config["name"], params))


@pytest.mark.parametrize("config", NAMES)
@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_arrival_does_not_matter(config: dict[str, Any], seed: int) -> None:
    returns = {f"g{i}": [[0.0, 1.0], [1.0, 1.0], [0.0, 0.5]][i % 3] for i in range(9)}  # ties everywhere
    shuffled = list(returns.items())
    random.Random(seed).shuffle(shuffled)
    assert build_filter(config)(dict(shuffled)) == build_filter(config)(returns)


@pytest.mark.parametrize(
    ("config", "most"),
    [
        ({"name": "none"}, 10),
        ({"name": "reward_variance", "ratio": 0.25}, 2),
        ({"name": "zero_variance"}, 10),
        ({"name": "top_p", "p": 0.9}, 9),
        ({"name": "top_p", "p": 0.9, "eps": 0}, 9),
        ({"name": "top_p", "p": 0.91, "mass": "softmax"}, 10),
        ({"name": "min_p"}, 10),
        ({"name": "soft_reweight"}, 10),
    ],
)
def test_the_most_that_can_stay_of_ten(config: dict[str, Any], most: int) -> None:
    built = build_filter(config)
    assert built.most_kept(10) == most
    for deviation in (1.0, 0.37, 9.1):  # equal deviations are the case in which most stay
        assert len(built(two(*[deviation] * 10)).factors) == most


def test_no_step_keeps_more_than_the_most() -> None:
    built = build_filter({"name": "top_p", "p": 0.8005})
    assert len(built(two(*[0.1] * 10)).factors) == 8  # 0.8005 - 0.01
    assert len(built(two(*[10.0] * 10)).factors) == built.most_kept(10) == 9  # 80.05 - 0.01


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_has_every_key_and_the_defaults(path: Path) -> None:
    """Except reward_variance's ratio, which is the paper's."""
    config = yaml.safe_load(path.read_text())
    config = config.get("filter", config)  # a file that sets keys of verl's as well is of another package
    assert config.pop("name") == path.stem
    defaults = dict(build_filter({"name": path.stem}).params)
    assert config == (defaults | {"ratio": 0.25} if path.stem == "reward_variance" else defaults)


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({}, r"filter.name=None: is missing. Choose one of .*none.*reward_variance"),
        ({"name": "best"}, r"filter.name='best'.*none.*reward_variance"),
        ({"name": "none", "top": 1}, r"filter.top=1: is not a parameter of the filter none. Known keys: name, ratio"),
        (
            {"name": "none", "ratio": 0.5},
            r"filter.ratio=0.5: filter=none keeps every group. Set it to 1, or use filter=reward_variance",
        ),
        ({"name": "zero_variance", "p": 0.5}, r"filter.p=0.5: is not a parameter of the filter zero_variance"),
        ({"name": "reward_variance", "ratio": 0}, r"filter.ratio=0: must be a number > 0 and <= 1"),
        ({"name": "reward_variance", "ratio": 1.5}, r"filter.ratio=1.5"),
        ({"name": "reward_variance", "ratio": "half"}, r"filter.ratio='half'"),
        ({"name": "reward_variance", "ratio": True}, r"filter.ratio=True"),
        ({"name": "top_p", "p": 1.01}, r"filter.p=1.01: must be a number > 0 and <= 1"),
        ({"name": "min_p", "p": float("nan")}, r"filter.p=nan: must be a number > 0 and <= 1"),
        ({"name": "top_p", "mass": "log"}, r"filter.mass='log': is not a known value. Choose one of: linear, softmax"),
        ({"name": "top_p", "eps": -0.1}, r"filter.eps=-0.1: must be a finite number >= 0"),
        ({"name": "top_p", "include_zero": 1}, r"filter.include_zero=1: must be true or false"),
        ({"name": "min_p", "loss_scaling": "log"}, r"filter.loss_scaling='log'.*none, sqrt, linear"),
    ],
)
def test_bad_settings_are_named_in_one_line(config: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^{text}") as caught:
        build_filter(config)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("factors", "problem"),
    [
        ("[1.0, 1.0, 1.0]", "returned factors of shape (3,) for 2 groups"),
        ("[[1.0]]", "returned factors of shape (1, 1) for 2 groups"),
        ("[1.0, -0.5]", "returned factors that are negative, NaN or infinite"),
        ("[float('nan')]", "returned factors that are negative, NaN or infinite"),
    ],
)
def test_factors_of_ones_own_filter_are_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factors: str, problem: str
) -> None:
    (tmp_path / "own_filter.py").write_text(f"def chosen(deviations):\n    return {factors}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "own_filter", raising=False)
    with pytest.raises(ConfigurationError) as caught:
        build_filter({"name": "own_filter:chosen"})({"a": [0.0, 1.0], "b": [0.0, 0.5]})
    assert str(caught.value).startswith(f"filter.name='own_filter:chosen': {problem}")
