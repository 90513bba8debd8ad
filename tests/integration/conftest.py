"""A tiny model, a process group of one, and verl's engine on both; our trainer over them, with six episodes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.config.conftest import compose_config
from tests.helpers import engines
from tests.helpers.queue import LocalQueue
from tests.helpers.tokenizer import build_tokenizer
from tests.helpers.trainer import EngineWorkers, MakeTrainer, Trainer

RETURNS = {"a": [1.0, 0.0, 0.0], "b": [0.5, 0.5, 0.4]}
"""Two groups of three episodes: their returns differ much, and little."""


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return engines.save_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with engines.process_group(tmp_path_factory.mktemp("group")):
        yield


@pytest.fixture(scope="module")
def engine(group: None, model_folder: Path) -> Any:
    """Actor or reference: verl's registered FSDP2 engine on this platform."""
    return engines.build_engine(model_folder)


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> LocalQueue:
    queue = LocalQueue()
    queue.install(monkeypatch)
    return queue


@pytest.fixture
def make_trainer(engine: Any, queue: LocalQueue, tmp_path: Path) -> MakeTrainer:
    def make(*overrides: str) -> Trainer:
        settings = [
            *("run.rollouts_every=1", "run.rollouts_a_step=2"),
            *("data.train_batch_size=6", "actor_rollout_ref.rollout.n=1"),
            "actor_rollout_ref.actor.ppo_mini_batch_size=4",
            *("actor_rollout_ref.rollout.calculate_log_probs=false", "actor_rollout_ref.rollout.temperature=0.9"),
        ]
        config = compose_config("platform=cpu", *settings, *overrides)
        config.run.dir = str(tmp_path)  # not on the command line, whose composition is kept for the next test
        trainer = Trainer(config)
        trainer.global_steps = 1
        trainer.ref_in_actor = False
        trainer.tokenizer = build_tokenizer(vocab_size=engines.VOCABULARY)
        trainer.actor_rollout_wg = trainer.ref_policy_wg = EngineWorkers(engine, queue)
        return trainer

    return make


@pytest.fixture
def rows() -> dict[str, dict[str, Any]]:
    """Six episodes as the agent loop stores them, in the order in which they happened to finish."""
    generator = torch.Generator().manual_seed(7)
    columns = iter(engines.make_rows(6, seed=5))
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
            extra = {"texts": [], "final_state": "S", "stratum": 3, "reward_extra_info": info}
            rows[f"{group}_{session}_0"] = row | {
                "uid": group,
                "token_roles": roles,
                "turn_ids": torch.where(roles > 0, (torch.arange(len(roles)) >= 3).long(), -1),
                "turn_rewards": torch.tensor([0.0, value]),
                "anchors": torch.tensor([1, 2]),
                "states": torch.tensor([1, 2]),
                "replayed": torch.tensor([0, 0]),
                "rm_scores": scores,
                "num_turns": 2,
                "extra_fields": extra,
            }
    return dict(sorted(rows.items(), key=lambda item: item[0][::-1]))
