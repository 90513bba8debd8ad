"""The scripted buyer: perfect at full skill, wrong in a known direction below it, and discreet about its action."""

from __future__ import annotations

import re
from importlib.resources import files

import numpy as np
import pytest

from actfocus_verl.environments import make_world, turn_message
from actfocus_verl.environments.webshop.scripted import PLAYER, describe
from tests.environments.webshop.shops import act, scripted_actions


@pytest.mark.parametrize("split", ["train", "evaluation", "test"])
def test_full_skill_gets_everything_in_the_shortest_time(split):
    for index in range(300):
        world = make_world("webshop", split=split, index=index)
        scripted_actions(world, skill=1.0)
        assert world.score == world.optimal_return() == 1.0
        assert world.success
        assert world.steps == world.stratum()


def test_full_skill_gets_nearly_everything_in_ragen():
    worlds = [make_world("webshop", preset="ragen", split="evaluation", index=index) for index in range(200)]
    for world in worlds:
        scripted_actions(world, skill=1.0)
    assert all(world.done for world in worlds)
    assert np.mean([world.success for world in worlds]) > 0.97


@pytest.mark.parametrize(("preset", "least", "most"), [("clean", 480, 580), ("ragen", 1400, 1600)])
def test_an_episode_is_short(preset, least, most):
    words = []
    for index in range(200):
        world = make_world("webshop", preset=preset, index=index)
        rng = np.random.default_rng(index)
        texts, reward, turn = [world.system_prompt()], None, 0
        while not world.done:
            turn += 1
            texts.append(turn_message(world, turn=turn, actions_left=10 - turn, last_reward=reward).text)
            texts.append(PLAYER.reply(world, rng, skill=1.0))
            reward = act(world, texts[-1].split("<answer> ")[1].split(" </answer>")[0])
        words.append(sum(len(text.split()) for text in texts))
    assert least < np.mean(words) < most


def test_the_example_of_the_readme_is_an_episode():
    readme = files("actfocus_verl.environments.webshop").joinpath("README.md").read_text(encoding="utf-8")
    world, rng = make_world("webshop", index=13), np.random.default_rng(0)
    played, reward = [], None
    for turn in range(1, 5):
        message = turn_message(world, turn=turn, actions_left=10 - turn, last_reward=reward).text
        reply = PLAYER.reply(world, rng, skill=1.0)
        played += ["user", *message.split(), "assistant", *reply.split()]
        reward = act(world, reply.split("<answer> ")[1].split(" </answer>")[0])
    assert world.success
    assert " ".join(played) == " ".join(readme.split("## Example episode")[1].split("```")[1].split())


def test_without_skill_it_buys_the_first_row_of_a_careless_search_at_once():
    for index in range(20):
        world = make_world("webshop", index=index)
        search, click, buy = scripted_actions(world, skill=0.0)
        assert search == f"search[{world.goal.product.name}]"
        assert click == "click[1]"
        assert buy == "click[Buy Now]"
        assert world.done


def test_skill_is_what_it_says():
    scores = []
    for skill in (0.0, 0.5, 1.0):
        worlds = [make_world("webshop", split="evaluation", index=index) for index in range(200)]
        for index, world in enumerate(worlds):
            scripted_actions(world, skill, seed=index)
        assert all(world.done for world in worlds)
        scores.append((np.mean([world.success for world in worlds]), np.mean([world.score for world in worlds])))
    assert scores == sorted(scores)
    assert scores[0][0] < 0.1 < scores[1][0] < 0.6 < scores[2][0] == 1.0


def test_it_mends_a_mistake_when_there_is_time():
    mended = 0
    for index in range(200):
        world = make_world("webshop", index=index)
        act(world, f"search[{world.goal.product.name}]")
        row = re.findall(r"^\d\. (B\d{4}) ", world.render(), re.MULTILINE)[-1]
        act(world, f"click[{row}]")
        scripted_actions(world, skill=1.0)
        assert world.done
        assert world.steps <= 9
        if len(world.goal.options) <= 1:
            assert world.success
            mended += row != world.goal.product.key
    assert mended > 50


@pytest.mark.parametrize("preset", ["clean", "ragen"])
@pytest.mark.parametrize("coupling", ["loose", "coupled"])
def test_replies_are_well_formed_and_only_coupled_reasoning_names_the_action(preset, coupling):
    rng = np.random.default_rng(0)
    for index in range(60):
        world = make_world("webshop", preset=preset, index=index)
        while not world.done and world.steps < 9:
            reply = PLAYER.reply(world, rng, coupling=coupling, skill=0.6)
            reasoning, action = re.fullmatch(
                r"<think> (.+) </think> <answer> ((?:search|click)\[[^\[\]]+\]) </answer>", reply
            ).groups()
            if coupling == "coupled":
                assert reasoning.endswith(f"So I choose {action}.")
                reasoning = reasoning[: -len(f" So I choose {action}.")]
            assert reasoning == describe(world)
            assert not re.search(r"[\[\]|]|click|search|B\d{4}|Buy|Prev|Next|Back", reasoning)
            assert f" {world.goal.product.name}" not in reasoning
            assert 8 <= len(reasoning.split()) <= 80
            act(world, action)


def test_descriptions_by_hand():
    world = make_world("webshop", index=1)
    goal = world.goal
    assert describe(world) == (
        f"I am at the start. Nothing is found yet. Traits asked for: {len(goal.attributes)}. Options asked for: 1."
    )
    act(world, "search[nothing such]")
    assert describe(world) == "I see a list. It is empty."
    act(world, "click[back to search]")
    act(world, f"search[{goal.query}]")
    rows = describe(world).split(". ")
    assert rows[0] == "I see a list"
    assert len(rows) == 1 + 4
    for number, row in re.findall(r"^(\d)\. B\d{4} (.*)$", world.render(), re.MULTILINE):
        if goal.product.name not in row:
            expected = "is another kind"
        elif not all(f", {attribute}," in row for attribute in goal.attributes):
            expected = "lacks a trait"
        else:
            expected = "costs too much" if int(row.split("$")[1]) > goal.bound else "fits"
        assert rows[int(number)].rstrip(".") == f"Row {number} {expected}"
    act(world, f"click[{goal.product.key}]")
    assert describe(world) == "I look at it. It fits. Wish 1 is open."
    name, wanted = goal.options[0]
    other = next(value for value in dict(goal.product.options)[name] if value != wanted)
    act(world, f"click[{other}]")
    assert describe(world) == "I look at it. It fits. Wish 1 is wrong."
    act(world, f"click[{wanted}]")
    act(world, "click[description]")
    assert describe(world) == "I read about it. It fits. Wish 1 is met."


def test_a_demonstration_leaves_the_world_alone():
    world = make_world("webshop", index=3)
    before = (world.page, world.anchor(), world.steps)
    PLAYER.reply(world, np.random.default_rng(0))
    assert (world.page, world.anchor(), world.steps) == before
