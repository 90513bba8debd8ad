"""scripts/gpu_study.py: the gradient of its update, arms that play the same episodes, and its table by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from actfocus_verl.credit.signals import ENERGY
from tests.helpers.engines import save_tiny_model
from tests.helpers.scripts import load_script

gpu_study = load_script("gpu_study")

STUDY: dict[str, Any] = {
    "env": "frozen_lake",
    "world": {"preset": "clean", "max_turns": 2, "max_turn_tokens": 12},
    "arms": {"uniform": {"name": "uniform"}, "placebo": {"name": "actfocus", "placebo": True}},
    "seeds": [0, 1],
    "steps": 1,
    "groups": 2,
    "episodes": 3,
    "learning_rate": 1e-3,
    "temperature": 0.7,
    "evaluate_every": 1,
    "evaluation": {"boards": 4, "temperature": 0.5, "seed": 0},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny_model(tmp_path_factory.mktemp("model"), max_position_embeddings=2048))


def slow_log_prob(network: torch.nn.Module, ids: list[int], position: int, temperature: float) -> torch.Tensor:
    logits: torch.Tensor = network(input_ids=torch.tensor([ids[:position]])).logits[0, -1] / temperature
    return logits.log_softmax(dim=-1)[ids[position]]


def test_an_update_follows_the_weighted_policy_gradient(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = gpu_study.Run(STUDY, "placebo", 0, model, "cpu", tmp_path / "run.json")
    steps: list[Any] = []
    monkeypatch.setattr(run, "_update", lambda step, credit: steps.append(step) or 0.0)
    run._step(1)
    step = steps[0]
    monkeypatch.undo()

    energy = run._energy(step)
    network = gpu_study.load_policy(model, "cpu")
    credit = torch.where(step.segments >= 0, torch.randn(step.segments.shape), 0.0)
    total, tokens = torch.zeros(()), 0
    for row, prompt in enumerate(step.prompts):
        ids = [*prompt, *step.columns["responses"][row].tolist()]
        for place in (step.segments[row] >= 0).nonzero()[:, 0].tolist():
            tokens += 1
            position = len(prompt) + place
            total = total + credit[row, place] * slow_log_prob(network, ids, position, STUDY["temperature"])
            if row == 1:
                raw = network(input_ids=torch.tensor([ids[:position]])).logits[0, -1]
                assert energy[row, place] == pytest.approx(-raw.double().logsumexp(dim=0).item(), abs=1e-4)
    expected = torch.autograd.grad(-total / tokens, list(network.parameters()))
    norm = torch.cat([each.reshape(-1) for each in expected]).norm()
    assert run._update(step, credit) == pytest.approx(norm.item(), rel=1e-4)
    # Adam's first step is the learning rate against the gradient's sign, where the gradient is not tiny.
    before, after = network.get_input_embeddings().weight, run._policy.get_input_embeddings().weight
    clear = expected[0].abs() > 1e-4
    moved = ((after - before) / STUDY["learning_rate"])[clear]
    torch.testing.assert_close(moved, -expected[0][clear].sign(), atol=0.05, rtol=0)
    assert ENERGY in run._spec.required_columns


def test_arms_of_a_seed_play_the_same_and_others_do_not(model: str, tmp_path: Path) -> None:
    found = {}
    for arm, seed in (("uniform", 0), ("placebo", 0), ("uniform", 1)):
        run = gpu_study.Run(STUDY, arm, seed, model, "cpu", tmp_path / f"{arm}-{seed}.json")
        run.train(until=1e12)
        found[arm, seed] = json.loads((tmp_path / f"{arm}-{seed}.json").read_text(encoding="utf-8"))
        assert found[arm, seed]["ended"]
    first = {key: each["steps"][0]["response_tokens"] for key, each in found.items()}
    assert first["uniform", 0] == first["placebo", 0]
    evaluations = [[each["step"] for each in entry["evaluations"]] for entry in found.values()]
    assert evaluations == [[0, 1]] * 3


def test_the_table_is_of_the_last_step_that_all_reached(tmp_path: Path) -> None:
    arms = {"uniform": {}, "actfocus": {}, "placebo": {}}
    (tmp_path / "study.json").write_text(json.dumps({"study": {"arms": arms, "seeds": [0, 1]}, "device": "card"}))
    rates = {"uniform": (1, 2), "actfocus": (3, 3), "placebo": (2, 2)}
    for arm in arms:
        for seed in (0, 1):
            evaluations = [
                {"step": 0, "success": [1, 0, 0, 0]},
                {"step": 10, "success": [1] * rates[arm][seed] + [0] * (4 - rates[arm][seed])},
            ]
            if (arm, seed) != ("placebo", 1):
                evaluations.append({"step": 20, "success": [1, 1, 1, 1]})
            steps = [{"weights": {"action": 2.0}, "seconds": {"sampling": 3.0, "update": 1.0}}]
            entry = {"arm": arm, "seed": seed, "steps": steps, "evaluations": evaluations}
            (tmp_path / f"{arm}-{seed}.json").write_text(json.dumps(entry))
    figures = gpu_study.summary(tmp_path)
    assert figures["steps"] == 10
    assert figures["before"]["success"] == 0.25
    assert figures["arms"]["uniform"]["success"] == [0.25, 0.5]
    difference = figures["differences"]["actfocus - uniform"]
    assert difference["of_seeds"] == [0.5, 0.25]
    # Student's t with one degree of freedom: 12.706 * (0.25 / sqrt 2) / sqrt 2
    assert difference["interval"] == pytest.approx([0.375 - 1.588, 0.375 + 1.588], abs=1e-3)
    shown = gpu_study.table(figures)
    assert "| actfocus - uniform | +0.375 | [-1.213, +1.963] |" in shown
    assert "| actfocus - placebo | +0.250 | not defined |" in shown  # two equal differences
