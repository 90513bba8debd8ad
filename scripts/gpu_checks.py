"""The checks of gpu_check.py. Each builds what it needs, and says whether it passed and what it measured."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
from engine_bench import SHAPES, SMALL, Bench, Result, energy_flag, infer, make_batch, token_weighted_loss


@contextmanager
def caught_logits(engine: Any) -> Iterator[list[Any]]:
    """The logits of every micro-batch, float64, as the model returned them."""
    found: list[Any] = []
    hook = engine.module.register_forward_hook(lambda _, __, output: found.append(output.logits.detach().double()))
    try:
        yield found
    finally:
        hook.remove()


LENGTHS = [37, 64, 5, 50, 21]


def check_energy(bench: Bench, strategy: str, forward_only: bool, lora: bool = False) -> Result:
    """Energy against the float64 definition on the very logits; log-probs with the flag bit-equal to those without."""
    found: Result = {}
    settings: dict[str, Any] = {"lora_rank": 8} if lora else {}
    with bench.engine(SMALL, strategy=strategy, forward_only=forward_only, **settings) as engine:
        adapter = engine.disable_adapter if lora else nullcontext
        for packed, temperature in itertools.product((True, False), (1.0, 0.7)):
            name = f"{'packed' if packed else 'padded'}, temperature {temperature}"
            batch = partial(make_batch, 2000, LENGTHS, use_remove_padding=packed, temperature=temperature)
            with adapter():
                without = infer(engine, batch())
                with caught_logits(engine) as logits:
                    outputs = infer(engine, batch(**energy_flag()))
            (seen,) = logits
            rows = seen[0].split(LENGTHS) if packed else [row[:n] for row, n in zip(seen, LENGTHS, strict=True)]
            expected = torch.cat([-torch.logsumexp(row, dim=-1) for row in rows])
            energies, log_probs = outputs["energy"], outputs["log_probs"].values()
            found[name] = {
                "largest error": float((energies.values().to(expected.device).double() - expected).abs().max()),
                "log-probs unchanged": bool(torch.equal(log_probs, without["log_probs"].values())),
                "rows as given": energies.offsets().diff().tolist() == LENGTHS,
                "log-probs": str(log_probs.dtype).removeprefix("torch."),
            }
    bad = [
        name
        for name, line in found.items()
        if not (line["largest error"] < 1e-4 and line["log-probs unchanged"] and line["rows as given"])
    ]
    return {"passed": not bad, "cases": found}


def check_bf16(bench: Bench) -> Result:
    """The energy under bf16 against float32, and at two cuts into micro-batches; in nats."""

    def energies(param_dtype: str, micro_batch: int) -> Any:
        with bench.engine(SMALL, param_dtype=param_dtype) as engine:
            batch = make_batch(2000, [64] * 16, micro_batch=micro_batch, **energy_flag())
            return infer(engine, batch)["energy"].values().float()

    exact, whole, cut = energies("fp32", 16), energies("bf16", 16), energies("bf16", 4)
    spread = float(exact.std())
    return {
        "passed": True,
        "energy's standard deviation": spread,
        "bf16 against float32, rms": float((whole - exact).square().mean().sqrt()),
        "bf16 against float32, largest": float((whole - exact).abs().max()),
        "16 rows against 4 x 4, largest": float((whole - cut).abs().max()),
    }


def check_loss(bench: Bench) -> Result:
    """Weights of 1 against verl's own loss, bit for bit; other weights against Eq. 6 written out."""
    from verl.workers.config import ActorConfig, PolicyLossConfig
    from verl.workers.utils.losses import ppo_loss

    from actfocus_verl.integration.loss import token_weighted_ppo_loss

    def config(mode: str) -> Any:
        clip = {"clip_ratio": 0.2, "clip_ratio_low": 0.2, "clip_ratio_high": 0.28}
        return ActorConfig(
            strategy="fsdp2", rollout_n=1, use_dynamic_bsz=True, policy_loss=PolicyLossConfig(loss_mode=mode), **clip
        )

    lengths = [20, 60]
    batch = make_batch(50, lengths).to(bench.device)
    tokens = int(batch["loss_mask"].values().sum())
    from verl.utils import tensordict_utils as tu

    tu.assign_non_tensor(batch, dp_size=1, batch_num_tokens=tokens)

    def run(loss: Callable[..., Any], mode: str) -> tuple[Any, Any]:
        generator = torch.Generator().manual_seed(2)
        values = (0.1 * torch.randn(sum(lengths), generator=generator) - 7.6).to(bench.device).requires_grad_()
        nested = torch.nested.nested_tensor_from_jagged(values, batch["input_ids"].offsets())
        result, _ = loss(config=config(mode), model_output={"log_probs": nested}, data=batch)
        (gradient,) = torch.autograd.grad(result, values)
        return result.detach(), gradient

    ones = torch.equal(run(token_weighted_ppo_loss, "token_weighted")[1], run(ppo_loss, "vanilla")[1])
    weights = torch.rand(batch["token_weights"].values().shape, generator=torch.Generator().manual_seed(3))
    mask = batch["loss_mask"].values().bool()
    weights = weights.to(bench.device)
    weights = weights / weights[mask].mean()
    offsets = batch["token_weights"].offsets()
    batch["token_weights"] = torch.nested.nested_tensor_from_jagged(weights, offsets)
    loss, _ = run(token_weighted_ppo_loss, "token_weighted")
    generator = torch.Generator().manual_seed(2)
    values = (0.1 * torch.randn(sum(lengths), generator=generator) - 7.6).to(bench.device).double()
    predicted = torch.cat([row[len(row) - len(row) // 2 - 1 : -1] for row in values.split(lengths)])  # all are even
    advantages = batch["advantages"].values().double()
    ratio = (predicted - batch["old_log_probs"].values()).exp()
    surrogate = torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.28) * advantages)
    expected = -(weights * surrogate)[mask].sum() / weights[mask].sum()
    error = float((loss.double() - expected).abs())
    return {"passed": ones and error < 1e-5, "weights of 1 change nothing": ones, "Eq. 6, error": error}


def check_kernels(bench: Bench) -> Result:
    """Seconds of what a pass does with its logits, 16,384 x 151,936 in bf16: energy by chunk size, and the identity."""
    from actfocus_verl.credit import signals

    rows, vocabulary = (64, 512) if bench.tiny else (16384, 151936)
    logits = torch.randn(rows, vocabulary, device=bench.device, dtype=torch.bfloat16)
    labels = torch.randint(0, vocabulary, (rows,), device=bench.device)
    arms: dict[str, Callable[[], Any]] = {"label's logit": lambda: logits.gather(-1, labels.unsqueeze(-1)).float()}
    if bench.cuda:
        arms["log-probs in one pass (Triton)"] = lambda: one_pass_log_probs(logits, labels)
    for power in (20, 22, 24, 26):
        arms[f"energy, chunks of 2^{power}"] = partial(_energy_in_chunks, signals, 2**power, logits)
    found: Result = {}
    for name, arm in arms.items():
        arm()
        lines = []
        for _ in range(bench.rounds):
            with bench.measured() as line:
                arm()
            lines.append(line)
        found[name] = {"seconds": median(line["seconds"] for line in lines), "peak_gb": lines[-1]["peak_gb"]}
    return {"passed": True, "rows": rows, "vocabulary": vocabulary, "arms": found}


def _energy_in_chunks(signals: Any, elements: int, logits: Any) -> Any:
    with patch.object(signals, "CHUNK_ELEMENTS", elements):
        return signals.energy(logits)


def one_pass_log_probs(logits: Any, labels: Any, inplace_backward: bool = True) -> Any:
    """Log-probs of the labels in one read of the logits, as flash-attn's kernel gives them; float32, no gradient."""
    from gpu_check_kernel import log_prob_kernel

    rows = logits.reshape(-1, logits.shape[-1])
    out = torch.empty(rows.shape[0], dtype=torch.float32, device=logits.device)
    log_prob_kernel[(rows.shape[0],)](rows, labels.reshape(-1), out, rows.stride(0), rows.shape[1], BLOCK=8192)
    return out.view(logits.shape[:-1])


def check_cost(bench: Bench, shape: str, tokens: int, one_pass: bool, rounds: int) -> Result:
    """A reference pass without energy, with it, and with its own reduction of the logits; the arms take turns.

    one_pass: log-probs from one Triton kernel, as with flash-attn; else by verl's loop over rows.
    """
    from verl.workers.engine.fsdp import transformer_impl

    row, model = 2048, SHAPES[shape]
    if bench.tiny:
        row, tokens, model = 32, 256, SMALL
    kernel = patch.object(transformer_impl, "logprobs_from_logits", one_pass_log_probs)
    with bench.engine(model) as engine, kernel if one_pass and bench.cuda else nullcontext():
        arms = compare_passes(bench, engine, model["vocab_size"], [row] * (tokens // row), 8, rounds)
    return {"passed": True, "tokens": tokens, "rounds": rounds, "arms": arms}


def compare_passes(
    bench: Bench, engine: Any, vocabulary: int, lengths: list[int], micro_batch: int, rounds: int
) -> Result:
    """Median seconds, peak memory and ratios within a round of each of the three arms."""
    from actfocus_verl.integration import engine as ours

    arms: dict[str, tuple[bool, AbstractContextManager[object]]] = {
        "without": (False, nullcontext()),
        "energy": (True, nullcontext()),
    }
    # then no log-prob is good enough
    arms["energy of the logits"] = (True, patch.object(ours, "_LEAST_LOG_PROB", float("inf")))
    lines: dict[str, list[Result]] = {name: [] for name in arms}
    for turn in range(rounds + 1):
        for name in list(arms) if turn % 2 else list(arms)[::-1]:
            flagged, change = arms[name]
            batch = make_batch(vocabulary, lengths, micro_batch=micro_batch, **(energy_flag() if flagged else {}))
            with change, bench.measured() as line:
                infer(engine, batch)
            if turn:  # the first warms up
                lines[name].append(line)
    found: Result = {
        name: {"seconds": median(line["seconds"] for line in each), "peak_gb": each[-1]["peak_gb"]}
        for name, each in lines.items()
    }
    for name in list(arms)[1:]:
        pairs = zip(lines[name], lines["without"], strict=True)
        ratios = [more["seconds"] / less["seconds"] for more, less in pairs]
        found[name] |= {"ratio": median(ratios), "smallest ratio": min(ratios), "largest ratio": max(ratios)}
        found[name]["ratios"] = ratios
    return found


def check_update_memory(bench: Bench) -> Result:
    """Seconds and peak memory of forward and backward with an entropy bonus, with and without entropy in chunks."""
    model, lengths = (SMALL, [32] * 4) if bench.tiny else (SHAPES["0.5B"], [2048] * 4)
    found: Result = {}
    for chunked in (False, True):
        settings = {"entropy_from_logits_with_chunking": chunked, "entropy_checkpointing": chunked}
        loss = token_weighted_loss(entropy_coeff=0.001)
        with bench.engine(model, settings=settings, enable_gradient_checkpointing=True) as engine, engine.train_mode():
            for _ in range(2):
                engine.optimizer_zero_grad()
                with bench.measured() as line:
                    engine.forward_backward_batch(
                        make_batch(model["vocab_size"], lengths, calculate_entropy=True), loss
                    )
        found["in chunks" if chunked else "at once"] = line
    return {"passed": True, "tokens": sum(lengths), "arms": found}


def check_model_dtype(bench: Bench) -> Result:
    """`ref.fsdp_config.model_dtype=bf16`: energy by position against fp32, in verl's engine and in ours."""
    length = 64 if bench.tiny else 3000
    places = [7, 31, 63] if bench.tiny else [50, 500, 2500]

    def energies(**settings: Any) -> Any:
        with bench.engine(SMALL, **settings) as engine:
            if settings.get("plain"):
                with caught_logits(engine) as logits:
                    infer(engine, make_batch(2000, [length]))
                return -logits[0][0].logsumexp(-1).float().cpu(), logits[0][0].float().cpu()
            with caught_logits(engine) as logits:
                outputs = infer(engine, make_batch(2000, [length], **energy_flag()))
            return outputs["energy"].values().cpu(), logits[0][0].float().cpu()

    exact, exact_logits = energies()
    # verl's own class exists for a GPU only
    arms = {"ours": energies(model_dtype="bf16")} | (
        {"verl's": energies(model_dtype="bf16", plain=True)} if bench.cuda else {}
    )
    window = length // 50 + 1
    return {
        "passed": True,
        "arms": {
            name: {
                f"position {place}": {
                    "energy": float((found - exact)[max(0, place - window) : place + 1].abs().max()),
                    "logit": float((logits - exact_logits)[max(0, place - window) : place + 1].abs().max()),
                }
                for place in places
            }
            for name, (found, logits) in arms.items()
        },
    }


@dataclass(frozen=True)
class Check:
    name: str
    run: Callable[[Bench], Result]
    seconds: float
    """What it is expected to take on an H100: it is skipped when less is left."""


def checks(tiny: bool) -> list[Check]:
    """The most important first."""
    short: dict[str, Any] = {"shape": "0.5B", "tokens": 16384, "rounds": 3}
    return [
        Check("energy, fsdp2", partial(check_energy, strategy="fsdp2", forward_only=False), 5),
        Check("energy, fsdp2, forward only", partial(check_energy, strategy="fsdp2", forward_only=True), 4),
        Check("logit kernels", check_kernels, 6),
        Check("cost, 0.5B", partial(check_cost, shape="0.5B", tokens=65536, one_pass=True, rounds=5), 15),
        Check("loss", check_loss, 2),
        *(
            []  # FSDP1 needs a GPU
            if tiny
            else [
                Check("energy, fsdp", partial(check_energy, strategy="fsdp", forward_only=False), 4),
                Check("energy, fsdp, forward only", partial(check_energy, strategy="fsdp", forward_only=True), 4),
            ]
        ),
        Check("energy, LoRA", partial(check_energy, strategy="fsdp2", forward_only=False, lora=True), 4),
        Check("bf16", check_bf16, 5),
        Check("model_dtype", check_model_dtype, 5),
        *(
            []
            if tiny
            else [
                Check("cost, 1.5B", partial(check_cost, shape="1.5B", tokens=65536, one_pass=True, rounds=5), 25),
                Check("cost, 3B", partial(check_cost, shape="3B", tokens=65536, one_pass=True, rounds=5), 40),
            ]
        ),
        Check("update", check_update_memory, 20),
        Check(
            "cost, 0.5B, verl's log-probs",
            partial(check_cost, one_pass=False, **short),
            15,
        ),
    ]
