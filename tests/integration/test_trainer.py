"""The trainer mixin on verl's own trainer and engine: filter, padding, energy, weights, records. No Ray, no vLLM."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
from transformers import AutoModelForCausalLM
from verl.trainer.ppo.padding_utils import construct_minimal_padding_template
from verl.trainer.ppo.v1.trainer_base import get_trainer_cls

from actfocus_verl.credit.early_stop import REASON
from actfocus_verl.credit.tokens import TokenRole
from actfocus_verl.errors import ConfigurationError
from actfocus_verl.integration.columns import padded_columns
from actfocus_verl.integration.trainer import POLL_SECONDS, TokenCreditTrainerSync, episode_metrics
from tests.helpers.queue import LocalQueue
from tests.helpers.trainer import EOS, SECONDS, MakeTrainer, to_advantages


def slow_energies(folder: Path, row: dict[str, Any]) -> list[float]:
    """Energy of each response token: of the logits one position before it."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        logits = model(row["input_ids"].unsqueeze(0)).logits[0].double()
    first = len(row["prompts"]) - 1
    return [-math.log(float(logits[first + t].exp().sum())) for t in range(len(row["responses"]))]


def slow_weights(rows: dict[str, Any], folder: Path, *, alpha: float, beta: float) -> dict[str, list[float]]:
    """Eq. 5 and the normalisation with loops over Python floats."""
    energies = {key: slow_energies(folder, row) for key, row in rows.items()}
    action = [
        energy
        for key, row in rows.items()
        for energy, role in zip(energies[key], row["token_roles"].tolist(), strict=True)
        if role == TokenRole.ACTION
    ]
    mean = sum(action) / len(action)
    sigma = math.sqrt(sum((energy - mean) ** 2 for energy in action) / len(action) + 1e-8)
    raw = {
        key: [
            {0: 0.0, 1: alpha, 2: 1 + beta / (1 + math.exp(-(energy - mean) / sigma)), 3: alpha}[role]
            for energy, role in zip(energies[key], row["token_roles"].tolist(), strict=True)
        ]
        for key, row in rows.items()
    }
    scale = sum(int(row["response_mask"].sum()) for row in rows.values()) / sum(map(sum, raw.values()))
    return {key: [weight * scale for weight in weights] for key, weights in raw.items()}


def test_it_is_registered_for_plain_verl() -> None:
    assert get_trainer_cls("actfocus_sync") is TokenCreditTrainerSync


def test_verl_sees_its_own_mode_and_its_own_synchronous_buffer(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer()
    assert trainer.trainer_mode == "sync"
    assert type(trainer.replay_buffer).__name__ == "ReplayBuffer"
    assert trainer.replay_buffer.poll_interval == POLL_SECONDS


def test_a_step_without_any_episode_says_why_one_failed(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """verl's buffer ends such a step before the trainer sees a batch."""
    trainer = make_trainer()
    buffer = trainer.replay_buffer
    groups = ["a", "b"]
    monkeypatch.setattr(buffer, "_sync_metadata_from_transfer_queue", lambda: None)
    monkeypatch.setattr(buffer, "_sampleable_terminal_keys", lambda *_: set(groups))
    monkeypatch.setattr(buffer, "_select_prompt_uids", lambda *_: (groups, {}, {}))
    with pytest.raises(RuntimeError, match=r"no materializable trajectories.*groups\.$"):
        buffer.sample(global_steps=1, partition_id="train", batch_size=2)
    trainer.run_log.folder = tmp_path
    (tmp_path / "failed_episodes.jsonl").write_text('{"error": "ActorDiedError: vLLMHttpServer"}\n')
    with pytest.raises(RuntimeError, match=r"no materializable.*The last episode that failed: ActorDiedError: vLLM"):
        buffer.sample(global_steps=1, partition_id="train", batch_size=2)


def test_a_step_weights_the_real_rows_by_the_energy_of_the_reference(
    make_trainer: MakeTrainer, queue: LocalQueue, rows: dict[str, Any], model_folder: Path
) -> None:
    batch = queue.fill(rows)
    batch, metrics = to_advantages(make_trainer("credit=actfocus", "credit.alpha=0.2", "credit.beta=0.7"), batch)

    assert "token_weights" in batch.fields  # the actor fetches named fields only
    expected = slow_weights(rows, model_folder, alpha=0.2, beta=0.7)
    for key, weights in expected.items():
        torch.testing.assert_close(queue.rows[key]["token_weights"], torch.tensor(weights), rtol=0, atol=1e-5)
    padding = [key for key, tag in zip(batch.keys, batch.tags, strict=True) if tag.get("is_padding")]
    assert len(padding) == 2  # verl fills six rows up to two mini-batches of four
    assert all(queue.rows[key]["token_weights"].tolist() == [0.0] for key in padding)
    assert metrics["credit/action_token_share"] > 0
    assert not batch.extra_info.get("calculate_energy")


def test_advantages_stay_verls_own(make_trainer: MakeTrainer, queue: LocalQueue, rows: dict[str, Any]) -> None:
    found = {}
    for credit in ("actfocus", "uniform"):
        to_advantages(make_trainer(f"credit={credit}"), queue.fill(rows))
        found[credit] = {key: queue.rows[key]["advantages"] for key in rows}
    # group a: returns 1, 0, 0 have mean 1/3 and standard deviation 1/sqrt(3): (2/3) sqrt(3) = 1.1547
    assert float(found["actfocus"]["a_0_0"][0]) == pytest.approx(1.1547, abs=1e-4)
    for key in rows:
        assert torch.equal(found["actfocus"][key], found["uniform"][key])


def test_without_need_the_reference_pass_computes_no_energy(
    make_trainer: MakeTrainer, queue: LocalQueue, rows: dict[str, Any]
) -> None:
    to_advantages(make_trainer("credit=uniform"), queue.fill(rows))
    assert all("energy" not in row for row in queue.rows.values())
    for key, row in rows.items():
        assert queue.rows[key]["token_weights"].tolist() == row["response_mask"].tolist()


def test_mini_batch_normalisation_has_mean_one_in_each(
    make_trainer: MakeTrainer, queue: LocalQueue, rows: dict[str, Any]
) -> None:
    batch, _ = to_advantages(make_trainer("credit=actfocus", "credit.normalize=mini_batch"), queue.fill(rows))
    for start in (0, 4):
        members = [queue.rows[key] for key in batch.keys[start : start + 4]]
        total = sum(float(row["token_weights"].sum()) for row in members)
        assert total == pytest.approx(sum(int(row["response_mask"].sum()) for row in members), rel=1e-5)


def test_filtered_groups_are_gone_before_anything_is_computed(
    make_trainer: MakeTrainer, queue: LocalQueue, rows: dict[str, Any]
) -> None:
    trainer = make_trainer("credit=uniform", "filter=reward_variance", "filter.ratio=0.5")
    metrics: dict[str, Any] = {}
    batch = trainer._balance_batch(queue.fill(rows), metrics=metrics)

    assert sorted(key for key in batch.keys if not key.startswith("pad")) == ["a_0_0", "a_1_0", "a_2_0"]
    assert len(batch.keys) == 4
    assert not any(key.startswith("b") for key in queue.rows)
    assert (metrics["filter/kept_groups"], metrics["filter/dropped_groups"]) == (1.0, 1.0)
    assert metrics["episode/success_rate"] == pytest.approx(1 / 6)  # of all six episodes, and not 1/3 of those kept


def test_an_energy_credit_without_a_reference_is_refused(make_trainer: MakeTrainer) -> None:
    with pytest.raises(ConfigurationError, match=r"no reference is configured.*use_kl_loss=true.*kl_loss_coef=0"):
        make_trainer("credit=actfocus", "actor_rollout_ref.actor.use_kl_loss=false")


def test_a_step_is_recorded(make_trainer: MakeTrainer, queue: LocalQueue, rows: dict[str, Any], tmp_path: Path) -> None:
    trainer = make_trainer("credit=actfocus")
    batch, metrics = to_advantages(trainer, queue.fill(rows))
    trainer._note_played(batch, metrics)
    trainer._compute_metrics(batch, metrics, SECONDS, global_steps=1, epoch=0)

    assert metrics["episode/success_rate"] == pytest.approx(1 / 6)  # without the padding rows
    line = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert line["step"] == 1
    assert line["stop/failure"] == 1.0
    first, second = (json.loads(line) for line in (tmp_path / "rollouts" / "1.jsonl").read_text().splitlines())
    assert (first["group"], first["session"], second["session"]) == ("a", 0, 1)
    assert len(first["token_weights"]) == len(first["energy"]) == len(first["responses"])
    assert first["return"] == 1.0
    assert len(first["token_texts"]) == len(first["responses"])
    assert "".join(first["token_texts"]) == trainer.tokenizer.decode(first["responses"])
    assert first["prompt_text"] == trainer.tokenizer.decode(first["prompt_ids"])
    assert (first["final_state"], first["stratum"]) == ("S", 3)


def test_a_rule_that_holds_makes_the_next_step_the_last(
    make_trainer: MakeTrainer, queue: LocalQueue, rows: dict[str, Any], tmp_path: Path
) -> None:
    trainer = make_trainer("credit=actfocus", "early_stop.success_below=0.5", "early_stop.evaluations=1")
    batch, metrics = to_advantages(trainer, queue.fill(rows))
    trainer.total_training_steps = 50
    trainer._compute_metrics(batch, dict(metrics), SECONDS, global_steps=1, epoch=0)
    assert trainer.total_training_steps == 50
    trainer.run_log.history.add_evaluations([{"step": 1, "successes": 1, "episodes": 4}])
    for step, last in ((2, 3), (3, 3)):  # the last step changes nothing
        trainer._compute_metrics(batch, dict(metrics), SECONDS, global_steps=step, epoch=0)
        assert trainer.total_training_steps == last
    reasons = [json.loads(line).get(REASON) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert reasons == [None, "success was below 0.5 in 1 evaluations in a row", None]
    assert REASON not in metrics


@pytest.mark.parametrize(
    ("frequency", "step", "last", "evaluated"), [(2, 2, 9, True), (2, 3, 9, False), (2, 3, 3, True), (-1, 3, 3, False)]
)
def test_a_kill_between_checkpoint_and_record_loses_neither_step_nor_evaluation(
    make_trainer: MakeTrainer,
    queue: LocalQueue,
    rows: dict[str, Any],
    frequency: int,
    step: int,
    last: int,
    evaluated: bool,
) -> None:
    options = (f"trainer.test_freq={frequency}", "trainer.val_before_train=false")
    killed = make_trainer(*options)
    killed.global_steps = step
    batch, metrics = to_advantages(killed, queue.fill(rows))
    killed._note_played(batch, metrics)  # then verl saves, and evaluates, and is killed

    resumed = make_trainer(*options)
    resumed.global_steps, resumed.total_training_steps = step, last
    resumed.checkpoint_manager = MagicMock()
    resumed.on_init_end()
    assert resumed.config.trainer.val_before_train is evaluated
    assert resumed.run_log.evaluates_first is evaluated
    (line,) = map(json.loads, (resumed.run_log.folder / "metrics.jsonl").read_text().splitlines())
    assert line["step"] == step
    assert line["episode/success_rate"] == metrics["episode/success_rate"]
    assert (resumed.run_log.folder / "rollouts" / f"{step}.jsonl").exists()


def test_padded_columns_cut_a_padding_row_to_its_response(rows: dict[str, Any]) -> None:
    source = dict(rows["a_0_0"])
    padding, _ = construct_minimal_padding_template(source, {}, EOS)
    assert len(padding["token_roles"]) == len(source["responses"]) > len(padding["responses"]) == 1

    queue = LocalQueue()
    batch = queue.fill({"a_0_0": source, "pad_0_0": padding})
    columns = padded_columns(queue.kv_batch_get(batch.keys, "train", ["token_roles", "response_mask", "extra_fields"]))

    length = len(source["responses"])
    assert set(columns) == {"token_roles", "response_mask"}
    assert columns["token_roles"].shape == columns["response_mask"].shape == (2, length)
    assert columns["token_roles"][0].tolist() == source["token_roles"].tolist()
    assert columns["token_roles"][1].tolist() == [int(source["token_roles"][0])] + [0] * (length - 1)
    assert columns["response_mask"][1].tolist() == [0] * length


def test_episode_metrics_by_hand() -> None:
    def episode(success: float, turns: float, valid: float, stop: str) -> dict[str, Any]:
        info = {"success": success, "turns": turns, "valid_action_rate": valid, "stop_reason": stop}
        info["outcome/score"] = turns / 4
        return {"reward_extra_info": info}

    episodes = [
        episode(1.0, 2.0, 1.0, "success"),
        episode(0.0, 4.0, 0.5, "max_turns"),
        episode(0.0, 3.0, 0.0, "failure"),
        episode(0.0, 3.0, 0.5, "failure"),
    ]
    roles = torch.nested.as_nested_tensor(
        [torch.tensor([1, 1, 2, 3]), torch.tensor([0, 1]), torch.tensor([2]), torch.tensor([0, 3, 3])],
        layout=torch.jagged,
    )
    assert episode_metrics(episodes, roles) == {
        "episode/success_rate": 0.25,
        "episode/turns": 3.0,
        "episode/valid_action_rate": 0.5,
        "episode/outcome/score": 0.75,
        "stop/failure": 0.5,
        "stop/max_turns": 0.25,
        "stop/success": 0.25,
        "response_tokens/environment": 0.5,
        "response_tokens/reasoning": 0.75,
        "response_tokens/action": 0.5,
        "response_tokens/format": 0.75,
    }
