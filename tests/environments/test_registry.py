"""Worlds by name: what is known, what is refused, and with which words."""

from __future__ import annotations

import pytest

from actfocus_verl.environments import (
    SPLITS,
    Limits,
    known_presets,
    known_worlds,
    make_world,
    register_world,
    split_size,
)
from actfocus_verl.environments.frozen_lake import FrozenLake
from actfocus_verl.errors import ConfigurationError
from tests.helpers.paper_worlds import CLEAN_PROTOCOL


def test_frozen_lake_is_known():
    assert "frozen_lake" in known_worlds()
    assert set(known_presets("frozen_lake")) == {"clean", "ragen"}


def test_default_limits_are_those_of_the_paper():
    for preset in known_presets("frozen_lake"):
        limits = make_world("frozen_lake", preset=preset, **CLEAN_PROTOCOL).limits
        assert limits == Limits(
            max_turns=5,
            max_actions_per_turn=2,
            max_actions_per_episode=10,
            max_words=120,
            max_turn_tokens=400,
            format_penalty=-0.1,
        )


def test_overrides_reach_the_world():
    world = make_world("frozen_lake", size=5, success_rate=1.0, max_turns=3)
    assert (world.board.size, world.config.success_rate, world.limits.max_turns) == (5, 1.0, 3)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"name": "frozen_like"}, ["env.name", "frozen_like", "frozen_lake"]),
        ({"preset": "dirty"}, ["env.preset", "dirty", "clean", "ragen"]),
        ({"split": "val"}, ["env.split", "val", *SPLITS]),
        ({"index": -1}, ["env.index", "-1", "6000"]),
        ({"index": 6000}, ["env.index", "6000", "5999"]),
        ({"index": -1, "preset": "ragen"}, ["env.index", "-1"]),
        ({"index": 1.5}, ["env.index", "1.5"]),
        ({"sise": 4}, ["env.sise", "size", "success_rate"]),
        ({"size": 2}, ["env.size", "2", "between 3 and 8"]),
        ({"size": "4"}, ["env.size", "'4'"]),
        ({"size": [4]}, ["env.size", "[4]", "a number or a text"]),
        ({"success_rate": 1.1}, ["env.success_rate", "1.1"]),
        ({"frozen_probability": -0.1}, ["env.frozen_probability", "-0.1"]),
        ({"frozen_probability": float("nan")}, ["env.frozen_probability", "nan"]),
        ({"max_turns": 0}, ["env.max_turns", "0"]),
        ({"max_turn_tokens": True}, ["env.max_turn_tokens", "True"]),
        ({"format_penalty": 0.1}, ["env.format_penalty", "0.1"]),
    ],
)
def test_bad_settings_are_refused_in_one_line_that_names_them(arguments, named):
    with pytest.raises(ConfigurationError) as caught:
        make_world(arguments.pop("name", "frozen_lake"), **arguments)
    message = str(caught.value)
    assert "\n" not in message
    for part in named:
        assert part in message


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("no_such_module:World", "cannot be imported"),
        ("actfocus_verl.environments.frozen_lake:FrozenLike", "cannot be imported"),
        (":FrozenLake", "cannot be imported"),
        ("math:pi", "not a subclass of World"),
        ("actfocus_verl.environments.base:Limits", "not a subclass of World"),
    ],
)
def test_a_path_must_lead_to_a_world(path, problem):
    with pytest.raises(ConfigurationError, match=problem) as caught:
        make_world(path)
    assert str(caught.value).startswith(f"env.name={path!r}: ")
    assert "\n" not in str(caught.value)


def test_a_world_is_known_by_the_path_of_its_class_too():
    by_path = make_world("actfocus_verl.environments.frozen_lake:FrozenLake", index=4)
    assert by_path.board_hash() == make_world("frozen_lake", index=4).board_hash()


def test_split_sizes():
    assert split_size("frozen_lake", split="evaluation") >= 512
    assert split_size("frozen_lake", preset="ragen", split="train") is None


def test_a_board_that_cannot_exist_is_refused_instead_of_searched_forever():
    # without holes the 3x3 lake has a single board of length 4 up to symmetry: opposite corners
    with pytest.raises(ConfigurationError, match=r"env\.index=23: split 'test' has no such board: 6 boards") as caught:
        make_world("frozen_lake", split="test", index=23, size=3, frozen_probability=1.0)
    assert "env.frozen_probability=1" in str(caught.value)


def test_a_taken_name_cannot_be_registered_again():
    register_world(FrozenLake)  # the same class is no conflict

    class Impostor(FrozenLake):
        pass

    with pytest.raises(ConfigurationError, match="already taken"):
        register_world(Impostor)
