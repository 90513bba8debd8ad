"""IGPO and A2TGPO in a step of the trainer: probes through verl's engine, columns, padding, refusals. No Ray."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from transformers import AutoModelForCausalLM

from actfocus_verl.environments.frozen_lake import FrozenLake
from actfocus_verl.errors import ConfigurationError
from actfocus_verl.preflight.settings import check_config
from tests.config.conftest import composed
from tests.helpers.probes import Rows, add_probes, slow_scores
from tests.helpers.queue import LocalQueue
from tests.helpers.slow_gains import Played, slow_gains, slow_grpo, slow_igpo, slow_information, slow_turn_groups
from tests.helpers.trainer import MakeTrainer, to_advantages

METHODS = ("igpo", "a2tgpo")
UNKNOWN = ("a_1_0", 1)


@pytest.fixture
def rows(rows: Rows) -> Rows:
    """Turns of one token with one of the environment's between them, two to five a row; one has no known answer."""
    for row in rows.values():
        length = len(row["responses"])
        mask = (torch.arange(length) % 2 == 0).long()
        turns = int(mask.sum())
        row["response_mask"] = row["loss_mask"] = mask
        row["turn_ids"] = torch.where(mask > 0, torch.arange(length) // 2, -1)
        row["token_roles"] = mask * 2
        row["turn_rewards"] = torch.cat([torch.zeros(turns - 1), row["rm_scores"].sum()[None]])
        row["anchors"] = torch.arange(turns)
    add_probes(rows, unknown=UNKNOWN)
    return rows


def plays_of(rows: Rows, queue: LocalQueue) -> list[Played]:
    """The episodes, with the scores that the trainer stored."""
    plays: list[Played] = []
    for key, row in rows.items():
        scores = queue.rows[key]["answer_scores"].tolist()
        known = [None if math.isnan(score) else score for score in scores]
        plays.append((key[0], [1] * len(row["turn_rewards"]), known, float(row["rm_scores"].sum())))
    return plays


def expected_tokens(row: dict[str, Any], by_turn: dict[int, float], elsewhere: float) -> list[float]:
    return [by_turn[turn] if turn >= 0 else elsewhere for turn in row["turn_ids"].tolist()]


@pytest.mark.parametrize("name", METHODS)
def test_scores_are_those_of_a_pass_of_their_own(
    make_trainer: MakeTrainer, queue: LocalQueue, rows: Rows, model_folder: Path, name: str
) -> None:
    batch, _ = to_advantages(make_trainer(f"algorithm={name}", "credit=uniform"), queue.fill(rows))
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32).eval()
    for key, row in rows.items():
        expected = slow_scores(row, model, temperature=0.9)
        assert queue.rows[key]["answer_scores"].tolist() == pytest.approx(expected, abs=1e-4, nan_ok=True)
    assert math.isnan(queue.rows[UNKNOWN[0]]["answer_scores"][UNKNOWN[1]])
    padding = [key for key, tag in zip(batch.keys, batch.tags, strict=True) if tag.get("is_padding")]
    assert len(padding) == 2
    assert set(queue.rows) == {*rows, *padding}  # the probes are gone
    assert all(bool(queue.rows[key]["answer_scores"].isnan().all()) for key in padding)
    assert all(queue.rows[key]["advantages"].tolist() == [0.0] for key in padding)


@pytest.mark.parametrize(("pool", "credit"), [("separate", "uniform"), ("joint", "actfocus")])
def test_igpo_in_a_step(make_trainer: MakeTrainer, queue: LocalQueue, rows: Rows, credit: str, pool: str) -> None:
    settings = ["algorithm.gamma=0.9", "estimator.information_weight=0.7", f"estimator.pool={pool}"]
    batch, metrics = to_advantages(make_trainer("algorithm=igpo", f"credit={credit}", *settings), queue.fill(rows))
    plays = plays_of(rows, queue)
    found = slow_igpo(plays, gamma=0.9, weight=0.7, pool=pool)
    for index, (key, row) in enumerate(rows.items()):
        turns = {turn: value for (other, turn), value in found.items() if other == index}
        assert queue.rows[key]["advantages"].tolist() == pytest.approx(expected_tokens(row, turns, 0.0), abs=2e-4)
    gains = slow_gains(plays, first_turn=True)
    assert metrics["estimator/information_gains"] == len(gains) > 6
    assert metrics["estimator/information_gain/mean"] == pytest.approx(sum(gains.values()) / len(gains), abs=1e-6)
    assert {"advantages", "returns", "token_weights"} <= set(batch.fields)
    assert "clip_scales" not in batch.fields


@pytest.mark.parametrize(("first_turn", "credit"), [("true", "uniform"), ("false", "aem")])
def test_a2tgpo_in_a_step(
    make_trainer: MakeTrainer, queue: LocalQueue, rows: Rows, credit: str, first_turn: str
) -> None:
    settings = [f"estimator.first_turn={first_turn}", "estimator.min_group_size=3", "algorithm.gamma=0.9"]
    batch, _ = to_advantages(make_trainer("algorithm=a2tgpo", f"credit={credit}", *settings), queue.fill(rows))
    plays = plays_of(rows, queue)
    normal = slow_turn_groups(plays, slow_gains(plays, first_turn=first_turn == "true"), min_group_size=3)
    to_come = slow_information(normal, gamma=0.9)
    for index, (key, row) in enumerate(rows.items()):
        group, tokens, _, outcome = plays[index]
        base = slow_grpo(outcome, [other for theirs, _, _, other in plays if theirs == group])
        advantages = {turn: base + 0.3 * to_come.get((index, turn), 0.0) for turn in range(len(tokens))}
        scales = {turn: 1 + 0.3 * math.tanh(normal.get((index, turn), 0.0) / 2) for turn in range(len(tokens))}
        stored = queue.rows[key]
        assert stored["advantages"].tolist() == pytest.approx(expected_tokens(row, advantages, 0.0), abs=2e-4)
        assert stored["clip_scales"].tolist() == pytest.approx(expected_tokens(row, scales, 1.0), abs=2e-4)
    assert "clip_scales" in batch.fields
    padding = [key for key, tag in zip(batch.keys, batch.tags, strict=True) if tag.get("is_padding")]
    assert all(queue.rows[key]["clip_scales"].tolist() == [1.0] for key in padding)


NEUTRAL = {
    "igpo": ["algorithm=igpo", "estimator.information_weight=0"],
    "a2tgpo": ["algorithm=a2tgpo", "estimator.alpha=0", "estimator.clip_beta=0"],
}


@pytest.mark.parametrize("by_std", ["true", "false"])
@pytest.mark.parametrize("name", METHODS)
def test_without_information_both_are_grpo_to_the_bit(
    make_trainer: MakeTrainer, queue: LocalQueue, rows: Rows, name: str, by_std: str
) -> None:
    found = {}
    for algorithm in (["algorithm=grpo"], NEUTRAL[name]):
        setting = f"algorithm.norm_adv_by_std_in_grpo={by_std}"
        to_advantages(make_trainer(*algorithm, setting, "credit=uniform"), queue.fill(rows))
        found[algorithm[0]] = {key: queue.rows[key]["advantages"] for key in rows}
    for key in rows:
        assert torch.equal(found["algorithm=grpo"][key], found[NEUTRAL[name][0]][key])
    assert any(float(row.abs().max()) > 0.5 for row in found["algorithm=grpo"].values())
    if name == "a2tgpo":
        assert all(bool((queue.rows[key]["clip_scales"] == 1.0).all()) for key in rows)


def test_the_neutral_setting_of_a2tgpo_needs_no_loss_of_its_own() -> None:
    loss = "actor_rollout_ref.actor.policy_loss.loss_mode=token_weighted"
    check_config(composed(*NEUTRAL["a2tgpo"], loss))
    with pytest.raises(ConfigurationError, match=r"loss_mode='token_weighted': has one clip range for all"):
        check_config(composed("algorithm=a2tgpo", loss))


@pytest.mark.parametrize("name", METHODS)
def test_order_and_other_prompts_do_not_matter(
    make_trainer: MakeTrainer, queue: LocalQueue, rows: Rows, name: str
) -> None:
    found = []
    for keys in (list(rows), list(rows)[::-1], [key for key in rows if key[0] == "a"]):
        queue.rows.clear()
        settings = [f"algorithm={name}", "credit=uniform", f"data.train_batch_size={len(keys)}"]
        to_advantages(make_trainer(*settings), queue.fill({key: rows[key] for key in keys}))
        found.append({key: queue.rows[key]["advantages"].tolist() for key in keys})
    for other in found[1:]:
        for key, values in other.items():
            assert found[0][key] == pytest.approx(values, abs=1e-4)


# Refusals


@pytest.mark.parametrize("name", METHODS)
def test_a_loop_without_probes_is_refused(make_trainer: MakeTrainer, queue: LocalQueue, rows: Rows, name: str) -> None:
    for row in rows.values():
        del row["probe_ids"]
    with pytest.raises(ConfigurationError, match=f"'{name}': needs the column probe_ids, which the agent loop"):
        to_advantages(make_trainer(f"algorithm={name}", "credit=uniform"), queue.fill(rows))


@pytest.mark.parametrize("name", METHODS)
def test_a_world_without_answers_is_refused_before_the_run(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    config = composed(f"algorithm={name}")
    check_config(config)
    monkeypatch.setattr(FrozenLake, "known_answer", lambda self: None)
    with pytest.raises(ConfigurationError, match="probes the policy for an answer, and there is none here") as caught:
        check_config(config)
    assert f"env.name='frozen_lake': algorithm={name}" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "shortest"), [("igpo", 2), ("a2tgpo", 3)])
def test_episodes_too_short_for_a_gain_are_refused(name: str, shortest: int) -> None:
    config = composed(f"algorithm={name}", f"env.max_turns={shortest}")
    check_config(config)
    config.env.max_turns = shortest - 1
    with pytest.raises(ConfigurationError, match=f"env.max_turns={shortest - 1}: .*Set it to at least {shortest}"):
        check_config(config)
    config.estimator.first_turn = True
    if name == "a2tgpo":
        check_config(config)


def test_the_probes_use_no_entropy_and_the_rollouts_temperature(
    make_trainer: MakeTrainer, queue: LocalQueue, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer("algorithm=igpo", "credit=uniform")
    seen = []
    run = trainer.actor_rollout_wg.compute_log_prob

    def record(batch: Any) -> Any:
        seen.append((batch.partition_id, dict(batch.extra_info)))
        return run(batch)

    monkeypatch.setattr(trainer.actor_rollout_wg, "compute_log_prob", record)
    trainer._compute_old_log_prob(trainer._balance_batch(queue.fill(rows), metrics={}), metrics={})
    (first, _), (second, info) = seen
    assert (first, second) == ("train", "answer_probes")
    assert (info["calculate_entropy"], info["compute_loss"], info["temperature"]) == (False, False, 0.9)


def test_the_defaults_of_the_files_pass_verls_own_dataclasses() -> None:
    config = composed("algorithm=a2tgpo")
    actor = config.actor_rollout_ref.actor
    assert (actor.clip_ratio_low, actor.clip_ratio_high) == (0.003, 0.004)
    assert (actor.loss_agg_mode, actor.policy_loss.loss_mode) == ("seq-mean-token-mean", "turn_ratio")
    assert OmegaConf.select(composed("algorithm=igpo"), "actor_rollout_ref.actor.clip_ratio_low") == 0.2
