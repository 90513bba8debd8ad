"""The trainer mixin on verl's own trainer and engine: filter, padding, energy, weights, records. No Ray, no vLLM."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_module
from transformers import AutoModelForCausalLM
from verl.trainer.ppo.padding_utils import construct_minimal_padding_template
from verl.trainer.ppo.v1.trainer_base import get_trainer_cls
from verl.utils import tensordict_utils as tu

from actfocus_verl.credit.tokens import TokenRole
from actfocus_verl.errors import ConfigurationError
from actfocus_verl.integration.trainer import POLL_SECONDS, TokenCreditTrainerSync, episode_metrics, padded_columns
from actfocus_verl.train import VERL_CONFIG_VARIABLE, verl_config_folder
from tests.helpers.engines import make_rows
from tests.helpers.queue import LocalQueue

os.environ.setdefault(VERL_CONFIG_VARIABLE, str(verl_config_folder()))

EOS = 2
RETURNS = {"a": [1.0, 0.0, 0.0], "b": [0.5, 0.5, 0.4]}
"""Two groups of three episodes: their returns differ much, and little."""


class EngineWorkers:
    """verl's worker group as far as the two log-prob passes go: verl's engine over the queue's rows."""

    _dispatch_info = {"actor": [0]}

    def __init__(self, engine: Any, queue: LocalQueue) -> None:
        self.engine, self.queue = engine, queue

    def compute_log_prob(self, batch: Any) -> Any:
        names = ["input_ids", "position_ids", "prompts", "responses", "response_mask", "loss_mask"]
        columns = self.queue.kv_batch_get(batch.keys, batch.partition_id, names)
        worker_settings = {"use_remove_padding": False, "use_dynamic_bsz": False, "micro_batch_size_per_gpu": 2}
        data = tu.get_tensordict(dict(columns.items()), worker_settings | batch.extra_info)
        with self.engine.eval_mode():
            output = self.engine.infer_batch(data)["model_output"]
        return self.queue.kv_batch_put(batch.keys, batch.partition_id, tu.get_tensordict(output))

    compute_ref_log_prob = compute_log_prob


class Trainer(TokenCreditTrainerSync):
    """Ours, with its parts put in place instead of launched."""

    def _get_n_gpus_for_throughput(self) -> int:
        return 1


MakeTrainer = Callable[..., Trainer]


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> LocalQueue:
    queue = LocalQueue()
    queue.install(monkeypatch)
    return queue


@pytest.fixture
def make_trainer(engine: Any, queue: LocalQueue, tmp_path: Path) -> MakeTrainer:
    def make(*overrides: str) -> Trainer:
        settings = [
            f"run.dir={tmp_path}",
            *("run.rollouts_every=1", "run.rollouts_a_step=2"),
            *("data.train_batch_size=6", "actor_rollout_ref.rollout.n=1"),
            "actor_rollout_ref.actor.ppo_mini_batch_size=4",
            *("actor_rollout_ref.rollout.calculate_log_probs=false", "actor_rollout_ref.rollout.temperature=0.9"),
        ]
        with initialize_config_module("actfocus_verl_configs", version_base=None):
            config = compose("train", overrides=["platform=cpu", *settings, *overrides])
        trainer = Trainer(config)
        trainer.global_steps = 1
        trainer.ref_in_actor = False
        trainer.tokenizer = type("Tokenizer", (), {"eos_token_id": EOS})
        trainer.actor_rollout_wg = trainer.ref_policy_wg = EngineWorkers(engine, queue)
        return trainer

    return make


@pytest.fixture
def rows() -> dict[str, dict[str, Any]]:
    """Six episodes as the agent loop stores them, in the order in which they happened to finish."""
    generator = torch.Generator().manual_seed(7)
    columns = iter(make_rows(6, seed=5))
    rows = {}
    for group, returns in RETURNS.items():
        for session, value in enumerate(returns):
            row = {name: column for name, column in next(columns).items() if not name.endswith("_weights")}
            for name in ("old_log_probs", "ref_log_prob", "advantages"):
                del row[name]  # the trainer makes them
            roles = torch.randint(1, 4, row["responses"].shape, generator=generator) * row["response_mask"]
            scores = torch.zeros(len(row["responses"]))
            scores[-1] = value
            info = {"success": float(value == 1.0), "turns": 2.0, "valid_action_rate": 0.5, "stop_reason": "failure"}
            extra = {"texts": [], "reward_extra_info": info}
            rows[f"{group}_{session}_0"] = row | {
                "uid": group,
                "token_roles": roles,
                "turn_ids": torch.zeros_like(roles),
                "turn_rewards": torch.tensor([0.0, value]),
                "anchors": torch.tensor([1, 2]),
                "rm_scores": scores,
                "num_turns": 2,
                "extra_fields": extra,
            }
    return dict(sorted(rows.items(), key=lambda item: item[0][::-1]))


def to_advantages(trainer: Trainer, batch: Any) -> tuple[Any, dict[str, Any]]:
    """The steps of verl's `_step_once` from the sampled batch to the advantages."""
    metrics: dict[str, Any] = {}
    batch = trainer._balance_batch(batch, metrics=metrics)
    batch = trainer._compute_old_log_prob(batch, metrics=metrics)
    batch = trainer._compute_ref_log_prob(batch, metrics=metrics)
    return trainer._compute_advantage(batch, metrics=metrics), metrics


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
    phases = ("gen", "old_log_prob", "ref", "adv", "update_actor", "step")
    trainer._compute_metrics(batch, metrics, dict.fromkeys(phases, 1.0), global_steps=1, epoch=0)

    assert metrics["episode/success_rate"] == pytest.approx(1 / 6)  # without the padding rows
    line = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert line["step"] == 1
    assert line["stop/failure"] == 1.0
    first, second = (json.loads(line) for line in (tmp_path / "rollouts" / "1.jsonl").read_text().splitlines())
    assert (first["group"], first["session"], second["session"]) == ("a", 0, 1)
    assert len(first["token_weights"]) == len(first["energy"]) == len(first["responses"])
    assert first["return"] == 1.0


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
