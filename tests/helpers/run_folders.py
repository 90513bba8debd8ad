"""Run folders with episodes that were really played, written by the trainer's own log without a trainer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from actfocus_verl.credit.tokens import TokenRole
from actfocus_verl.environments.frozen_lake.rules import Board
from actfocus_verl.integration.agent_loop import ServerPolicy, to_output
from actfocus_verl.integration.run_log import RunLog
from actfocus_verl.rollout import ChatCodec
from tests.helpers.episodes import ListPolicy, dry_lake, play
from tests.helpers.queue import LocalQueue
from tests.helpers.tokenizer import build_tokenizer

HOSTILE = (
    "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'><!-- "
    "<svg onload=window.hacked=1> ${1} {{style}} &lt;b&gt; \u2028 \u202e 🦙 é \x00"
)
REPLIES = {
    "right": ["<think> The goal is right of me. </think> <answer> Right </answer><|im_end|>"],
    "two": ["<think> Row 0, column 0: two steps at once. </think>\n<answer> Right || Right </answer><|im_end|>"],
    "stuck": ["<think> I am at row 0. </think> <answer> Up </answer><|im_end|>"],
    "hostile": [f"<think> {HOSTILE} </think> <answer> Right </answer><|im_end|>", f"{HOSTILE}<|im_end|>"],
}
BOARDS = (Board(size=4, start=0, goal=3, holes=0), Board(size=4, start=4, goal=7, holes=1 << 1))
STEPS = (5, 10)


def write_run(folder: Path, *, alpha: float = 0.1, seed: int = 0) -> Path:
    """A finished run of 10 steps: episodes of every kind in REPLIES on both boards, logged at steps 5 and 10."""
    config = {
        "run": {"dir": str(folder), "rollouts_a_step": 100, "rollouts_every": 5, "seed": seed},
        "env": {"name": "frozen_lake", "preset": "clean", "seed": seed},
        "algorithm_name": "grpo",
        "credit": {"name": "actfocus", "alpha": alpha, "beta": 0.5},
        "trainer": {"val_before_train": True},
        "actor_rollout_ref": {"rollout": {"val_kwargs": {"temperature": 0.5}}},
    }
    folder.mkdir(parents=True)
    OmegaConf.save(config, folder / "config.yaml")
    (folder / "run.json").write_text(json.dumps({"exit_reason": "finished", "commit": "0123abc"}), encoding="utf-8")
    log = RunLog(OmegaConf.create(config))
    random = np.random.default_rng(seed)
    with pytest.MonkeyPatch.context() as patches:
        queue = LocalQueue()
        queue.install(patches)
        for step in range(1, 11):
            log.metrics(_metrics(step, alpha, random), step)
            if step in STEPS:
                _log_episodes(log, queue, step, random)
    for step, successes in ((0, 2), (5, 3), (10, 6)):
        infos = {name: [1.0] * successes + [0.0] * (8 - successes) for name in ("success", "reward")}
        infos["valid_action_rate"] = [0.75] * 8
        log.evaluations(["frozen_lake/clean/evaluation"] * 8, [str(i) for i in range(8)], infos, step)
    return folder


def multiply(folder: Path, count: int) -> None:
    """Repeat a run's sampled episodes, 50 a step, until there are `count`; each has its number as return."""
    files = sorted((folder / "rollouts").glob("*.jsonl"))
    records = [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    for file in files:
        file.unlink()
    for first in range(0, count, 50):
        step = 10 + first // 10
        chosen = [
            records[number % len(records)] | {"step": step, "return": number, "group": str(number)}
            for number in range(first, first + 50)
        ]
        text = "".join(json.dumps(record) + "\n" for record in chosen)
        (folder / "rollouts" / f"{step}.jsonl").write_text(text, encoding="utf-8")


def _metrics(step: int, alpha: float, random: np.random.Generator) -> dict[str, Any]:
    noise = float(random.normal(0, 0.02))
    lengths = {"environment": 60.0, "reasoning": 55.0 - step * (1 - alpha), "action": 4.0, "format": 12.0}
    weights = {"reasoning": alpha * 2.9, "action": 3.7 + noise, "format": 2.9}
    return {
        "episode/success_rate": 0.3 + 0.04 * step + noise,
        "episode/valid_action_rate": 0.9 + noise,
        "critic/score/mean": 0.2 + 0.05 * step,
        "stop/success": 0.5,
        "stop/failure": 0.5,
        "actor/entropy": 0.2 - 0.01 * step * (1 - alpha / 2),
        "actor/kl_loss": 0.003 * step * (1 + alpha),
        "actor/grad_norm": float("nan") if step == 3 else 0.2 + noise,
        "timing_s/step": 11.0,
        **{f"response_tokens/{role}": value for role, value in lengths.items()},
        **{f"credit/mean_weight/{role}": value for role, value in weights.items()},
        **{f"credit/energy/action/p{p}": -14.0 + p / 20 + noise for p in (10, 50, 90)},
    }


def _log_episodes(log: RunLog, queue: LocalQueue, step: int, random: np.random.Generator) -> None:
    tokenizer = build_tokenizer()
    codec = ChatCodec(tokenizer)
    rows = {}
    for group, replies in enumerate(REPLIES.values()):
        for session, board in enumerate(BOARDS):
            policy = ListPolicy([tokenizer.encode(reply) for reply in replies], log_probs=False)
            world = dry_lake(board)
            trajectory = play(world, codec, policy)
            row = to_output(trajectory, ServerPolicy(None, {}), world.stratum()).as_dict()
            rows[f"board{group}_{session}_{step}"] = row | _credit(row["token_roles"], random)
    log.rollouts(queue.fill(rows), list(rows), step, tokenizer)


def _credit(roles: torch.Tensor, random: np.random.Generator) -> dict[str, torch.Tensor]:
    """Made-up energies and advantages on the sampled tokens, and weights of ActFocus' form."""
    sampled = (roles != TokenRole.ENVIRONMENT).float()
    energy = torch.tensor(random.uniform(-15, -9, len(roles)), dtype=torch.float32) * sampled
    weights = torch.where(roles == TokenRole.ACTION, 1 + 0.5 * torch.sigmoid(energy + 12), 0.1) * sampled
    advantages = torch.full((len(roles),), float(random.normal())) * sampled
    return {"token_weights": weights, "energy": energy, "advantages": advantages}
