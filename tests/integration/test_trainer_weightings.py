"""Every weighting in a step of the trainer, on verl's own engine and queue's columns. No Ray, no vLLM."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM
from verl.trainer.ppo.core_algos import compute_policy_loss_vanilla

from actfocus_verl.credit.estimation import ESTIMATORS
from actfocus_verl.credit.influence import ALPHA, METRICS
from actfocus_verl.credit.registry import WEIGHTINGS
from actfocus_verl.errors import ConfigurationError
from actfocus_verl.integration.columns import group_ids
from actfocus_verl.integration.loss import token_weighted_policy_loss
from tests.helpers import slow_weightings
from tests.helpers.losses import actor_config
from tests.helpers.queue import LocalQueue
from tests.helpers.trainer import MakeTrainer, to_advantages

Rows = dict[str, dict[str, Any]]
KEYS = ("a_0_0", "a_1_0", "a_2_0", "b_0_0", "b_1_0", "b_2_0")
GROUPS = [key[0] for key in KEYS]


def column(queue: LocalQueue, name: str) -> list[list[float]]:
    return [queue.rows[key][name].double().tolist() for key in KEYS]


def assert_rows(queue: LocalQueue, name: str, expected: list[list[float]], **tolerance: float) -> None:
    for key, row in zip(KEYS, expected, strict=True):
        torch.testing.assert_close(queue.rows[key][name], torch.tensor(row), **tolerance)


def base_advantages(make_trainer: MakeTrainer, queue: LocalQueue, rows: Rows) -> list[list[float]]:
    to_advantages(make_trainer("credit=uniform"), queue.fill(rows))
    return column(queue, "advantages")


def test_group_ids_are_those_of_the_prompts() -> None:
    assert group_ids(["b_1_0", "a_0_0", "b_0_0", "under_score_2_1", "under_score_0_0"]).tolist() == [0, 1, 0, 2, 2]


@pytest.mark.parametrize("normalize", ["none", "batch"])
def test_aem_compares_the_turns_of_a_prompt_group(
    make_trainer: MakeTrainer, queue: LocalQueue, rows: Rows, normalize: str
) -> None:
    to_advantages(make_trainer("credit=aem", "credit.gate=0.001", f"credit.normalize={normalize}"), queue.fill(rows))
    roles, turn_ids = column(queue, "token_roles"), column(queue, "turn_ids")
    expected = slow_weightings.aem(column(queue, "entropy"), roles, turn_ids, GROUPS, gate=0.001)
    if normalize == "batch":
        expected = slow_weightings.normalize(expected, roles, [0] * 6)
    assert_rows(queue, "token_weights", expected, rtol=1e-5, atol=0)
    assert len({round(weight, 6) for row in expected for weight in row}) > 6


def test_entropy_quantile_keeps_the_most_uncertain_tokens(
    make_trainer: MakeTrainer, queue: LocalQueue, rows: Rows
) -> None:
    to_advantages(make_trainer("credit=entropy_quantile", "credit.fraction=0.3"), queue.fill(rows))
    roles = column(queue, "token_roles")
    kept = slow_weightings.entropy_quantile(column(queue, "entropy"), roles, fraction=0.3)
    assert_rows(queue, "token_weights", slow_weightings.normalize(kept, roles, [0] * 6), rtol=1e-6, atol=0)


def test_action_only_needs_no_reference(make_trainer: MakeTrainer, queue: LocalQueue, rows: Rows) -> None:
    to_advantages(make_trainer("credit=action_only"), queue.fill(rows))
    roles = column(queue, "token_roles")
    action = [[float(role == slow_weightings.ACTION) for role in row] for row in roles]
    assert_rows(queue, "token_weights", slow_weightings.normalize(action, roles, [0] * 6), rtol=1e-6, atol=0)
    assert all("energy" not in row for row in queue.rows.values())


def test_empg_writes_its_advantage_beside_its_weights(make_trainer: MakeTrainer, queue: LocalQueue, rows: Rows) -> None:
    base = base_advantages(make_trainer, queue, rows)
    batch, metrics = to_advantages(make_trainer("credit=empg", "credit.zeta=0.4"), queue.fill(rows))
    tokens = [column(queue, name) for name in ("entropy", "token_roles", "turn_ids")]
    scale, modified = slow_weightings.empg(base, *tokens, zeta=0.4)

    assert_rows(queue, "token_weights", scale, rtol=1e-5, atol=0)
    for key, row in zip(KEYS, modified, strict=True):
        found = queue.rows[key]["token_weights"] * queue.rows[key]["advantages"]
        torch.testing.assert_close(found, torch.tensor(row), rtol=1e-5, atol=1e-5)
    assert {"token_weights", "advantages"} <= set(batch.fields)
    mass = sum(metrics[f"credit/gradient_mass/{role}"] for role in ("reasoning", "action", "format"))
    assert mass == pytest.approx(1.0)


@pytest.mark.parametrize("credit", ["influence", "uniform"])
def test_the_influence_of_the_reasoning_is_measured_with_every_weighting(
    make_trainer: MakeTrainer, queue: LocalQueue, rows: Rows, credit: str
) -> None:
    answers = dict(zip(KEYS, (5, 6, 5, 7, 7, 7), strict=True))
    for key, row in rows.items():
        row["response_mask"][:3] = 1
        row["token_roles"][:3] = torch.tensor([1, 2, 3])
        row["turn_ids"][:3] = 0
        row["responses"][1] = answers[key]
    in_groups = ("actor_rollout_ref.rollout.n=3", "data.train_batch_size=2")
    trainer = make_trainer(f"credit={credit}", *in_groups)
    trainer.run_log.influence.add_step(dict(zip(METRICS, (2.0, 1.0, 0.5), strict=True)))  # of an earlier step
    batch, metrics = to_advantages(trainer, queue.fill(rows))
    assert len(batch.keys) == 12  # with verl's padding rows

    names = ("entropy", "token_roles", "turn_ids", "responses")
    answer, given, _ = slow_weightings.influence(*(column(queue, name) for name in names), GROUPS)
    assert [metrics[name] for name in METRICS] == pytest.approx([answer, given, (2 / 3 + 1) / 2], rel=1e-6)
    share = max(0.0, 1 - (0.9 * 1.0 + given) / (0.9 * 2.0 + answer))
    assert metrics[ALPHA] == pytest.approx(share, rel=1e-6)
    roles = column(queue, "token_roles")
    expected = slow_weightings.influence_weights(share if credit == "influence" else 1.0, roles)
    assert_rows(queue, "token_weights", slow_weightings.normalize(expected, roles, [0] * 6), rtol=1e-5, atol=0)


def test_at_the_level_of_tokens_each_is_weighted_by_its_relevance(
    make_trainer: MakeTrainer, queue: LocalQueue, rows: Rows
) -> None:
    in_groups = ("actor_rollout_ref.rollout.n=3", "data.train_batch_size=2")
    trainer = make_trainer("credit=influence", "credit.level=token", "credit.normalize=none", *in_groups)
    trainer.run_log.influence.add_step(dict(zip(METRICS, (1e9, 0.0, 0.5), strict=True)))  # alpha is high
    batch, _ = to_advantages(trainer, queue.fill(rows))
    assert "relevance" in batch.fields
    assert not {*batch.extra_info} & {"calculate_relevance", "micro_batch_size_per_gpu"}
    for key in KEYS:
        row = queue.rows[key]
        for turn in (0, 1):
            reasoning = (row["token_roles"] == 1) & (row["turn_ids"] == turn)
            rho = row["relevance"][reasoning]
            largest = rho.max() if len(rho) and rho.max() > 0 else 1.0
            torch.testing.assert_close(
                row["token_weights"][reasoning], (trainer._influence * rho / largest).clamp(0.1, 1.0)
            )
        assert bool((row["token_weights"][row["token_roles"] > 1] == 1).all())
    weights = torch.cat([queue.rows[key]["token_weights"] for key in KEYS])
    assert len(weights.unique()) > 4


def test_without_the_policys_entropy_no_influence_is_logged(
    make_trainer: MakeTrainer, queue: LocalQueue, rows: Rows
) -> None:
    for row in rows.values():
        row["rollout_log_probs"] = -torch.ones(len(row["responses"]))
    bypass = "algorithm.rollout_correction.bypass_mode=true"
    _, metrics = to_advantages(make_trainer("credit=uniform", bypass), queue.fill(rows))
    assert not {ALPHA, *METRICS} & {*metrics}


@pytest.mark.parametrize("name", ["aem", "entropy_quantile", "action_only"])
def test_no_other_weighting_touches_the_advantages(
    make_trainer: MakeTrainer, queue: LocalQueue, rows: Rows, name: str
) -> None:
    base = base_advantages(make_trainer, queue, rows)
    to_advantages(make_trainer(f"credit={name}"), queue.fill(rows))
    assert column(queue, "advantages") == base


def test_empg_in_the_loss_is_its_advantage_in_verls_own_loss(loss_batch: dict[str, torch.Tensor]) -> None:
    """g * min(rho (A + s), clip(rho) (A + s)) = min(rho A', clip(rho) A'), A' = g (A + s), the dual clip included."""
    old, new, mask = (loss_batch[name] for name in ("old", "new", "mask"))
    scale, modified = loss_batch["scale"], loss_batch["modified"]
    config = actor_config("token_weighted", clip_ratio_low=0.2, clip_ratio_high=0.28, clip_ratio_c=3.0)
    plain, _ = compute_policy_loss_vanilla(old, new, modified, mask, "token-mean", config, None)
    ours, _ = token_weighted_policy_loss(old, new, modified / scale, mask, "token-mean", config, scale)
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-7)


@pytest.fixture
def loss_batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    old = -torch.rand(6, 20, generator=generator) * 3
    ratio_logs = torch.randn(6, 20, generator=generator)
    return {
        "old": old,
        "new": old + ratio_logs,
        "mask": (torch.rand(6, 20, generator=generator) < 0.8).long(),
        "scale": torch.rand(6, 20, generator=generator) + 0.5,
        "modified": torch.randn(6, 20, generator=generator),
    }


def reference_signal(folder: Path, row: dict[str, Any], signal: str) -> list[float]:
    """Of the logits one position before each response token, in float64."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        logits = model(row["input_ids"].unsqueeze(0)).logits[0].double()
    first = len(row["prompts"]) - 1
    log_p = logits[first : first + len(row["responses"])].log_softmax(dim=-1)
    values = -(log_p.exp() * log_p).sum(dim=-1) if signal == "entropy" else log_p.mean(dim=-1)
    return [float(value) for value in values]


@pytest.mark.parametrize("signal", ["entropy", "gauge_free_energy", "nll", "log_prob_shift"])
def test_actfocus_with_another_signal(
    make_trainer: MakeTrainer, queue: LocalQueue, rows: Rows, model_folder: Path, signal: str
) -> None:
    to_advantages(make_trainer("credit=actfocus", f"credit.signal={signal}", "credit.beta=0.9"), queue.fill(rows))
    roles = column(queue, "token_roles")
    if signal in ("entropy", "gauge_free_energy"):
        scores = [reference_signal(model_folder, rows[key], signal) for key in KEYS]
    elif signal == "nll":
        scores = [[-value for value in row] for row in column(queue, "old_log_probs")]
    else:
        pairs = zip(column(queue, "old_log_probs"), column(queue, "ref_log_prob"), strict=True)
        scores = [[old - ref for old, ref in zip(*rows, strict=True)] for rows in pairs]
    expected = slow_weightings.actfocus(scores, roles, beta=0.9)
    assert_rows(queue, "token_weights", slow_weightings.normalize(expected, roles, [0] * 6), rtol=0, atol=2e-5)
    assert not any("energy" in row for row in queue.rows.values())  # what is not asked for is not computed


def test_nll_needs_no_reference_pass(make_trainer: MakeTrainer) -> None:
    make_trainer("credit=actfocus", "credit.signal=nll", "actor_rollout_ref.actor.use_kl_loss=false")
    for signal, wanted in (("entropy", "reference_e"), ("gauge_free_energy", "gauge_f"), ("log_prob_shift", "ref_log")):
        with pytest.raises(ConfigurationError, match=f"needs the {wanted}.* of a frozen reference"):
            make_trainer("credit=actfocus", f"credit.signal={signal}", "actor_rollout_ref.actor.use_kl_loss=false")


def test_an_entropy_that_nobody_computes_is_refused_before_the_run(make_trainer: MakeTrainer) -> None:
    bypass = "algorithm.rollout_correction.bypass_mode=true"
    make_trainer("credit=action_only", bypass)
    with pytest.raises(ConfigurationError, match=r"credit.name='aem': reads the policy's entropy, .*bypass_mode=false"):
        make_trainer("credit=aem", bypass)


class TestPlacebo:
    def weights(self, make_trainer: MakeTrainer, queue: LocalQueue, rows: Rows, *overrides: str, step: int = 1) -> Any:
        trainer = make_trainer("credit=actfocus", *overrides)
        trainer.global_steps = step
        to_advantages(trainer, queue.fill(rows))
        return {key: queue.rows[key]["token_weights"] for key in KEYS}

    def test_it_shuffles_within_roles(self, make_trainer: MakeTrainer, queue: LocalQueue, rows: Rows) -> None:
        plain, placebo = (
            self.weights(make_trainer, queue, rows, f"credit.placebo={value}") for value in ("false", "true")
        )
        roles = torch.cat([rows[key]["token_roles"] for key in KEYS])
        before, after = (torch.cat([found[key] for key in KEYS]) for found in (plain, placebo))
        assert not torch.equal(before, after)
        for role in range(4):
            assert torch.equal(before[roles == role].sort().values, after[roles == role].sort().values)

    def test_the_runs_seed_and_the_step_decide(self, make_trainer: MakeTrainer, queue: LocalQueue, rows: Rows) -> None:
        def found(*overrides: str, step: int = 1) -> torch.Tensor:
            weights = self.weights(make_trainer, queue, rows, "credit.placebo=true", *overrides, step=step)
            return torch.cat([weights[key] for key in KEYS])

        first = found()
        assert torch.equal(found(), first)
        assert not torch.equal(found(step=2), first)
        assert not torch.equal(found("run.seed=1"), first)


# A user's own methods, in a file of their own


@pytest.fixture
def own_methods(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_methods.py").write_text(
        "from actfocus_verl.credit.estimation import register_estimator\n"
        "from actfocus_verl.credit.registry import register_weighting\n"
        "@register_weighting('by_value', required_columns=('values', 'turn_rewards', 'returns'))\n"
        "def by_value(columns, *, power=1.0):\n"
        "    assert columns['turn_rewards'].shape == (len(columns['values']), 2)\n"
        "    return (columns['values'].abs() + columns['returns'].abs()) ** power\n"
        "@register_estimator('by_turns', required_columns=('turn_ids', 'turn_rewards', 'energy'))\n"
        "def by_turns(step, *, scale=1.0):\n"
        "    step.metrics['estimator/energy'] = float(step.columns['energy'][step.response_mask > 0].mean())\n"
        "    return step.episodes.turns.to_tokens(scale * step.episodes.rewards)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(WEIGHTINGS, "entries", dict(WEIGHTINGS.entries))
    monkeypatch.setattr(ESTIMATORS, "entries", dict(ESTIMATORS.entries))
    monkeypatch.delitem(sys.modules, "own_methods", raising=False)


def test_a_weighting_reads_whatever_column_it_declares(
    make_trainer: MakeTrainer, queue: LocalQueue, rows: Rows, own_methods: None
) -> None:
    generator = torch.Generator().manual_seed(2)
    for row in rows.values():
        row["values"] = torch.rand(len(row["responses"]), generator=generator) + 0.5
    own = ["credit=uniform", "credit.name=own_methods:by_value", "+credit.power=2.0"]
    to_advantages(make_trainer("algorithm=ppo", *own), queue.fill(rows))
    values, returns, roles = (column(queue, name) for name in ("values", "returns", "token_roles"))
    raw = [
        [(abs(value) + abs(target)) ** 2 * (role != 0) for value, target, role in zip(*each, strict=True)]
        for each in zip(values, returns, roles, strict=True)
    ]
    assert_rows(queue, "token_weights", slow_weightings.normalize(raw, roles, [0] * 6), rtol=1e-5, atol=0)
    with pytest.raises(ConfigurationError, match=r"credit.name='own_methods:by_value': reads a critic's values, and"):
        make_trainer("algorithm=grpo", *own)


def test_an_estimator_of_ones_own_runs_in_the_trainer(
    make_trainer: MakeTrainer, queue: LocalQueue, rows: Rows, own_methods: None
) -> None:
    own = ["algorithm=grpo", "algorithm.adv_estimator=own_methods:by_turns", "+estimator.scale=3.0", "credit=uniform"]
    with pytest.raises(ConfigurationError, match=r"adv_estimator='own_methods:by_turns': needs the energy of a frozen"):
        make_trainer(*own)
    reference = ["actor_rollout_ref.actor.use_kl_loss=true", "actor_rollout_ref.actor.kl_loss_coef=0"]
    _, metrics = to_advantages(make_trainer(*own, *reference), queue.fill(rows))
    for key in KEYS:
        last = rows[key]["turn_ids"] == 1  # the turn that ends in the episode's return
        expected = 3.0 * float(rows[key]["rm_scores"].sum()) * last
        torch.testing.assert_close(queue.rows[key]["advantages"], expected.float())
    assert metrics["estimator/energy"] < 0
