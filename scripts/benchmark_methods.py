"""What each credit method costs the driver, against verl's vectorised GRPO on the same batch. Writes a JSON file.

    .venv/bin/python scripts/benchmark_methods.py
    .venv/bin/python scripts/benchmark_methods.py --memory --rows 128 --tokens 3584
    .venv/bin/python scripts/benchmark_methods.py --growth 1024 16384 --tokens 512

The batch has ROWS episodes of TOKENS tokens in groups of GROUP; the last group is padding where a method says so. A
method and GRPO take turns; a ratio is that of two neighbours, and their median has a 95 % bootstrap interval over the
rounds. Memory is what torch holds beyond the inputs at its peak, results included, in columns of ROWS x TOKENS float32
(16 MiB). `--memory` measures it alone, in MiB: as it is, and with every column in one piece (`credit.blocks`).
`--growth` compares two numbers of rows in turns: the exponent of the seconds, 1 where they grow as the rows do.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import torch
import verl.trainer.ppo.core_algos as verl_algos
from benchmark import median_interval, write_result
from engine_bench import peak_bytes

from actfocus_verl.credit import blocks
from actfocus_verl.credit.episodes import Episodes
from actfocus_verl.credit.estimation import Step, build_estimator
from actfocus_verl.credit.registry import build_weighting
from actfocus_verl.credit.token_weights import compute_token_credit
from actfocus_verl.credit.tokens import TokenRole

ROOT = Path(__file__).resolve().parents[1]
ROWS, TOKENS, GROUP = 1024, 4096, 16
GAMMA = {"gigpo": 0.95, "graphgpo": 0.1, "vetta": 0.95}
"""`algorithm.gamma` of an estimator's preset, where it is not 1."""
TURN = [TokenRole.FORMAT] * 4 + [TokenRole.REASONING] * 180 + [TokenRole.ACTION] * 12 + [TokenRole.ENVIRONMENT] * 60
"""Roles of one turn's tokens, in some order: 16 turns fill a row."""
Columns = dict[str, torch.Tensor]
Method = Callable[[Columns], object]


def make_batch(rows: int, tokens: int) -> Columns:
    """Columns of finished episodes; the numbers are noise, for nothing here depends on them."""
    generator = torch.Generator().manual_seed(0)
    roles = torch.tensor(TURN, dtype=torch.int64).repeat(tokens // len(TURN)).expand(rows, -1).contiguous()
    turns = (torch.arange(tokens) // len(TURN)).expand(rows, -1)
    mask = (roles != TokenRole.ENVIRONMENT).long()
    noise = {
        name: torch.randn(rows, tokens, generator=generator)
        for name in ("energy", "old_log_probs", "ref_log_prob", "values", "advantages")
    }
    scores = torch.zeros(rows, tokens)
    turn_rewards = (torch.rand(rows, tokens // len(TURN), generator=generator) < 0.1).float()
    scores[:, -1] = turn_rewards.sum(dim=1)
    return {
        **noise,
        "entropy": torch.rand(rows, tokens, generator=generator),
        "token_roles": roles,
        "turn_ids": torch.where(mask > 0, turns, -1),
        "response_mask": mask,
        "group_ids": torch.arange(rows) // GROUP,
        "turn_rewards": turn_rewards,
        "anchors": torch.randint(0, 40, turn_rewards.shape, generator=generator),
        "next_anchors": torch.randint(-1, 40, turn_rewards.shape, generator=generator),
        "answer_scores": -torch.rand(turn_rewards.shape, generator=generator).cumsum(dim=1).flip(1),
        "states": torch.randint(0, 40, turn_rewards.shape, generator=generator),
        "replayed": torch.zeros(turn_rewards.shape, dtype=torch.int64),
        "scores": scores,
        "influence": torch.full((rows,), 0.5),
        "relevance": torch.rand(rows, tokens, generator=generator),
        "hindsight_log_probs": noise["old_log_probs"],
        "training_step": torch.zeros(rows),
    }


def grpo(columns: Columns) -> object:
    return _grpo(columns["group_ids"], columns["scores"], columns["response_mask"])


def _grpo(group_ids: torch.Tensor, rewards: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    groups = group_ids.numpy().astype(str).astype(object)
    return verl_algos.compute_grpo_vectorized_outcome_advantage(rewards, mask, groups)[0]


def gae(columns: Columns) -> object:
    return verl_algos.compute_gae_advantage_return(
        columns["scores"], columns["values"], columns["response_mask"], torch.tensor(1.0), torch.tensor(1.0)
    )


def weighting(name: str, *, padding: bool = False, **parameters: object) -> Method:
    """padding: the last group is of padding rows."""
    spec = build_weighting({"name": name, **parameters})
    return lambda columns: compute_token_credit(columns, spec, valid_rows=_valid_rows(columns) if padding else None)


def padding_copied(columns: Columns) -> object:
    """ActFocus on copies of all columns without their padding rows, made before anything is read."""
    rows = _valid_rows(columns)
    return weighting("actfocus")({name: column[rows] for name, column in columns.items()})


def _valid_rows(columns: Columns) -> torch.Tensor:
    return columns["group_ids"] < columns["group_ids"].max()


def estimator(name: str, **parameters: object) -> Method:
    """One of ours, with verl's vectorised GRPO where it asks for GRPO."""
    spec = build_estimator(name, parameters)
    assert spec is not None

    def estimate(columns: Columns) -> object:
        valid = torch.ones(len(columns["group_ids"]), dtype=torch.bool)
        mask, rewards = columns["response_mask"], columns["turn_rewards"]
        counts = torch.full(rewards.shape[:1], rewards.shape[1])
        step = Step(
            rewards=columns["scores"],
            scores=columns["scores"],
            response_mask=mask,
            group_ids=columns["group_ids"],
            valid_rows=valid,
            columns=columns,
            gamma=GAMMA.get(name, 1.0),
            lam=1.0,
            by_std=True,
            grpo=partial(_grpo, columns["group_ids"]),
            turns=Episodes.of(columns["turn_ids"], mask, rewards, counts, valid),
        )
        return spec(step)

    return estimate


METHODS: dict[str, Method] = {
    "estimator gae (verl)": gae,
    "estimator turn_grpo": estimator("turn_grpo"),
    "estimator turn_grpo, redistribute": estimator("turn_grpo", redistribute=1.0),
    "estimator gigpo": estimator("gigpo"),
    "estimator gigpo, history 2": estimator("gigpo", history=2),
    "estimator gigpo, episode_statistics turns": estimator("gigpo", episode_statistics="turns"),
    "estimator graphgpo": estimator("graphgpo"),
    "estimator graphgpo, values grouped": estimator("graphgpo", values="grouped"),
    "estimator igpo": estimator("igpo"),
    "estimator a2tgpo": estimator("a2tgpo"),
    "estimator carl": estimator("carl"),
    "estimator turn_ppo": estimator("turn_ppo"),
    "estimator vetta": estimator("vetta"),
    "estimator bilevel_gae": estimator("bilevel_gae"),
    "credit uniform": weighting("uniform"),
    "credit actfocus": weighting("actfocus"),
    "credit actfocus, padding rows": weighting("actfocus", padding=True),
    "credit actfocus, padding copied first": padding_copied,
    "credit actfocus, placebo": weighting("actfocus", placebo=True),
    "credit action_only": weighting("action_only"),
    "credit entropy_quantile": weighting("entropy_quantile"),
    "credit aem": weighting("aem"),
    "credit empg": weighting("empg"),
    "credit influence": weighting("influence"),
    "credit influence, level token": weighting("influence", level="token"),
    "credit hindsight": weighting("hindsight"),
}


def seconds(method: Method, columns: Columns) -> float:
    started = time.perf_counter()
    method(columns)
    return time.perf_counter() - started


def measure_time(method: Method, columns: Columns, rounds: int) -> dict[str, float | None]:
    method(columns)
    pairs = [(seconds(method, columns), seconds(grpo, columns)) for _ in range(rounds)]
    ratio = median_interval([own / base for own, base in pairs])
    seconds_each = {"seconds": median(own for own, _ in pairs)}
    return seconds_each | {"ratio_to_grpo": ratio["median"], "low": ratio["low"], "high": ratio["high"]}


def measure_growth(rows: tuple[int, int], tokens: int, rounds: int) -> dict[str, dict[str, float]]:
    """Seconds of each method at both numbers of rows, and the exponent between them with its interval."""
    small, large = (make_batch(count, tokens) for count in rows)
    measured = {}
    for name, method in {"estimator grpo (verl)": grpo, **METHODS}.items():
        method(small), method(large)
        pairs = [(seconds(method, small), seconds(method, large)) for _ in range(rounds)]
        exponent = median_interval([math.log(after / before) / math.log(rows[1] / rows[0]) for before, after in pairs])
        both = {f"seconds_{count}": median(each) for count, each in zip(rows, zip(*pairs, strict=True), strict=True)}
        measured[name] = both | {f"exponent_{key}": exponent[key] for key in ("median", "low", "high")}
    return measured


def compare_memory(columns: Columns) -> dict[str, dict[str, float]]:
    """MiB at the peak of each method, in blocks of rows as it is and in one piece."""
    given = blocks.BLOCK_ELEMENTS
    measured: dict[str, dict[str, float]] = {}
    for name, elements in (("blocks", given), ("whole", columns["scores"].numel())):
        blocks.BLOCK_ELEMENTS = elements  # type: ignore[misc]
        for title, method in METHODS.items():
            if "(verl)" not in title:
                measured.setdefault(title, {})[name] = round(peak_bytes(partial(method, columns)) / 2**20, 1)
    blocks.BLOCK_ELEMENTS = given  # type: ignore[misc]
    return {"inputs": {"MiB": round(sum(each.nbytes for each in columns.values()) / 2**20, 1)}, **measured}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--tokens", type=int, default=TOKENS)
    parser.add_argument("--memory", action="store_true", help="measure no time, and compare blocks with whole columns")
    parser.add_argument("--folder", type=Path, default=ROOT / "outputs" / "benchmark")
    parser.add_argument("--growth", type=int, nargs=2, metavar=("ROWS", "MORE_ROWS"), help="measure nothing else")
    arguments = parser.parse_args()
    if arguments.growth:
        growth = measure_growth(tuple(arguments.growth), arguments.tokens, arguments.rounds)
        write_result(arguments.folder / "growth.json", growth)
        return
    columns = make_batch(arguments.rows, arguments.tokens)
    if arguments.memory:
        print(json.dumps(compare_memory(columns), indent=2))
        return
    grpo(columns)
    measured: dict[str, dict[str, float | None]] = {
        "estimator grpo (verl)": {"seconds": median(seconds(grpo, columns) for _ in range(arguments.rounds))}
    }
    measured |= {name: measure_time(method, columns, arguments.rounds) for name, method in METHODS.items()}
    for name, line in measured.items():
        line["peak_columns"] = round(
            peak_bytes(partial(METHODS.get(name, grpo), columns)) / columns["scores"].nbytes, 2
        )
    write_result(arguments.folder / "methods.json", measured)


if __name__ == "__main__":
    main()
