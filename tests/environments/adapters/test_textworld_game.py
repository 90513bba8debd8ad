"""textworld's games, generated and compiled on the spot."""

from __future__ import annotations

import gc
import re
import tempfile
from concurrent.futures import ThreadPoolExecutor

import pytest

from actfocus_verl.environments.adapters.textworld_game import TextWorldGame, _compiled_game
from actfocus_verl.errors import ConfigurationError
from tests.environments.adapters.cases import TEXTWORLD, commands

pytest.importorskip("textworld")

COINS = {"task": "tw-coin_collector", "level": 3}


def test_the_coin_lies_at_the_end_of_the_chain():
    world = TEXTWORLD.world(**COINS)
    assert "coin" in world.system_prompt()
    back = {"north": "south", "south": "north", "east": "west", "west": "east"}
    came_from, taken = "", 0
    while not world.done:
        offered = commands(world)
        if "take coin" in offered:
            command = "take coin"
        else:  # three rooms in a row: at most one way leads on
            (command,) = [each for each in offered if each != f"go {came_from}"]
            came_from = back[command.removeprefix("go ")]
        result = world.step(world.parse_action(f" {command.upper()}  "))
        taken += 1
    assert taken == 3
    assert (result.reward, result.done, result.success) == (1.0, True, True)
    assert "a coin" in world.render()


def test_the_wrong_object_loses():
    """On some board of level 1 both objects lie in the first room: the wanted one, and the one that ends the game."""
    for index in range(12):
        world = TEXTWORLD.world(index=index)
        wanted = "take " + re.search(r"the ([^.,]+?) from the floor", world.system_prompt())[1]
        others = {each for each in commands(world) if each.startswith("take ")} - {wanted}
        if others:
            break
    lost = world.step(world.parse_action(others.pop()))
    assert (lost.reward, lost.done, lost.success) == (0.0, True, False)
    again = TEXTWORLD.world(index=index)
    won = again.step(again.parse_action(wanted))
    assert (won.reward, won.done, won.success) == (1.0, True, True)


def test_only_listed_commands_are_actions():
    world = TEXTWORLD.world(**COINS)
    for text in ("look", "inventory", "examine coin", "take sword", "go nowhere", "quit", "restart", "save"):
        assert world.parse_action(text) is None
    assert [world.parse_action(each) for each in commands(world)] == commands(world)


def test_a_command_that_is_no_longer_admissible_changes_nothing():
    world = TEXTWORLD.world(**COINS)
    (command,) = commands(world)
    world.step(command)
    state = world.render()
    assert command not in commands(world)
    assert world.step(command).reward == 0.0
    assert world.render() == state


def test_the_files_of_a_play_go_with_it(monkeypatch, tmp_path):
    TEXTWORLD.world(index=7)  # textworld itself keeps what its first games hold on to
    TEXTWORLD.world(index=8)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    world, other = TEXTWORLD.world(index=7), TEXTWORLD.world(index=7)
    assert len(list(tmp_path.glob("actfocus-*"))) == 2
    del other
    gc.collect()
    (folder,) = tmp_path.glob("actfocus-*")
    assert sorted(file.name for file in folder.iterdir()) == ["game.json", "game.z8"]
    world.step(world.parse_action(commands(world)[0]))
    del world
    gc.collect()
    assert not list(tmp_path.glob("actfocus-*"))


def test_levels_are_bounded():
    for task, level in (("tw-coin_collector", 201), ("tw-treasure_hunter", 31), ("tw-treasure_hunter", 0)):
        with pytest.raises(ConfigurationError, match=f"env.level={level}"):
            TEXTWORLD.world(task=task, level=level)
    with pytest.raises(ConfigurationError, match=r"env\.level=170: textworld refuses it"):
        TEXTWORLD.world(task="tw-coin_collector", level=170)  # 140 rooms


def test_games_made_in_several_threads_are_those_made_one_after_another():
    """A rollout makes and plays a slow world in threads beside its event loop."""
    assert TextWorldGame.slow

    def played(index):
        world = TEXTWORLD.world(index=index, **COINS)
        seen = [world.system_prompt(), world.render()]
        for _ in range(3):
            if not world.done:
                world.step(world._commands()[0])
                seen.append(world.render())
        return seen

    alone = [played(index) for index in range(3)]
    _compiled_game.cache_clear()
    with ThreadPoolExecutor(3) as threads:
        assert list(threads.map(played, range(3))) == alone
