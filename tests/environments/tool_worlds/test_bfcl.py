"""BFCL's multi-turn tasks: all of them are solved by their gold calls, and judged as the package judges them."""

from __future__ import annotations

import builtins
import contextlib
import inspect
import io
import json
import os
import random
import subprocess
import sys
from itertools import count

import pytest

pytest.importorskip("bfcl_eval", reason="pip install --no-deps -r requirements/tool_worlds.txt")

from actfocus_verl.environments import SPLITS, ToolCall, make_world, split_size
from actfocus_verl.environments.bfcl_multi_turn.tasks import CATEGORIES, every_task, tasks_of
from actfocus_verl.environments.splits import hex_digest
from actfocus_verl.environments.tools import PlayedCalls
from tests.environments.tool_worlds.cases import gold, play

NAME = "bfcl_multi_turn"
_runs = count()


def test_the_tasks_are_those_of_the_pinned_release_in_this_order() -> None:
    names = [task.name for split in SPLITS for task in tasks_of("all", split)]
    assert [len(tasks_of("all", split)) for split in SPLITS] == [396, 224, 180]
    assert [len(tasks_of(category, "train")) for category in CATEGORIES] == [99] * 4
    assert hex_digest(json.dumps([names, [task.digest for task in every_task()]])) == "4045c1725e3fc73bdaf3cfef11859c74"


def test_no_variation_of_a_task_is_in_another_split() -> None:
    numbers = [{task.number for task in tasks_of("all", split)} for split in SPLITS]
    assert sum(map(len, numbers)) == len(set().union(*numbers)) == 200


@pytest.mark.parametrize("size", [24, pytest.param(10**6, marks=pytest.mark.nightly)])
def test_gold_calls_solve_every_task(size: int) -> None:
    for split in SPLITS:
        for index in range(min(size, split_size(NAME, split=split))):
            world = make_world(NAME, split=split, index=index)
            played = play(world)
            assert (world.success, sum(played.rewards)) == (True, world.optimal_return()), world.task.name
            assert world.outcome() == {"turns_right": 1.0}


def recorded(kind: str, index: int) -> tuple[object, list[list[list[ToolCall]]]]:
    """The world played to its end, and its calls by reply and turn."""
    rng = random.Random(index)
    world = make_world(NAME, split=SPLITS[index % 3], index=index)
    turns: list[list[list[ToolCall]]] = [[]]

    def player(world):
        calls = gold(world)
        if kind == "empty":
            calls = []
        elif kind == "damaged" and calls and rng.random() < 0.5:
            calls = calls[:-1] if rng.random() < 0.5 else [*calls[1:], ToolCall(calls[0].name, {"x": 1})]
        elif kind == "nonsense" and not turns[-1]:
            calls = [ToolCall("nothing", {}), ToolCall("cd", {"folder": 7})]
        if calls:
            turns[-1].append(calls)
        else:
            turns.append([])
        return calls

    play(world, player)
    return world, turns[:-1]


def official(world, turns) -> bool:
    """The package's own judgement: it evaluates the calls as text, which the tests may do with calls of their own."""
    from bfcl_eval.eval_checker.multi_turn_eval.multi_turn_checker import multi_turn_checker

    def text(call: ToolCall) -> str:
        return f"{call.name}({','.join(f'{key}={value!r}' for key, value in call.arguments.items())})"

    written = [[[text(call) for call in reply] for reply in turn] for turn in turns]
    model, entry = f"model{next(_runs)}", dict(world.task.entry)
    with contextlib.redirect_stdout(io.StringIO()):
        found = multi_turn_checker(written, [list(turn) for turn in world.task.gold], entry, "", model)
    return bool(found["valid"])


@pytest.mark.parametrize("kind", ["gold", "damaged", "empty", "nonsense"])
def test_fifty_transcripts_are_judged_as_the_package_judges_them(kind: str) -> None:
    judged = [(world.success, official(world, turns)) for world, turns in (recorded(kind, i) for i in range(50))]
    assert [ours for ours, _ in judged] == [theirs for _, theirs in judged]
    solved = sum(ours for ours, _ in judged)
    assert (solved == 50) if kind == "gold" else (solved < 50)


def test_a_task_is_the_same_in_every_process() -> None:
    code = (
        "from actfocus_verl.environments import make_world; from tests.environments.tool_worlds.cases import play;"
        "w = make_world('bfcl_multi_turn', index=8); play(w); print(w.board_hash(), w.anchor())"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", code], env=environment(seed), capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(said) == 1


def environment(seed: str) -> dict[str, str]:
    return {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)}


def test_functions_that_are_missing_are_shown_by_the_user_later() -> None:
    task = next(task for task in tasks_of("miss_func", "train") if task.withheld())
    index = tasks_of("all", "train").index(task)
    world = make_world(NAME, index=index)
    (turn, names), *_ = task.withheld().items()
    shown = {schema["function"]["name"] for schema in world.tools()}
    assert not shown & set(names)
    played = PlayedCalls(world)
    for _ in range(turn):
        played.act([])
    assert all(f'"name": "{name}"' in world.render() for name in names)


def test_twenty_one_replies_with_calls_in_a_turn_fail_the_task() -> None:
    world = make_world(NAME, index=0)
    played = play(world, lambda world: [ToolCall("nothing", {})])
    assert (len(played.rewards), world.success) == (21, False)


@pytest.mark.parametrize("replies", [300, pytest.param(5_000, marks=pytest.mark.nightly)])
def test_any_call_is_answered_and_none_is_evaluated(replies: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise AssertionError("a model's text was evaluated")

    rng = random.Random(0)
    values = [None, True, -1, 0, 3, 1e308, 10**40, float("nan"), "", "a", "..", "__import__('os')", "é" * 50, [], [[1]]]
    values += [{"a": {}}, ["x", 2], "2024-01-01", "rm -rf /", "\x00", 0.5]
    worlds = [make_world(NAME, split="train", index=index) for index in range(40)]
    for name in ("eval", "exec", "open"):
        monkeypatch.setattr(builtins, name, refused)
    try:
        for _ in range(replies):
            world = rng.choice(worlds)
            if world.done:
                continue
            name = rng.choice([*world._apis._methods, "__init__", "_load_scenario", "eval", "a.b", ""])
            keys = [*rng.choice(world.tools())["function"]["parameters"]["properties"], "self", "x", "class"]
            if name in world._apis._methods and rng.random() < 0.8:
                keys = list(inspect.signature(world._apis._methods[name]).parameters)
            arguments = {key: rng.choice(values) for key in keys if rng.random() < 0.8}
            world._steps = 0
            played = PlayedCalls(world)
            played.act([ToolCall(name, arguments), ToolCall("pwd", None)] if rng.random() < 0.97 else [])
            assert all(isinstance(each["content"], str) for each in world.answers())
    finally:
        monkeypatch.undo()
