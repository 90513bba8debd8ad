"""What every adapter keeps: seeds, ends, anchors, hostile texts, errors, and a configuration file that works."""

from __future__ import annotations

import math
import re
import sys
from dataclasses import fields
from itertools import islice
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from actfocus_verl.environments import SPLITS, execute_turn, make_world, split_size
from actfocus_verl.environments.adapters.base import Board
from actfocus_verl.errors import ConfigurationError
from tests.environments.adapters.cases import CASES, FOLDER, GYMNASIUM, ROOT, TEXTARENA, TEXTWORLD, Case, run_python

CONFIGS = ROOT / "configs" / "env"

every_adapter = pytest.mark.parametrize("case", CASES, ids=lambda case: case.package)

HOSTILE = [
    "",
    "  \n",
    "\x00",
    "<|im_end|>",
    "zqx",
    "__import__('os').system('true')",
    "[zqx]",
    "[up] zqx",
    "Up\u0000",
    "١",
    "-1",
    "9" * 5000,
    "[" * 100_000,
    "up " * 100_000,
    "go north; rm -rf /",
    "\ud800",
]


def playthrough(case: Case, world: Any, seed: int, steps: int = 60) -> list[tuple[str, int, float, bool, bool]]:
    """Random moves until the end; what was seen and what came of it."""
    rng = np.random.default_rng(seed)
    story = [(world.render(), world.anchor(), 0.0, world.done, world.success)]
    while not world.done and len(story) <= steps:
        moves = case.moves(world)
        action = world.parse_action(moves[rng.integers(len(moves))])
        result = world.step(action)
        assert (result.done, result.success) == (world.done, world.success)
        story.append((world.render(), world.anchor(), result.reward, result.done, result.success))
    return story


def finished(case: Case) -> Any:
    """Some world that random moves have ended."""
    for index in range(20):
        world = case.world(index=index)
        playthrough(case, world, seed=index, steps=300)
        if world.done:
            return world
    raise AssertionError("no episode ended")


@every_adapter
def test_the_same_seeds_give_the_same_episode(case):
    story = playthrough(case, case.world(index=3, episode_seed=5), seed=1)
    assert story == playthrough(case, case.world(index=3, episode_seed=5), seed=1)
    assert len(story) > 1
    assert all(0 <= anchor < 2**63 for _, anchor, *_ in story)


@every_adapter
def test_worlds_do_not_disturb_each_other(case):
    alone = playthrough(case, case.world(index=4), seed=2, steps=4)
    first, other = case.world(index=4), case.world(index=1)
    together = []
    rng = np.random.default_rng(2)
    together.append((first.render(), first.anchor(), 0.0, first.done, first.success))
    while not first.done and len(together) <= 4:
        moves = case.moves(first)
        result = first.step(first.parse_action(moves[rng.integers(len(moves))]))
        together.append((first.render(), first.anchor(), result.reward, result.done, result.success))
        if not other.done:
            other.step(other.parse_action(case.moves(other)[0]))
    assert together == alone


@every_adapter
def test_randomness_drawn_anew_is_that_of_the_other_seed(case):
    changed = case.world(episode_seed=1)
    changed.reseed(2)
    assert playthrough(case, changed, seed=2) == playthrough(case, case.world(episode_seed=2), seed=2)


@every_adapter
def test_the_end_is_final(case):
    world = finished(case)
    state, anchor = world.render(), world.anchor()
    action = case.world().parse_action(case.moves(case.world())[0])
    with pytest.raises(RuntimeError, match="after the episode ended"):
        world.step(action)
    assert world.done
    assert (world.render(), world.anchor()) == (state, anchor)


@every_adapter
def test_boards_are_named_by_what_is_seen_first(case):
    world, again = case.world(index=2, episode_seed=0), case.world(index=2, episode_seed=7)
    assert world.board_hash() == again.board_hash()
    assert world.anchor() == again.anchor()
    assert world.render() == again.render()
    before = world.board_hash()
    world.step(world.parse_action(case.moves(world)[0]))
    assert world.board_hash() == before
    same = (world.render(), world.done) == (again.render(), again.done)
    assert (world.anchor() == again.anchor()) == same


@every_adapter
def test_hostile_texts_are_no_actions_and_never_reach_the_prompt(case):
    world = case.world(index=1)
    free_text = case.package == "reasoning_gym"
    for text in HOSTILE:
        action = world.parse_action(text)
        assert action is None or free_text
    for text in HOSTILE:
        if world.done:
            world = case.world(index=1)
        execute_turn(world, [text], actions_left=5)
        assert "zqx" not in world.render() + world.system_prompt()
        assert "<|im_end|>" not in world.render() + world.system_prompt()


@pytest.mark.parametrize("case", [GYMNASIUM, TEXTARENA], ids=lambda case: case.package)
def test_any_text_is_read_without_an_error(case):
    world = case.world()
    known = {re.sub("[^a-z]", "", name.lower()) for name in case.moves(world)}

    @settings(max_examples=100, deadline=None)
    @given(st.text(max_size=30) | st.text("[uUpP] \n", max_size=6))
    def check(text: str) -> None:
        assert world.parse_action(text) is None or re.sub("[^a-z]", "", text.lower()) in known

    check()


@every_adapter
def test_what_is_not_promised_is_said_so(case):
    world = case.world()
    assert math.isnan(world.optimal_return())
    assert world.stratum() == 0
    assert world.presets() == ("default",)
    assert [split_size(f"{FOLDER}.{case.path}", preset="default", split=split) for split in SPLITS] == [None] * 3


def test_splits_never_share_a_seed():
    seeds = {
        split: {seed for index in range(300) for seed in islice(Board("w", "t", split, index).seeds(), 5)}
        for split in SPLITS
    }
    assert not seeds["train"] & seeds["evaluation"]
    assert not seeds["train"] & seeds["test"]
    assert not seeds["evaluation"] & seeds["test"]
    assert all(len(each) > 1490 and max(each) < 2**31 for each in seeds.values())
    assert Board("w", "t", "test", 0).seed() != Board("w", "u", "test", 0).seed()


@every_adapter
def test_wrong_settings_are_named(case):
    for wrong, message in [
        ({"task": "no such task"}, "env.task='no such task'"),
        ({"task": 3}, "env.task=3"),
        ({"max_turns": 0}, "env.max_turns=0"),
        ({"size": 4}, "env.size=4: unknown key"),
        ({"index": -1}, "env.index=-1"),
    ]:
        with pytest.raises(ConfigurationError) as caught:
            case.world(**wrong)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)


@every_adapter
def test_an_absent_library_is_named_with_its_extra(case, monkeypatch):
    monkeypatch.setitem(sys.modules, case.package, None)
    with pytest.raises(ConfigurationError, match=r'pip install "actfocus_verl\[worlds\]"') as caught:
        make_world(f"{FOLDER}.{case.path}", preset="default", index=123456, **case.settings)
    assert case.package in str(caught.value)


@every_adapter
def test_its_configuration_file_plays(case):
    pytest.importorskip(case.package)
    env = OmegaConf.load(CONFIGS / f"{case.config}.yaml")
    shared = {"name", "preset", "seed", "train_size", "evaluation_size"}
    world = make_world(
        env.name,
        preset=env.preset,
        split="evaluation",
        **{key: env[key] for key in env if key not in shared and env[key] is not None},
    )
    assert set(env) - shared == {field.name for field in fields(world.configs["default"])}
    lines = (CONFIGS / f"{case.config}.yaml").read_text().splitlines()
    told = {line.split(":")[0]: line.split("# ")[1].split(":")[0] for line in lines if ": null  " in line}
    assert told == {key: str(getattr(world.configs["default"], key)) for key in told}
    assert len(told) >= 6
    assert len(playthrough(case, world, seed=0)) > 1


_ACROSS_PROCESSES = """
from tests.environments.adapters.cases import CASES
case = next(case for case in CASES if case.package == {package!r})
world = case.world(index=3, episode_seed=1)
for turn in range(20):
    print(world.system_prompt(), world.render(), world.anchor(), world.board_hash())
    if world.done:
        break
    moves = case.moves(world)
    world.step(world.parse_action(moves[turn % len(moves)]))
"""


@pytest.mark.parametrize("case", [GYMNASIUM, TEXTARENA, TEXTWORLD], ids=lambda case: case.package)
def test_boards_and_randomness_do_not_depend_on_the_process(case):
    """reasoning-gym: see its own test, which looks at every dataset."""
    pytest.importorskip(case.package)
    code = _ACROSS_PROCESSES.format(package=case.package)
    assert run_python(code, hash_seed="1") == run_python(code, hash_seed="2") != ""


def test_the_adapters_import_no_library_by_themselves():
    modules = ", ".join(f"{FOLDER}.{case.path.partition(':')[0]}" for case in CASES)
    names = {case.package for case in CASES} | {"torch", "verl", "ray"}
    code = f"import sys, {modules}\nprint(sorted({names!r} & set(sys.modules)))"
    assert run_python(code).strip() == "[]"
