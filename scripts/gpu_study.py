"""Token weightings on a pretrained policy, trained with torch and transformers alone: for a GPU without verl and vLLM.

python scripts/gpu_study.py run model=<folder> out=<folder> [minutes=6] [device=cuda] [study=recipes/gpu_study.yaml]
python scripts/gpu_study.py table out=<folder>

`run` trains every arm and seed of the study in a process of its own, side by side. Worlds, episodes, token roles and
weights are the package's; the trainer is not verl's: GRPO with one on-policy update a step (a PPO ratio of 1, so
nothing is clipped) and replies sampled by transformers. What it finds is therefore marked as such. `minutes` ends a run
after the step in progress. `table` compares the arms at the last evaluation that all runs reached.
"""

from __future__ import annotations

import asyncio
import json
import math
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import yaml

from actfocus_verl.arguments import read_options
from actfocus_verl.columns import GROUP_IDS
from actfocus_verl.credit.registry import WeightingSpec, build_weighting
from actfocus_verl.credit.signals import ENERGY, LOGIT_SIGNALS
from actfocus_verl.credit.token_weights import compute_token_credit
from actfocus_verl.credit.tokens import RESPONSE_ROLES
from actfocus_verl.environments import make_world, world_config
from actfocus_verl.environments.splits import stable_hash
from actfocus_verl.evaluation.models import load_policy, read_model
from actfocus_verl.evaluation.sampling import SeededPolicy
from actfocus_verl.evaluation.transformers_engine import TransformersSampler
from actfocus_verl.files import write_json
from actfocus_verl.reporting.statistics import mean_interval, wilson_interval
from actfocus_verl.rollout import ChatCodec, Episode, Trajectory
from actfocus_verl.truth.gradients import passes
from actfocus_verl.truth.methods import group_advantages
from actfocus_verl.truth.segments import episode_segments
from actfocus_verl.truth.steps import MeasuredStep, measured_step, response_logits

ROOT: Final = Path(__file__).resolve().parents[1]
STUDY: Final = ROOT / "recipes" / "gpu_study.yaml"
PASS_TOKENS: Final = {"cuda": 4096, "cpu": 2048}
"""Tokens of prompt and response in a forward and backward pass."""
ROWS: Final = 128
"""Episodes sampled at once: the key-value caches of all runs share one GPU."""

Json = dict[str, Any]


@dataclass(frozen=True)
class Boards:
    """Episodes of a study: which boards, and how they are sampled."""

    env: str
    world: Mapping[str, Any]
    codec: ChatCodec
    positions: int

    async def play(
        self, sampler: TransformersSampler, split: str, boards: Sequence[int], names: Sequence[str]
    ) -> list[Trajectory]:
        """An episode on each board; its randomness and its sampling follow from its name."""

        async def one(board: int, name: str) -> Trajectory:
            seed = stable_hash(name)
            options = {"split": split, "index": board, "episode_seed": seed, **self.world}
            episode = Episode(make_world(self.env, **options), self.codec, max_context_tokens=self.positions)
            return await episode.play(SeededPolicy(sampler, episode, seed))

        return list(await asyncio.gather(*(one(*each) for each in zip(boards, names, strict=True))))


class Run:
    """One arm with one seed: trains, evaluates now and then, and keeps its figures in a file."""

    def __init__(self, study: Json, arm: str, seed: int, model: str, device: str, file: Path) -> None:
        self._study, self._seed, self._file = study, seed, file
        self._device = torch.device(device)
        self._pass_tokens = PASS_TOKENS[self._device.type]
        self._spec: WeightingSpec = build_weighting(study["arms"][arm])
        self._policy = load_policy(model, device)
        self._reference = load_policy(model, device).requires_grad_(False)
        # Replies are sampled in bfloat16 on a GPU, as vLLM does; the update is of the float32 weights.
        self._sampled = self._policy if device == "cpu" else load_policy(model, device).to(torch.bfloat16)
        limits = world_config(study["env"], **study["world"]).limits()
        files = read_model(model, None, limits.opening)
        self._boards = Boards(study["env"], study["world"], files.codec, min(4096, files.positions or 4096))
        self._optimizer = torch.optim.AdamW(
            self._policy.parameters(), lr=float(study["learning_rate"]), betas=(0.9, 0.999), weight_decay=0.0
        )
        self._found: Json = {"arm": arm, "seed": seed, "steps": [], "evaluations": []}

    def train(self, until: float) -> None:
        """All steps of the study, or as many as begin before the clock shows `until`."""
        self._evaluate(0)
        for step in range(1, int(self._study["steps"]) + 1):
            if time.monotonic() > until:
                break
            self._found["steps"].append(self._step(step))
            if step % int(self._study["evaluate_every"]) == 0:
                self._evaluate(step)
            write_json(self._file, self._found)
        write_json(self._file, {**self._found, "ended": True})

    def _sampler(self, temperature: float) -> TransformersSampler:
        if self._sampled is not self._policy:
            with torch.no_grad():
                for copy, parameter in zip(self._sampled.parameters(), self._policy.parameters(), strict=True):
                    copy.copy_(parameter)
        end = self._boards.codec.end_of_turn_id
        return TransformersSampler(self._sampled, temperature=temperature, end_of_turn_id=end, rows=ROWS)

    def _step(self, step: int) -> Json:
        started, study = time.monotonic(), self._study
        groups, episodes = int(study["groups"]), int(study["episodes"])
        first = (self._seed * int(study["steps"]) + step - 1) * groups
        boards = [first + group for group in range(groups) for _ in range(episodes)]
        names = [f"gpu_study/{self._seed}/{step}/{group}/{each}" for group in range(groups) for each in range(episodes)]
        sampler = self._sampler(float(study["temperature"]))
        trajectories = asyncio.run(self._boards.play(sampler, "train", boards, names))
        sampled = time.monotonic()
        segments = [episode_segments(self._boards.codec, each.replies) for each in trajectories]
        data = measured_step(trajectories, boards, segments, [], max_context_tokens=self._boards.positions)
        credit, weights = self._credit(data, step)
        norm = self._update(data, credit)
        return {
            "step": step,
            "success": float(np.mean([each.success for each in trajectories])),
            "return": float(data.returns.mean()),
            "valid_turns": sum(each.valid_turns for each in trajectories) / sum(each.turns for each in trajectories),
            "response_tokens": float(data.columns["response_mask"].sum()) / len(trajectories),
            "weights": weights,
            "gradient_norm": norm,
            "seconds": {"sampling": sampled - started, "update": time.monotonic() - sampled},
        }

    def _credit(self, step: MeasuredStep, number: int) -> tuple[torch.Tensor, Json]:
        """(B, T): GRPO's advantage times the weight of each sampled token; and the mean weight of each role."""
        columns = dict(step.columns)
        mask = columns["response_mask"]
        columns["advantages"] = group_advantages(step.returns[:, None], columns[GROUP_IDS], by_std=True) * mask
        if ENERGY in self._spec.required_columns:
            columns[ENERGY] = self._energy(step)
        weights = compute_token_credit(columns, self._spec, placebo_seed=(self._seed, number)).weights
        roles = columns["token_roles"]
        means = {
            role.name.lower(): float(weights[(roles == role) & (mask > 0)].mean())
            for role in RESPONSE_ROLES
            if bool(((roles == role) & (mask > 0)).any())
        }
        return torch.where(step.segments >= 0, weights * columns["advantages"], 0.0), means

    @torch.no_grad()
    def _energy(self, step: MeasuredStep) -> torch.Tensor:
        energy = torch.zeros(step.segments.shape)
        for rows in passes(step, range(len(step.prompts)), self._pass_tokens):
            with self._autocast():
                _, logits = response_logits(self._reference, step, rows)
            for row, of_row in zip(rows, logits, strict=True):
                length = step.lengths[row]
                energy[row, :length] = LOGIT_SIGNALS[ENERGY](of_row[:length].float()).cpu()
        return energy

    def _update(self, step: MeasuredStep, credit: torch.Tensor) -> float:
        tokens = int((step.segments >= 0).sum())
        self._optimizer.zero_grad(set_to_none=True)
        useful = [row for row in range(len(step.prompts)) if bool(credit[row].any())]
        for rows in passes(step, useful, self._pass_tokens):
            with self._autocast():
                ids, logits = response_logits(self._policy, step, rows)
            scaled = logits.float() / float(self._study["temperature"])
            log_probs = scaled.log_softmax(dim=-1).gather(2, ids[..., None])[..., 0]
            of_rows = credit[rows, : log_probs.shape[1]].to(log_probs)
            loss = -torch.where(of_rows != 0, of_rows * log_probs, 0.0).sum() / tokens
            loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self._policy.parameters(), 1.0)
        self._optimizer.step()
        return float(norm)

    def _autocast(self) -> Any:
        return torch.autocast(self._device.type, torch.bfloat16, enabled=self._device.type == "cuda")

    def _evaluate(self, step: int) -> None:
        wanted = self._study["evaluation"]
        boards = list(range(int(wanted["boards"])))
        names = [f"gpu_study/evaluation/{wanted['seed']}/{board}" for board in boards]
        sampler = self._sampler(float(wanted["temperature"]))
        played = asyncio.run(self._boards.play(sampler, "evaluation", boards, names))
        found = {
            "step": step,
            "success": [int(each.success) for each in played],
            "valid_turns": sum(each.valid_turns for each in played) / sum(each.turns for each in played),
        }
        self._found["evaluations"].append(found)
        write_json(self._file, self._found)


def run(options: Json) -> int:
    """Start every arm and seed as a process of its own, and wait for them."""
    study, out = _study(options), Path(options["out"])
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "study.json", {"study": study, "torch": torch.__version__, "device": _device_name(options)})
    running = []
    for seed in study["seeds"]:
        for arm in study["arms"]:
            log = (out / f"{arm}-{seed}.log").open("w", encoding="utf-8")
            own = [f"{key}={value}" for key, value in {**options, "arm": arm, "seed": seed}.items()]
            words = [sys.executable, __file__, "one", *own]
            running.append((arm, seed, subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT)))
    failed = [f"{arm} with seed {seed}" for arm, seed, process in running if process.wait()]
    for name in failed:
        print(f"error: {name} failed: see its log in {out}", file=sys.stderr)
    return 1 if failed else 0


def one(options: Json) -> int:
    """Train one arm with one seed."""
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("high")
    arm, seed, device = str(options["arm"]), int(options["seed"]), str(options.get("device", "cuda"))
    until = time.monotonic() + 60 * float(options.get("minutes", 1e9))
    file = Path(options["out"]) / f"{arm}-{seed}.json"
    Run(_study(options), arm, seed, str(options["model"]), device, file).train(until)
    return 0


def _study(options: Json) -> Json:
    return dict(yaml.safe_load(Path(options.get("study", STUDY)).read_text(encoding="utf-8")))


def _device_name(options: Json) -> str:
    return torch.cuda.get_device_name() if str(options.get("device", "cuda")) != "cpu" else "cpu"


def summary(folder: Path) -> Json:
    """The figures of a finished study: success of each run at the last common evaluation, and paired differences."""
    header = json.loads((folder / "study.json").read_text(encoding="utf-8"))
    runs = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*-*.json"))]
    arms, seeds = list(header["study"]["arms"]), list(header["study"]["seeds"])
    common = min(each["evaluations"][-1]["step"] for each in runs)
    success = {
        (each["arm"], each["seed"]): np.array(found["success"])
        for each in runs
        for found in each["evaluations"]
        if found["step"] == common
    }
    before = np.array(runs[0]["evaluations"][0]["success"])
    figures: Json = {
        "device": header["device"],
        "study": header["study"],
        "steps": common,
        "arms": {},
        "differences": {},
    }
    figures["before"] = {"success": float(before.mean()), "interval": list(wilson_interval(before.sum(), len(before)))}
    for arm in arms:
        rates = [float(success[arm, seed].mean()) for seed in seeds if (arm, seed) in success]
        last = [each["steps"][-1] for each in runs if each["arm"] == arm]
        figures["arms"][arm] = {
            "success": rates,
            "mean": float(np.mean(rates)),
            "weights": {role: float(np.mean([each["weights"][role] for each in last])) for role in last[0]["weights"]},
            "seconds_a_step": float(
                np.mean(
                    [sum(step["seconds"].values()) for each in runs if each["arm"] == arm for step in each["steps"]]
                )
            ),
        }
    for first, second in (("actfocus", "uniform"), ("actfocus", "placebo"), ("placebo", "uniform")):
        paired = [
            float((success[first, seed] - success[second, seed]).mean())
            for seed in seeds
            if {(first, seed), (second, seed)} <= set(success)
        ]
        interval = mean_interval(paired) if len(paired) > 1 else (float("nan"),) * 2
        figures["differences"][f"{first} - {second}"] = {
            "of_seeds": paired,
            "mean": float(np.mean(paired)),
            "interval": list(interval),
        }
    return figures


def table(figures: Json) -> str:
    """The figures as Markdown; intervals are 95 %, Student's t over seeds."""
    of_before = figures["before"]
    low, high = of_before["interval"]
    lines = [
        f"{figures['device']}, {figures['steps']} steps. "
        f"Before training: {of_before['success']:.3f} [{low:.3f}, {high:.3f}].",
        "",
        "| arm | success of each seed | mean | mean weight: reasoning, action, format | seconds a step |",
        "|---|---|---|---|---|",
    ]
    for arm, each in figures["arms"].items():
        rates = ", ".join(f"{rate:.3f}" for rate in each["success"])
        weights = ", ".join(
            f"{each['weights'].get(role, float('nan')):.2f}" for role in ("reasoning", "action", "format")
        )
        lines.append(f"| {arm} | {rates} | {each['mean']:.3f} | {weights} | {each['seconds_a_step']:.1f} |")
    lines += ["", "| difference, paired by seed | mean | 95 % interval |", "|---|---|---|"]
    for name, each in figures["differences"].items():
        low, high = each["interval"]
        interval = f"[{low:+.3f}, {high:+.3f}]" if math.isfinite(low) else "not defined"
        lines.append(f"| {name} | {each['mean']:+.3f} | {interval} |")
    return "\n".join(lines)


def main(words: Sequence[str]) -> int:
    """Run one of the commands; returns the exit status."""
    if not words or words[0] not in ("run", "one", "table"):
        print(__doc__)
        return 2
    options = read_options(words[1:])
    if words[0] == "table":
        figures = summary(Path(options["out"]))
        write_json(Path(options["out"]) / "summary.json", figures)
        print(table(figures))
        return 0
    return run(options) if words[0] == "run" else one(options)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
