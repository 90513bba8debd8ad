"""verl's own command, agent loop and dataset with a function tool: two real steps with the lines that add ActFocus."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from transformers import AutoTokenizer

from tests.e2e.runs import ROOT, Run
from tests.helpers.tool_policy import ADDED, write_tool_run

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]


def command(folder: Path) -> list[str]:
    """A run of verl's tool agent, and what this test adds: the lines above, the CPU, and the records it looks at."""
    rollout = "actor_rollout_ref.rollout"
    return [
        *(sys.executable, "-m", "verl.trainer.main_ppo"),
        *(f"data.train_files={folder}/rows.jsonl", f"data.val_files={folder}/rows.jsonl"),
        *("data.train_batch_size=4", "data.max_prompt_length=64", "data.max_response_length=160"),
        *("data.dataloader_num_workers=0", "data.filter_overlong_prompts=false"),
        *("algorithm.adv_estimator=grpo", "actor_rollout_ref.actor.ppo_mini_batch_size=4"),
        *(f"actor_rollout_ref.model.path={folder}/model", "actor_rollout_ref.actor.optim.lr=1e-3"),
        *(f"{rollout}.name=vllm", f"{rollout}.n=4", f"{rollout}.calculate_log_probs=true"),
        f"{rollout}.agent.default_agent_loop=tool_agent",
        f"{rollout}.multi_turn.function_tool_path={folder}/tools.py",
        f"reward.custom_reward_function.path={folder}/reward.py",
        *("trainer.total_training_steps=2", "trainer.save_freq=-1", "trainer.test_freq=-1"),
        *("trainer.val_before_train=false", "trainer.logger=[console]", f"trainer.default_local_dir={folder}"),
        *ADDED,
        "+platform=cpu",
        *(f"+run.dir={folder}", "+run.rollouts_a_step=16", "+run.rollouts_every=1"),
    ]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    folder = tmp_path / "tools"
    folder.mkdir()
    write_tool_run(folder)
    platform = OmegaConf.load(ROOT / "configs" / "platform" / "cpu.yaml").platform.env_vars
    started = Run(folder, command=["env", *(f"{key}={value}" for key, value in platform.items()), *command(folder)])
    yield started
    started.close()


def slow_roles(tokenizer: Any, ids: list[int], mask: list[int]) -> list[set[int]]:
    """The roles each token may have, from the tokens' own texts: what the environment said, calls, and the rest."""
    allowed: list[set[int]] = []
    for chunk in re.finditer("0+|1+", "".join(map(str, mask))):
        words = [tokenizer.decode([i]) for i in ids[chunk.start() : chunk.end()]]
        if chunk[0][0] == "0":
            allowed += [{0}] * len(words)
            continue
        text = "".join(words)
        inside = [at for call in re.finditer("(?s)<tool_call>(.*?)</tool_call>", text) for at in range(*call.span(1))]
        place = 0
        for word in words:
            acts = bool(set(range(place, place + len(word))) & set(inside))
            allowed.append({2} if acts else {1, 3})
            place += len(word)
    return allowed


def test_two_steps_of_verls_own_command(run: Run) -> None:
    assert run.wait() == 0, run.terminal[-6000:]
    steps = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in steps] == [1, 2]
    for line in steps:
        assert abs(line["rollout_corr/kl"]) < 1e-3
        assert 0 < line["credit/action_token_share"] < 1
        assert line["credit/mean_weight/action"] > 4 * line["credit/mean_weight/reasoning"]
        assert line["response_tokens/environment"] > 0  # the tool was called and answered
        assert line["training/num_turns/max"] > 2
    assert any(line["actor/grad_norm"] > 0 for line in steps)

    tokenizer = AutoTokenizer.from_pretrained(run.folder / "model")
    for step in (1, 2):
        rows = [json.loads(line) for line in (run.folder / "rollouts" / f"{step}.jsonl").read_text().splitlines()]
        assert len(rows) == 16
        for row in rows:
            allowed = slow_roles(tokenizer, row["responses"], row["response_mask"])
            assert all(role in roles for role, roles in zip(row["token_roles"], allowed, strict=True))
            assert [weight > 0 for weight in row["token_weights"]] == [bool(m) for m in row["response_mask"]]
            assert max(row["turn_ids"]) + 1 == len(re.findall("1+", "".join(map(str, row["response_mask"]))))
