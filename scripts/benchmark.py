"""What a run costs on this machine, and what ActFocus adds to it. Writes a JSON file, and prints it.

    .venv/bin/python scripts/benchmark.py credit     arms take turns step by step in one training run
    .venv/bin/python scripts/benchmark.py rollout    vLLM alone, as the CPU platform sets it and with one thing changed
    .venv/bin/python scripts/benchmark.py worlds     resets and steps a second of every world, on one core

`credit`: the arms are `uniform` (GRPO, a reference pass for its KL, uniform weights), `credit` (the same with ActFocus:
the reference pass returns the energy as well) and `no_reference` (GRPO without a reference pass). A round is one step
of each; ratios are taken within a round, those of seconds per trained token, and their median has a 95 % bootstrap
interval over rounds. After each step the reference pass is timed on its batch four times more: with and without the
energy, there and back.
`rollout`: every setting is a process of its own; they are gone through twice, there and back.
`worlds`: a round plays WORLD_BOARDS boards in a fresh process: their first resets make the boards, the next ones find
them again, and every step is an action of the scripted player, half of them mistakes. gymnasium's FrozenLakeEnv on a
fresh random map is measured beside them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from omegaconf import OmegaConf
from scipy.stats import bootstrap

ROOT = Path(__file__).resolve().parents[1]
PHASES = ("gen", "old_log_prob", "ref", "adv", "update_actor", "update_weights", "step")
WARM_UP_ROUNDS = 1
CPU_PLATFORM = ROOT / "configs" / "platform" / "cpu.yaml"
ROLLOUT_SETTINGS: dict[str, dict[str, dict[str, Any]]] = {
    "as shipped": {},
    "engine and worker in two processes": {"engine": {"distributed_executor_backend": "mp"}},
    "cache blocks of 128 tokens": {"engine": {"block_size": 128}},
    "weights not packed": {"environment": {"ACTFOCUS_VLLM_PREPACK": "0"}},
    "compiled": {"engine": {"enforce_eager": False}},
}
"""What each row changes about CPU_PLATFORM: arguments of vLLM's engine, environment variables."""
SEQUENCES, TURNS, PROMPT_TOKENS, REPLY_TOKENS, WORLD_TOKENS = 64, 4, 230, 25, 30
"""About what FrozenLake asks of the tiny policy."""

WORLDS = ("frozen_lake", "sokoban", "sudoku", "webshop")
WORLD_BOARDS, WORLD_EPISODES = 3000, 300
PACKAGE_WORLDS = {
    "textcraft": 400,
    "babyai": 150,
    "textworld_express": 96,
    "alfred_rooms": 12,
    "bfcl_multi_turn": 100,
    "tau2_telecom": 40,
}
"""World: boards of a round. Their first preset; skipped where the package is missing."""

Line = dict[str, Any]


def run_training(trainer: str, folder: Path, *words: str) -> list[Line]:
    """Metrics of a run in `folder` without evaluations; its processes load the module `trainer` of this folder."""
    command = [
        *(sys.executable, "-m", "actfocus_verl.train", f"run.dir={folder}", "trainer.resume_mode=disable"),
        *("trainer.test_freq=-1", "trainer.val_before_train=false", "trainer.save_freq=-1", *words),
    ]
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"PYTHONPATH": path, "VERL_USE_EXTERNAL_MODULES": trainer}
    subprocess.run(command, cwd=ROOT, check=True, env=environment)
    return [json.loads(text) for text in (folder / "metrics.jsonl").read_text().splitlines()]


def measure_credit(folder: Path, rounds: int, overrides: list[str]) -> dict[str, Any]:
    from benchmark_trainer import ARMS, MODE

    steps = len(ARMS) * (WARM_UP_ROUNDS + rounds)
    lines = run_training(
        "benchmark_trainer",
        folder / "run",
        *("experiment=quickstart", "credit=actfocus", f"trainer.v1.trainer_mode={MODE}"),
        *(f"trainer.total_training_steps={steps}", "run.rollouts_a_step=0"),
        *("actor_rollout_ref.actor.use_kl_loss=true", "actor_rollout_ref.actor.kl_loss_coef=0.001", *overrides),
    )
    lines = lines[len(ARMS) * WARM_UP_ROUNDS :]
    by_round = [
        {ARMS[line["benchmark/arm"]]: line for line in lines[start : start + len(ARMS)]}
        for start in range(0, len(lines), len(ARMS))
    ]
    plain, credit = (f"benchmark/reference_seconds/{name}" for name in ("plain", "credit"))
    return {
        "rounds": len(by_round),
        "reference_pass_on_one_batch": median_interval([line[credit] / line[plain] for line in lines]),
        "step_by_these_passes": median_interval([step_by_passes(each["uniform"]) for each in by_round]),
        "tokens_a_step": median(line["perf/total_num_tokens"] for line in lines),
        "seconds_a_step": {
            arm: {phase: median(each[arm].get(f"timing_s/{phase}", 0.0) for each in by_round) for phase in PHASES}
            for arm in ARMS
        },
        "peak_memory_gb": {arm: max(each[arm]["benchmark/peak_memory_gb"] for each in by_round) for arm in ARMS},
        "ratio_of_credit_to": {
            base: {
                "training": ratio(by_round, base, training_seconds_a_token),
                "step": ratio(by_round, base, lambda line: line["timing_s/step"] / line["perf/total_num_tokens"]),
                "peak_memory": ratio(by_round, base, lambda line: line["benchmark/peak_memory_gb"]),
            }
            for base in ("uniform", "no_reference")
        },
    }


def step_by_passes(line: Line) -> float:
    """A uniform step's seconds plus what the energy added to the reference pass on its batch / its seconds.

    The two steps differ in nothing else but the weights' arithmetic, which `adv` holds: sharper than two steps' ratio.
    """
    more, less = (line[f"benchmark/reference_seconds/{name}"] / 2 for name in ("credit", "plain"))
    return float(1 + (more - less) / line["timing_s/step"])


def training_seconds_a_token(line: Line) -> float:
    """Of the phases an arm can change; generation and the old policy's pass are the same in all of them."""
    seconds = sum(line.get(f"timing_s/{phase}", 0.0) for phase in ("ref", "adv", "update_actor"))
    return float(seconds / line["perf/total_num_tokens"])


def ratio(rounds: list[dict[str, Line]], base: str, cost: Callable[[Line], float]) -> dict[str, float | None]:
    """Median over the rounds of the cost with credit / of the base arm, with its 95 % bootstrap interval."""
    return median_interval([cost(each["credit"]) / cost(each[base]) for each in rounds])


def median_interval(values: list[float]) -> dict[str, float | None]:
    """Their median with its 95 % bootstrap interval; one value has none."""
    if len(values) < 2:
        return {"median": median(values), "low": None, "high": None}
    found = bootstrap((values,), median, vectorized=False, method="percentile", rng=0).confidence_interval
    return {"median": median(values), "low": float(found.low), "high": float(found.high)}


def write_result(file: Path, measured: object) -> None:
    """Write and print what was measured, as JSON."""
    text = json.dumps(measured, indent=2)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text + "\n")
    print(text)


def measure_rollout(rounds: int, only: str | None = None) -> dict[str, Any]:
    shipped = dict(OmegaConf.load(CPU_PLATFORM).platform.env_vars)
    table: dict[str, list[float]] = {}
    for name in [*ROLLOUT_SETTINGS, *reversed(ROLLOUT_SETTINGS)] if only is None else [only]:
        command = [sys.executable, __file__, "one-rollout", "--rounds", str(rounds), "--setting", name]
        environment = os.environ | shipped | ROLLOUT_SETTINGS[name].get("environment", {})
        result = subprocess.run(command, cwd=ROOT, check=True, env=environment, stdout=subprocess.PIPE, text=True)
        table.setdefault(name, []).extend(json.loads(result.stdout.splitlines()[-1]))
    return {
        name: {"tokens_a_second": median(speeds), "slowest": min(speeds), "fastest": max(speeds)}
        for name, speeds in table.items()
    }


def cpu_engine(model: str, context: int, rollout: Any, changes: dict[str, Any]) -> Any:
    """vLLM's AsyncLLM as the section `rollout` has verl start it on a CPU, with `changes`."""
    import verl  # noqa: F401  (loads the plugin, which makes vLLM importable on a CPU)
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    settings: dict[str, Any] = {
        "model": model,
        "worker_extension_cls": "actfocus_verl.platforms.vllm_cpu.CPUWorkerExtension",
        "max_model_len": context,
        "disable_log_stats": True,
        **{name: rollout[name] for name in ("dtype", "enforce_eager", "max_num_seqs")},
        **rollout.engine_kwargs.vllm,
        **changes,
    }
    return AsyncLLM.from_engine_args(AsyncEngineArgs(**settings))


async def one_rollout(rounds: int, changes: dict[str, Any]) -> list[float]:
    """Sampled tokens a second of each round: SEQUENCES conversations of TURNS replies, 8 to a prompt."""
    import torch

    from actfocus_verl.policies import TinyPolicyConfig, ensure_tiny_policy

    rollout = OmegaConf.load(CPU_PLATFORM).actor_rollout_ref.rollout
    engine = cpu_engine(
        str(ensure_tiny_policy(TinyPolicyConfig(), ROOT / ".cache" / "tiny_policy")), 1408, rollout, changes
    )
    from vllm import SamplingParams

    sampling = SamplingParams(temperature=1.0, max_tokens=REPLY_TOKENS, logprobs=0, ignore_eos=True)

    async def converse(number: int, label: str) -> int:
        generator = torch.Generator().manual_seed(number // 8)
        ids = torch.randint(10, 400, (PROMPT_TOKENS,), generator=generator).tolist()
        sampled = 0
        for turn in range(TURNS):
            stream = engine.generate({"prompt_token_ids": ids}, sampling, f"{label}-{number}-{turn}")
            last = [output async for output in stream][-1]
            reply = list(last.outputs[0].token_ids)
            sampled += len(reply)
            ids = [*ids, *reply, *ids[:WORLD_TOKENS]]
        return sampled

    speeds = []
    for number in range(WARM_UP_ROUNDS + rounds):
        started = time.perf_counter()
        sampled = sum(await asyncio.gather(*(converse(each, str(number)) for each in range(SEQUENCES))))
        speeds.append(sampled / (time.perf_counter() - started))
        await engine.reset_prefix_cache()
    engine.shutdown()
    return speeds[WARM_UP_ROUNDS:]


def measure_worlds(rounds: int) -> dict[str, Any]:
    """Medians over the rounds, a second: boards made, boards reset again, steps."""
    table: dict[str, Any] = {}
    ours = [(env, preset) for env in WORLDS for preset in ("clean", "ragen")]
    for env, preset in [*ours, *((env, "package") for env in PACKAGE_WORLDS), ("gymnasium", "")]:
        lines = []
        for _ in range(rounds):
            command = [sys.executable, __file__, "one-world", "--setting", f"{env}/{preset}"]
            result = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
            lines.append(json.loads(result.stdout.splitlines()[-1]))
        table[f"{env}/{preset}".strip("/")] = {key: round(median(line[key] for line in lines)) for key in lines[0]}
    return table


def measure_one(env: str, preset: str) -> dict[str, float]:
    """One round of a setting; no preset: gymnasium's own environment."""
    if env in PACKAGE_WORLDS:
        return one_package_world(env)
    return one_world(env, preset) if preset else one_gymnasium()


def one_world(env: str, preset: str) -> dict[str, float]:
    """Made, reset and stepped a second: the first WORLD_BOARDS boards of the training split, played to their ends."""
    import numpy as np

    from actfocus_verl.environments import make_world, scripted_player

    def resets() -> tuple[list[Any], float]:
        started = time.perf_counter()
        worlds = [make_world(env, preset=preset, split="train", index=index) for index in range(WORLD_BOARDS)]
        return worlds, WORLD_BOARDS / (time.perf_counter() - started)

    rng, player = np.random.default_rng(0), scripted_player(env)
    first = make_world(env, preset=preset, split="test", index=0)
    first.step(first.parse_action(player.plan(first, rng, 0.5)[0]))  # what is built once in a process, by now
    _, made = resets()
    worlds, again = resets()
    steps, seconds = 0, 0.0
    for world in worlds[:WORLD_EPISODES]:
        for _ in range(world.limits.max_turns):
            for text in player.plan(world, rng, 0.5):
                if world.done:
                    break
                action = world.parse_action(text)
                started = time.perf_counter()
                world.step(action)
                seconds += time.perf_counter() - started
                steps += 1
    return {"made": made, "reset": again, "steps": steps / seconds}


def one_package_world(env: str) -> dict[str, float]:
    """As `one_world`, of a world that a package plays: started means shown.

    Commands are drawn or the oracle's, calls of functions the oracle's. Nothing where the package is missing.
    """
    import numpy as np

    from actfocus_verl.environments import make_world, observe
    from actfocus_verl.environments.tools import ToolWorld
    from actfocus_verl.errors import ConfigurationError

    def started(index: int, split: str = "train") -> Any:
        world = make_world(env, split=split, index=index)
        observe(world)
        return world

    def resets() -> tuple[list[Any], float]:
        begun = time.perf_counter()
        worlds = [started(index) for index in range(PACKAGE_WORLDS[env])]
        return worlds, len(worlds) / (time.perf_counter() - begun)

    rng = np.random.default_rng(0)
    try:
        first = started(0, "test")
    except ConfigurationError as error:
        sys.stderr.write(f"{error}\n")
        return {}
    timed = timed_calls if isinstance(first, ToolWorld) else timed_commands
    timed([first], rng)
    worlds, made = resets()
    del worlds
    worlds, again = resets()
    return {"made": made, "reset": again, "steps": timed(worlds, rng)}


def timed_commands(worlds: Sequence[Any], rng: Any) -> float:
    """Commands a second, up to twenty of an episode."""
    steps, seconds = 0, 0.0
    for world in worlds:
        for _ in range(min(20, world.limits.max_turns)):
            if world.done:
                break
            action = world.parse_action(drawn_command(world, rng))
            begun = time.perf_counter()
            world.step(action)
            seconds += time.perf_counter() - begun
            steps += 1
    return steps / seconds


def timed_calls(worlds: Sequence[Any], rng: Any) -> float:
    """Calls of functions a second, in the oracle's episodes; nothing is drawn."""
    from actfocus_verl.environments.tools import PlayedCalls

    steps, seconds = 0, 0.0
    for world in worlds:
        played = PlayedCalls(world)
        while not world.done:
            calls = [world.parse_action(call) for call in world.oracle()]
            begun = time.perf_counter()
            played.act(calls)
            seconds += time.perf_counter() - begun
        steps += played.actions
    return steps / seconds


def drawn_command(world: Any, rng: Any) -> str:
    """One of the listed commands at random; the oracle's, where the state lists none."""
    from actfocus_verl.environments import observe

    _, listed, commands = observe(world).text.partition("Commands: ")
    return str(rng.choice(commands.split(", "))) if listed else str(world.oracle()[0])


def one_gymnasium() -> dict[str, float]:
    """gymnasium's slippery FrozenLakeEnv: a new random 4x4 map, `reset` on it, and random steps."""
    from gymnasium.envs.toy_text.frozen_lake import FrozenLakeEnv, generate_random_map

    started = time.perf_counter()
    lakes = [FrozenLakeEnv(desc=generate_random_map(4, 0.9, seed), success_rate=0.8) for seed in range(WORLD_EPISODES)]
    for lake in lakes:
        lake.reset(seed=0)
    made = len(lakes) / (time.perf_counter() - started)
    started = time.perf_counter()
    for lake in lakes:
        lake.reset()
    again = len(lakes) / (time.perf_counter() - started)
    started = time.perf_counter()
    for lake in lakes:
        for action in (0, 1, 2, 3) * 5:
            lake.step(action)
    return {"made": made, "reset": again, "steps": 20 * len(lakes) / (time.perf_counter() - started)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("credit", "rollout", "worlds", "one-rollout", "one-world"))
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--folder", type=lambda text: Path(text).absolute(), default=ROOT / "outputs" / "benchmark")
    parser.add_argument("--setting", help="rollout: this one alone; of one-rollout and one-world: which")
    parser.add_argument("overrides", nargs="*", help="credit: overrides of the training's configuration")
    arguments = parser.parse_intermixed_args()  # overrides may follow --rounds
    if arguments.what == "one-rollout":
        changes = ROLLOUT_SETTINGS[arguments.setting].get("engine", {})
        print("\n" + json.dumps(asyncio.run(one_rollout(arguments.rounds, changes))))
        return
    if arguments.what == "one-world":
        env, _, preset = arguments.setting.partition("/")
        print(json.dumps(measure_one(env, preset)))
        return
    if arguments.overrides and arguments.what != "credit":
        parser.error(f"{arguments.what} takes no overrides: {' '.join(arguments.overrides)}")
    if arguments.what == "credit":
        measured = measure_credit(arguments.folder, arguments.rounds, arguments.overrides)
    elif arguments.what == "rollout":
        measured = measure_rollout(arguments.rounds, arguments.setting)
    else:
        measured = measure_worlds(arguments.rounds)
    write_result(arguments.folder / f"{arguments.what}.json", measured)


if __name__ == "__main__":
    main()
