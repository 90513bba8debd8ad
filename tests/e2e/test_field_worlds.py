"""Two real steps of training in each world that a package plays: Ray, vLLM, a policy that knows nothing.

One start each: the boards of a run, its chat format and its lengths are those of one world from the first process on.
"""

from __future__ import annotations

import math
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from actfocus_verl.reporting.run_folder import RunFolder
from tests.e2e.runs import Run
from tests.e2e.test_worlds import MICRO
from tests.environments.package_worlds import PACKAGE_WORLDS, PackageWorld

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
    run.wait_until(lambda: run.steps() >= STEPS, f"step {STEPS}")
    run.send(signal.SIGKILL)
    run.wait()
    assert run.left_by_a_kill() == []
    for line in RunFolder.open(run.folder).metrics[:STEPS]:
        assert math.isfinite(line["actor/pg_loss"])
        assert abs(line["rollout_corr/kl"]) < 1e-3
        assert line["response_tokens/reasoning"] + line["response_tokens/format"] > 0
