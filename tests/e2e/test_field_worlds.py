"""Two real steps of training in each world that a package plays: Ray, vLLM, a policy that knows little.

One start each: the boards of a run, its chat format and its lengths are those of one world from the first process on.
"""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from actfocus_verl.reporting.run_folder import RunFolder
from tests.e2e.runs import Run
from tests.e2e.test_worlds import MICRO
from tests.environments.package_worlds import PACKAGE_WORLDS, PackageWorld
from tests.helpers.tool_policy import write_world_policy

pytestmark = [pytest.mark.e2e, pytest.mark.nightly, pytest.mark.timeout(1800)]

STEPS = 2
SCRIPTED = ("textcraft", "babyai")
"""Somebody demonstrates these, so that they have a tiny policy of their own; the others borrow FrozenLake's."""


@pytest.mark.parametrize("case", PACKAGE_WORLDS, ids=lambda case: case.name)
def test_it_trains(start: Callable[..., Run], tiny_policy: Path, case: PackageWorld) -> None:
    case.require()
    policy = MICRO if case.name in SCRIPTED else (f"model.path={tiny_policy}", *MICRO[3:])
    lengths = ("env.max_turns=2", "data.max_prompt_length=2560", "data.max_response_length=1536")
    run = start(case.name, f"env={case.name}", "env.preset=easy", "credit=actfocus", *policy, *lengths)
    for line in two_steps(run):
        assert line["response_tokens/reasoning"] + line["response_tokens/format"] > 0


@pytest.mark.parametrize(
    ("env", "package", "settings"),
    [
        # the smallest context of each: one set of tasks, the short form of the policy
        ("bfcl_multi_turn", "bfcl_eval", {"category": "base", "max_turns": 4}),
        ("tau2_telecom", "tau2", {"policy": "short", "max_turns": 4}),
    ],
)
def test_a_tool_world_trains(
    start: Callable[..., Run], tmp_path: Path, env: str, package: str, settings: dict[str, Any]
) -> None:
    if find_spec(package) is None:
        pytest.skip("pip install --no-deps -r requirements/tool_worlds.txt")
    policy = tmp_path / "policy"
    write_world_policy(policy, env, **settings)
    words = [f"env.{key}={value}" for key, value in settings.items()]
    lengths = ("env.max_turn_tokens=128", "data.max_prompt_length=1536", "data.max_response_length=2048")
    run = start(env, f"env={env}", "credit=actfocus", f"model.path={policy}/model", *words, *MICRO[4:], *lengths)
    for line in two_steps(run):
        assert line["response_tokens/action"] > 0  # it calls
        assert line["response_tokens/environment"] > 0  # and is answered


def two_steps(run: Run) -> Sequence[dict[str, Any]]:
    """What the first steps say of themselves; the run is killed behind them."""
    run.wait_until(lambda: run.steps() >= STEPS, f"step {STEPS}")
    run.send(signal.SIGKILL)
    run.wait()
    assert run.left_by_a_kill() == []
    lines = RunFolder.open(run.folder).metrics[:STEPS]
    for line in lines:
        assert math.isfinite(line["actor/pg_loss"])
        assert abs(line["rollout_corr/kl"]) < 1e-3
    return lines
