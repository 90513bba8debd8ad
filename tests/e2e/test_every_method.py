"""A real step of every estimator, every weighting and every filter, in one run, which is killed after the last."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from actfocus_verl.reporting.run_folder import RunFolder
from tests.config.conftest import composed
from tests.e2e.runs import ROOT, Run
from tests.helpers.every_method import FILE_VARIABLE, MODE, MODULES, SECTIONS, STEPS_VARIABLE

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

ELSEWHERE = ("carl", "zero_variance_refill")
"""What has to be chosen before a run starts: forked rollouts, verl's refilling buffer. test_worlds.py has them."""
SIGNALS = ("entropy", "nll", "log_prob_shift", "gauge_free_energy")


def names(group: str) -> list[str]:
    return sorted({path.stem for path in (ROOT / "configs" / group).glob("*.yaml")} - set(ELSEWHERE))


def combinations() -> list[list[str]]:
    """Command lines that together hold every file of the three groups but ELSEWHERE, and every signal of ActFocus.

    And both levels of influence.
    """
    weightings = [[f"credit={name}"] for name in names("credit")]
    weightings += [["credit=actfocus", f"credit.signal={signal}"] for signal in SIGNALS]
    weightings += [["credit=actfocus", "credit.placebo=true"], ["credit=influence", "credit.level=token"]]
    others = zip(cycle(names("algorithm")), cycle(names("filter")), strict=False)
    return [
        [*credit, f"algorithm={algorithm}", f"filter={kept}"]
        for credit, (algorithm, kept) in zip(weightings, others, strict=False)
    ]


def test_every_name_is_tried() -> None:
    tried = {word for combination in combinations() for word in combination}
    groups = {"algorithm": names("algorithm"), "credit": names("credit"), "filter": names("filter")}
    assert tried >= {f"{group}={name}" for group, choices in groups.items() for name in choices}


@pytest.mark.parametrize("steps_each", [1, pytest.param(2, marks=pytest.mark.nightly)])
def test_each_trains(
    start: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps_each: int
) -> None:
    """Each step also shows whether the weights of the one before, of this method or another, reached vLLM."""
    methods = combinations()
    sections = []
    for overrides in methods:
        config = OmegaConf.to_container(composed(*overrides, "model=tiny", "platform=cpu"), resolve=True)
        actor = config["actor_rollout_ref"]["actor"]
        sections.append({name: config.get(name, {}) for name in SECTIONS} | {"actor": actor})
    path = tmp_path / "methods.yaml"
    OmegaConf.save(OmegaConf.create(sections), path)
    monkeypatch.setenv(FILE_VARIABLE, str(path))
    monkeypatch.setenv(STEPS_VARIABLE, str(steps_each))
    monkeypatch.setenv("VERL_USE_EXTERNAL_MODULES", MODULES)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))

    run = start(
        "every_method",
        # what any of them needs from the start: a critic, a reference, answers to probe for, and feedback
        "algorithm=a2tgpo",
        "critic.enable=true",
        "credit=hindsight",
        "actor_rollout_ref.actor.use_kl_loss=true",
        "actor_rollout_ref.actor.kl_loss_coef=0",
        f"trainer.v1.trainer_mode={MODE}",
        f"trainer.total_training_steps={steps_each * len(methods) + 50}",
        "actor_rollout_ref.actor.ppo_mini_batch_size=null",
    )
    run.wait_until(lambda: run.steps() >= steps_each * len(methods), "the last method's step", seconds=1200)
    run.send(signal.SIGKILL)
    run.wait()
    assert run.left_by_a_kill() == []
    metrics = RunFolder.open(run.folder).metrics[: steps_each * len(methods)]
    assert [line["method"] for line in metrics] == [method for method in range(len(methods)) for _ in range(steps_each)]
    for line in metrics:
        check(line, " ".join(methods[line["method"]]))
    for name in ("algorithm=igpo", "algorithm=a2tgpo") if steps_each > 1 else ():
        # one step may have none: where all episodes of the groups that are left have one turn
        steps = [line for line in metrics if name in methods[line["method"]]]
        assert sum(line["estimator/information_gains"] for line in steps) > 0, name


def check(line: dict[str, Any], method: str) -> None:
    """What one step of a method says of itself."""
    trained = not line["filter/nothing_left"]
    assert math.isfinite(line["actor/pg_loss"]), method
    assert math.isfinite(line["actor/grad_norm"]), method
    assert abs(line["rollout_corr/kl"]) < 1e-3, method
    action, reasoning = line["credit/mean_weight/action"], line["credit/mean_weight/reasoning"]
    assert trained or action == reasoning == 0, method
    if "credit=uniform" in method:
        assert action == reasoning, method
    elif trained and "credit=action_only" in method:
        assert reasoning == 0 < action, method
    elif trained and "credit.level=token" in method:
        assert 0 < reasoning <= action, method
    elif trained and "credit=actfocus" in method:
        assert action > 4 * reasoning, method
    if "algorithm=gigpo" in method or "algorithm=graphgpo" in method:
        assert 0 <= line["estimator/compared_turns"] <= 1, method
    if "algorithm=graphgpo" in method:
        assert 0 <= line["estimator/turns_to_success"] <= 1, method
