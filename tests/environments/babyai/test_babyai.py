"""BabyAI in words: what is seen, what is done, the bot, and the scripted walker."""

from __future__ import annotations

import numpy as np
import pytest

from actfocus_verl.environments import World, make_world, scripted_player
from actfocus_verl.errors import ConfigurationError
from tests.environments.package_worlds import BABYAI

pytest.importorskip("minigrid")

from minigrid.core.world_object import Ball, Door, Key

from actfocus_verl.environments.babyai.levels import boards, new_game
from actfocus_verl.environments.babyai.view import things_in_sight, walls


def hall(*, direction: int) -> World:
    """An empty room with the agent at column 3, row 3, a red ball at 5, 2, a key at 3, 1, a door in the north wall."""
    world = BABYAI.world(levels="GoToObj")
    game = world.game
    for column in range(1, game.width - 1):
        for row in range(1, game.height - 1):
            game.grid.set(column, row, None)
    game.grid.set(5, 2, Ball("red"))
    game.grid.set(3, 1, Key("blue"))
    game.agent_pos, game.agent_dir, game.carrying = (3, 3), direction, None
    return world


def test_places_are_counted_from_the_agent() -> None:
    """East is direction 0, north 3; row 2 is one above the agent's, column 5 two to its east."""
    east, north = hall(direction=0), hall(direction=3)
    assert [(each.name, each.place) for each in things_in_sight(east.game)] == [
        ("blue key", "2 left"),
        ("red ball", "2 ahead, 1 left"),
    ]
    assert [(each.name, each.place) for each in things_in_sight(north.game)] == [
        ("blue key", "2 ahead"),
        ("red ball", "1 ahead, 2 right"),
    ]
    assert [each.place for each in walls(north.game)] == ["3 ahead", "3 left"]  # only walls and closed doors hide
    assert "You see: blue key (2 left), red ball (2 ahead, 1 left).\n" in east.render()


def test_doors_are_named_by_their_state() -> None:
    world = hall(direction=0)
    for state, door in (
        ("locked", Door("grey", is_locked=True)),
        ("open", Door("grey", is_open=True)),
        ("closed", Door("grey")),
    ):
        world.game.grid.set(4, 3, door)
        assert f"{state} grey door (1 ahead)" in world.render()


def test_actions_do_what_their_names_say() -> None:
    world = hall(direction=3)
    before = world.anchor()
    world.step(world.parse_action(" Turn  LEFT "))
    assert world.game.agent_dir == 2
    world.step(world.parse_action("turn right"))
    assert world.anchor() == before  # where the agent stands, not when
    world.step(world.parse_action("go forward"))
    assert world.game.agent_pos == (3, 2)
    world.step(world.parse_action("pick up"))
    assert "You carry: blue key." in world.render()
    world.step(world.parse_action("drop"))
    assert "You carry: nothing.\nYou see: blue key (1 ahead)" in world.render()
    for text in ("done", "left", "go forward go forward", "6", ""):
        assert world.parse_action(text) is None


def test_boards_are_one_level_after_another_and_never_twice() -> None:
    worlds = [make_world("babyai", preset="easy", index=index) for index in range(60)]
    assert [world.stratum() for world in worlds[:4]] == [1, 2, 3, 1]
    assert len({world.board_hash() for world in worlds}) == 60
    found = boards(("GoToObjS6",), "test")
    canonical = [found.board(index).canonical for index in range(30)]
    assert len(set(canonical)) == 30


def test_the_package_makes_the_same_board_whatever_was_made_before() -> None:
    """Candidates are made one after another in one environment, boards are played in one of their own."""
    for index in range(12):
        world = make_world("babyai", preset="maze", index=index % 7)
        game = new_game(world.board.level, world.board.seed)
        assert world.board.canonical.startswith(f"{game.mission}/{game.agent_pos}/")


def test_the_bot_undoes_what_was_done_wrong() -> None:
    world = make_world("babyai", preset="easy", split="test", index=5)
    for name in ("turn left", "go forward", "turn right"):
        if not world.done:
            world.step(world.parse_action(name))
    for _ in range(40):
        if not world.done:
            world.step(world.parse_action(world.oracle()[0]))
    assert world.success
    assert world.known_answer() is None


def test_unknown_levels_are_named() -> None:
    with pytest.raises(
        ConfigurationError, match=r"env\.levels='GoToMoon': is not a known level\. Known: ActionObjDoor"
    ):
        make_world("babyai", levels="GoToObj,GoToMoon")
    with pytest.raises(ConfigurationError, match=r"env\.levels='GoToObj,': must be names joined by commas"):
        make_world("babyai", levels="GoToObj,")


def mean_return(skill: float) -> float:
    player, rng, solved = scripted_player("babyai"), np.random.default_rng(0), 0
    for index in range(40):
        world = make_world("babyai", preset="easy", index=index)
        for _ in range(world.limits.max_turns):
            for action in [] if world.done else player.plan(world, rng, skill):
                if not world.done:
                    world.step(world.parse_action(action))
        solved += world.success
    return solved / 40


def test_the_scripted_walker_is_below_the_oracle_and_names_no_action() -> None:
    assert mean_return(1.0) == 1.0
    assert mean_return(0.0) < mean_return(0.3) < 1.0
    for index in range(10):
        world = make_world("babyai", index=index)
        told = scripted_player("babyai").describe(world)
        assert not any(name in told for name in ("turn ", "go ", "pick", "drop", "toggle"))
