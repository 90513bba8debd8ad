"""Two real steps in which agents of every framework play side by side, each in its own conversations."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.e2e.runs import Run
from tests.e2e.test_gateway import read, replayed
from tests.helpers.framework_agents import PACKAGES, installed
from tests.helpers.tool_policy import write_tool_run

pytestmark = [pytest.mark.e2e, pytest.mark.nightly, pytest.mark.timeout(1200)]

EACH, STEPS = 4, 2
FRAMEWORKS = installed()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """One task per framework in every step's batch."""
    folder = tmp_path_factory.mktemp("frameworks") / "run"
    folder.mkdir()
    write_tool_run(folder, rows=len(FRAMEWORKS))
    rows = [row | {"framework": name} for row, name in zip(read(folder / "rows.jsonl"), FRAMEWORKS, strict=True)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = [
        *("env", f"AGENT_NOTES={folder}/notes.jsonl", sys.executable, "-m", "actfocus_verl.train"),
        *("env=none", "agent=tests.helpers.framework_agents:play", f"run.dir={folder}/run", "platform=cpu"),
        *("agent.unfinished=mask", "agent.timeout=120", f"model.path={folder}/model"),
        *(f"data.train_files={folder}/rows.jsonl", f"data.val_files={folder}/rows.jsonl"),
        *(f"data.train_batch_size={len(rows)}", f"actor_rollout_ref.rollout.n={EACH}"),
        *("actor_rollout_ref.actor.optim.lr=1e-3", "data.max_prompt_length=256", "data.max_response_length=512"),
        *(f"actor_rollout_ref.actor.ppo_mini_batch_size={len(rows)}",),
        *(f"trainer.total_training_steps={STEPS}", "trainer.test_freq=-1", "trainer.val_before_train=false"),
        *("trainer.save_freq=-1", "run.rollouts_every=1", f"run.rollouts_a_step={len(rows) * EACH}"),
    ]
    started = Run(folder, command=command)
    yield started
    started.close()


@pytest.fixture(scope="module")
def finished(run: Run) -> Run:
    assert run.wait() == 0, run.terminal[-6000:]
    return run


@pytest.mark.parametrize("framework", PACKAGES)
def test_the_framework_trained(finished: Run, framework: str) -> None:
    """Its conversations of both steps ended with a reward, but for those in which the policy's call was no call."""
    if framework not in FRAMEWORKS:
        pytest.skip(f"{framework} is not installed (requirements/agents.txt)")
    notes = [note for note in read(finished.folder / "notes.jsonl") if note["framework"] == framework]
    assert EACH < len(notes) <= EACH * STEPS


def test_every_trained_token_has_the_log_prob_it_was_sampled_with(finished: Run) -> None:
    """verl compares what the engine sampled with with the actor's; the model's own replay has them, too."""
    folder = finished.folder / "run"
    steps = read(folder / "metrics.jsonl")
    assert [line["step"] for line in steps] == list(range(1, STEPS + 1))
    for line in steps:
        assert line["training/rollout_probs_diff_max"] < 1e-4
        assert line["response_tokens/environment"] > 0  # tools were called and answered
        assert line["credit/action_token_share"] > 0
    assert any(line["actor/grad_norm"] > 0 for line in steps)
    model = AutoModelForCausalLM.from_pretrained(finished.folder / "model", dtype=torch.float32)
    rows: list[dict[str, Any]] = read(folder / "rollouts" / "1.jsonl")
    for row in rows:
        sampled = [i for i, mask in enumerate(row["response_mask"]) if mask]
        flat = [value for values in replayed(model, row) for value in values]
        assert [row["old_log_probs"][i] for i in sampled] == pytest.approx(flat if sampled else [], abs=1e-4)
    conversations = Counter((row["group"], row["session"]) for row in rows)
    assert len(conversations) == len(FRAMEWORKS) * EACH
    assert any(sum(row["response_mask"]) for row in rows)
    if "smolagents" in FRAMEWORKS:
        assert max(conversations.values()) > 1  # it writes its history anew: a chain per step
