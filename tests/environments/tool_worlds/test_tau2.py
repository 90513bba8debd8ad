"""tau2-bench's telecom tickets: solved by their gold calls, and judged as the package judges them."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys

import pytest

pytest.importorskip("tau2", reason="pip install --no-deps -r requirements/tool_worlds.txt")

from actfocus_verl.environments import SPLITS, ToolCall, make_world, split_size
from actfocus_verl.environments.splits import hex_digest
from actfocus_verl.environments.tau2_telecom.tasks import entries, issue_and_faults, names_of
from actfocus_verl.environments.tools import PlayedCalls
from tests.environments.tool_worlds.cases import play

NAME, PRESETS = "tau2_telecom", ("official", "full")
DONE = ToolCall("done")


def test_the_tickets_are_those_of_the_pinned_release_in_this_order() -> None:
    lists = [names_of(preset, split) for preset in PRESETS for split in SPLITS]
    assert list(map(len, lists)) == [74, 522, 40, 1131, 551, 603]
    assert hex_digest(json.dumps([lists, entries()], sort_keys=True)) == "af396ef426ab61e00953095c90edcb20"


@pytest.mark.parametrize("preset", PRESETS)
def test_no_set_of_faults_is_in_two_splits(preset: str) -> None:
    faults = [{issue_and_faults(name) for name in names_of(preset, split)} for split in SPLITS]
    assert not faults[0] & faults[1]
    assert not faults[1] & faults[2]
    assert not faults[0] & faults[2]


@pytest.mark.parametrize("size", [8, pytest.param(10**6, marks=pytest.mark.nightly)])
@pytest.mark.parametrize("preset", PRESETS)
def test_gold_calls_solve_every_ticket(preset: str, size: int) -> None:
    for split in SPLITS:
        for index in range(min(size, split_size(NAME, preset=preset, split=split))):
            world = make_world(NAME, preset=preset, split=split, index=index)
            assert sum(play(world).rewards) == world.optimal_return(), world.task_name


def recorded(kind: str, index: int) -> tuple[object, list[list[ToolCall]]]:
    """The world played to its end, and its replies."""
    rng = random.Random(index)
    world = make_world(NAME, preset="full", index=7 * index)
    damaged = gold_calls(world)
    if kind == "damaged":
        del damaged[rng.randrange(len(damaged))]
    if kind == "nonsense":
        damaged = [ToolCall("toggle_airplane_mode", {"x": 1}), ToolCall("get_details_by_id", {"id": "L1"})]
    script = [] if kind == "empty" else [*([call] for call in damaged), [DONE]]
    replies = iter([*script, []])
    played = PlayedCalls(world)
    kept = []
    while not played.over:
        reply = next(replies)
        played.act(reply)
        kept.append((reply, world.answers()))
    return world, kept


def gold_calls(world) -> list[ToolCall]:
    return [ToolCall(name, arguments) for name, arguments in world._ticket.gold]


def official(world, replies) -> float:
    """The reward that the package's evaluation of the whole conversation gives."""
    from tau2.data_model import message as messages
    from tau2.domains.telecom.environment import get_environment
    from tau2.evaluator.evaluator_action import ActionEvaluator
    from tau2.evaluator.evaluator_env import EnvironmentEvaluator

    if not replies or replies[-1][0] != [DONE]:
        return 0.0  # as evaluate_simulation for an episode that the agent did not stop
    said = []
    for number, (calls, answers) in enumerate(replies[:-1]):
        made = [
            messages.ToolCall(id=f"{number}-{i}", name=call.name, arguments=dict(call.arguments))
            for i, call in enumerate(calls)
        ]
        said.append(messages.AssistantMessage(role="assistant", tool_calls=made))
        said += [
            messages.ToolMessage(id=call.id, role="tool", content=answer["content"])
            for call, answer in zip(made, answers, strict=True)
        ]
    task = world._ticket.task
    reward = EnvironmentEvaluator.calculate_reward(get_environment, task, said, solo_mode=True).reward
    if any(basis.value == "ACTION" for basis in task.evaluation_criteria.reward_basis):
        reward *= ActionEvaluator.calculate_reward(task, said).reward
    return float(reward)


@pytest.mark.parametrize("size", [6, pytest.param(50, marks=pytest.mark.nightly)])
@pytest.mark.parametrize("kind", ["gold", "damaged", "empty", "nonsense"])
def test_transcripts_are_judged_as_the_package_judges_them(kind: str, size: int) -> None:
    judged = [(float(world.success), official(world, kept)) for world, kept in (recorded(kind, i) for i in range(size))]
    assert [ours for ours, _ in judged] == [theirs for _, theirs in judged]
    solved = sum(ours for ours, _ in judged)
    assert (solved == size) if kind == "gold" else (solved < size)


def test_a_ticket_is_the_same_in_every_process() -> None:
    code = (
        "from actfocus_verl.environments import make_world; from tests.environments.tool_worlds.cases import play;"
        "w = make_world('tau2_telecom', preset='full', index=5); w.call('refuel_data',"
        " {'customer_id': 'C1001', 'line_id': 'L1002', 'gb_amount': 1.0}); print(play(w).rewards);"
        "w2 = make_world('tau2_telecom', index=3); play(w2); print(w2.board_hash(), w2.anchor())"
    )
    said = set()
    for seed in ("1", "2"):
        env = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)}
        line = [sys.executable, "-c", code]
        said.add(subprocess.run(line, env=env, capture_output=True, text=True, check=True).stdout)
    assert len(said) == 1


def test_a_reply_without_a_call_is_the_end_and_done_performs_nothing_else() -> None:
    world = make_world(NAME, index=0)
    PlayedCalls(world).act([])
    assert (world.done, world.success) == (True, False)
    world = make_world(NAME, index=0)
    played = PlayedCalls(world)
    played.act([*gold_calls(world), DONE])
    assert (world.done, world.success, played.actions, world.answers()) == (True, False, 0, [])


def test_an_unknown_function_is_answered_in_the_packages_words_and_counted() -> None:
    world = make_world(NAME, index=0)
    played = PlayedCalls(world)
    assert not played.act([ToolCall("no_such_function", {"x": 1})]).valid
    assert [each["content"] for each in world.answers()] == ["Error: Tool 'no_such_function' not found."]
    for _ in range(9):
        assert not world.done
        played.act([ToolCall("no_such_function", {"x": 1})])
    assert world.done


def test_the_short_policy_fits_a_small_context() -> None:
    whole, short = (make_world(NAME, index=0, policy=policy).system_prompt() for policy in ("full", "short"))
    assert "<main_policy>" in whole
    assert len(whole.split()) > 2_500
    assert len(short.split()) < 350


@pytest.mark.parametrize("replies", [300, pytest.param(5_000, marks=pytest.mark.nightly)])
def test_any_call_is_answered(replies: int) -> None:
    rng = random.Random(0)
    values = [
        None,
        True,
        -1,
        0,
        10**40,
        float("nan"),
        "",
        "C1001",
        "L1002",
        "B1234",
        "555-123-2002",
        [],
        {"a": [1]},
        0.5,
    ]
    worlds = [make_world(NAME, preset="full", index=index) for index in range(20)]
    for _ in range(replies):
        world = rng.choice(worlds)
        world._ticket.errors = 0
        world._done = False
        function = rng.choice(world.tools()[:-1])["function"]
        name = rng.choice([function["name"]] * 6 + ["__init__", "db", "", "use_tool"])
        keys = [*function["parameters"]["properties"], *rng.choice([[], [], ["tool_name", "requestor", "self", "x"]])]
        PlayedCalls(world).act([ToolCall(name, {key: rng.choice(values) for key in keys})])
        assert all(isinstance(each["content"], str) for each in world.answers())
        assert world._ticket.solved() in (True, False)
