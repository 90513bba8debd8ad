"""TextWorldExpress: games that share a JVM and nothing else, the package's folds, and its solutions."""

from __future__ import annotations

import math

import psutil
import pytest

from actfocus_verl.environments import make_world
from actfocus_verl.errors import ConfigurationError
from actfocus_verl.launch.shutdown import end_processes
from tests.environments.package_worlds import TEXTWORLD_EXPRESS


@pytest.fixture(autouse=True, scope="module")
def _installed() -> None:
    TEXTWORLD_EXPRESS.require()


def test_two_plays_of_a_board_do_not_disturb_each_other() -> None:
    """In the package, those of a sorting game share their objects. Board 3 is one, board 7 of the cooking game."""
    for index in (0, 3, 5, 6):
        first, second = (make_world("textworld_express", split="test", index=index) for _ in range(2))
        for _ in range(first.limits.max_turns):
            if first.done:
                break
            command = first.oracle()[0]
            first.step(command)
            assert second.parse_action(command) == command
            second.step(command)
            assert first.render() == second.render()
            assert first.anchor() == second.anchor()
        assert first.success
        assert second.success


def test_a_jvm_that_was_ended_is_started_anew() -> None:
    """Whatever ends the children of a process ends it: an evaluation's engine, the end of a run, the machine."""
    protocol = pytest.importorskip("py4j.protocol")
    before = make_world("textworld_express", split="test", index=0)
    end_processes([each for each in psutil.Process().children() if each.name() == "java"])
    after = make_world("textworld_express", split="test", index=0)
    assert after.render() == before.render()
    command = after.oracle()[0]
    after.step(command)
    with pytest.raises(protocol.Py4JError):
        before.step(command)


def test_splits_are_the_packages_folds() -> None:
    for split, first in (("train", 0), ("evaluation", 10_000), ("test", 20_000)):
        boards = [make_world("textworld_express", split=split, index=index).board for index in (0, 8, 9)]
        assert [(board.game, board.seed) for board in boards] == [
            ("simonsays", first),
            ("simonsays", first + 1),
            ("peckingorder", first + 1),
        ]


def test_only_listed_commands_are_actions() -> None:
    world = make_world("textworld_express", index=6)
    for text in ("help", "quit", "take everything", "", "look around; look around"):
        assert world.parse_action(text) is None
    assert world.parse_action(" LOOK  around ") == "look around"


def test_off_the_path_of_the_solution_there_is_no_known_answer() -> None:
    world = make_world("textworld_express", index=6)
    assert world.known_answer() == world.oracle()[0]
    other = next(command for command in world.render().split("Commands: ")[1].split(", ") if command != "look around")
    if other == world.oracle()[0]:
        other = "inventory"
    world.step(world.parse_action(other))
    assert world.known_answer() is None
    assert world.parse_action(world.oracle()[0]) is not None


def test_a_solution_that_solves_nothing_is_none() -> None:
    """There are two cucumbers. The book wants the one, and `take cucumber` takes the other."""
    world = make_world("textworld_express", preset="easy", split="evaluation", index=89)
    assert world.known_answer() is None
    assert math.isnan(world.optimal_return())
    for command in ("read instructions book", "take cucumber"):
        world.step(world.parse_action(command))
    assert (world.done, world.success) == (True, False)


@pytest.mark.parametrize(
    ("games", "told"),
    [
        ("coin numLocations=abc", "must have parameters of the form name=integer"),
        ("coin numLocations", "must have parameters of the form name=integer"),
        ("coin foo=1", "the package refuses these parameters (Unrecognized property name (foo)."),
        ("coin numLocations=999", "the package refuses these parameters (Number of locations must be"),
    ],
)
def test_bad_parameters_of_a_game_are_one_line(games: str, told: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        make_world("textworld_express", games=games)
    line = str(caught.value)
    assert line.startswith(f"env.games='{games}': {told}")
    assert "\n" not in line


def test_unknown_games_are_named() -> None:
    with pytest.raises(ConfigurationError, match=r"env\.games='chess': must be known games joined by \|"):
        make_world("textworld_express", games="chess")
