"""Our engine and loss under verl's FSDP engine on this machine's GPU: are they right, and what do they cost?

    python scripts/gpu_check.py --out results/gpu/h100.json --budget-seconds 180
    python scripts/gpu_check.py --table results/gpu/h100.json
    python scripts/gpu_check.py --device cpu --tiny --out /tmp/check.json

Needs torch, transformers, peft, tensordict, omegaconf, hydra-core, codetiming, dill, wrapt and verl. Ray, TransferQueue
and the like need not be there: verl imports them, and a pass over a batch uses none of them, so they are replaced by
empty modules. Nothing is downloaded: weights are random, in the shapes of published models.

Each check stands alone: one that fails is reported, and the rest go on. The JSON is rewritten after each.
"""

from __future__ import annotations

import argparse
import gc
import importlib.abc
import importlib.machinery
import importlib.metadata
import itertools
import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from types import ModuleType
from typing import Any
from unittest.mock import patch

ROOT = Path(__file__).resolve().parents[1]
ABSENT = (
    "ray",
    "transfer_queue",
    "datasets",
    "torchdata",
    "wandb",
    "vllm",
    "sglang",
    "mlflow",
    "swanlab",
    "pylatexenc",
)
"""What verl imports and a forward or backward pass does not use."""

Result = dict[str, Any]
SMALL = {
    "vocab_size": 2000, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.35,
}
SHAPES: dict[str, dict[str, Any]] = {
    "0.5B": {
        "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
        "num_attention_heads": 14, "num_key_value_heads": 2, "vocab_size": 151936,
    },
    "1.5B": {
        "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28,
        "num_attention_heads": 12, "num_key_value_heads": 2, "vocab_size": 151936,
    },
    "3B": {
        "hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36,
        "num_attention_heads": 16, "num_key_value_heads": 2, "vocab_size": 151936,
    },
}
"""Qwen2.5's."""


class _Absent(ModuleType):
    """A module with anything in it: a class for a capitalised name, else a function that returns what it is given."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        value = type(name, (), {}) if name[0].isupper() else _unchanged
        setattr(self, name, value)
        return value


def _unchanged(*args: Any, **settings: Any) -> Any:
    return args[0] if args and callable(args[0]) else _unchanged


class _AbsentFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if name.partition(".")[0] not in self.names:
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return _Absent(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


def import_without_ray(device: str) -> None:
    """Import verl's FSDP engine and ours, on this device, without what a pass does not use."""
    import transformers.utils  # noqa: F401  (it looks for installed packages: before ours look installed)
    from transformers import Qwen2Config, Qwen2ForCausalLM  # noqa: F401

    os.environ["VERL_USE_EXTERNAL_PLUGINS"] = "none"
    if device == "cpu":
        os.environ["VERL_PLATFORM"] = "cpu"
    sys.path.insert(0, str(ROOT))
    sys.meta_path.insert(0, _AbsentFinder(ABSENT))
    import verl  # noqa: F401
    from verl.plugin.platform import PlatformRegistry

    if device == "cpu":
        from actfocus_verl.platforms.cpu import PLATFORM_NAME, PlatformCPU

        if PlatformRegistry.get(PLATFORM_NAME) is not PlatformCPU:
            PlatformRegistry.register(PLATFORM_NAME)(PlatformCPU)
    import actfocus_verl.integration.engine
    import actfocus_verl.integration.loss  # noqa: F401


@dataclass
class Bench:
    """One device, and how large the checks are on it."""

    device: str
    tiny: bool
    folder: Path
    rounds: int = 5
    numbers: Iterator[int] = field(default_factory=itertools.count)

    @property
    def cuda(self) -> bool:
        return self.device == "cuda"

    def synchronize(self) -> None:
        import torch

        if self.cuda:
            torch.cuda.synchronize()

    @contextmanager
    def measured(self) -> Iterator[Result]:
        """Fill in the block's seconds, and the GPU memory it adds at its peak in GB (None on a CPU)."""
        import torch

        found: Result = {}
        base = 0
        if self.cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            base = torch.cuda.memory_allocated()
        self.synchronize()
        start = time.perf_counter()
        yield found
        self.synchronize()
        found["seconds"] = time.perf_counter() - start
        found["peak_gb"] = (torch.cuda.max_memory_allocated() - base) / 1e9 if self.cuda else None

    @contextmanager
    def engine(
        self,
        shape: dict[str, Any],
        *,
        strategy: str = "fsdp2",
        param_dtype: str = "bf16",
        model_dtype: str = "fp32",
        forward_only: bool = False,
        plain: bool = False,
        settings: dict[str, Any] | None = None,
        **model: Any,
    ) -> Iterator[Any]:
        """verl's engine as its registry gives it, random weights of seed 0. plain: verl's own class instead."""
        import torch
        from transformers import AutoModelForCausalLM, Qwen2Config
        from verl.trainer.config import CheckpointConfig
        from verl.workers.config import FSDPEngineConfig, FSDPOptimizerConfig, HFModelConfig
        from verl.workers.engine import EngineRegistry
        from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead

        from actfocus_verl.platforms.packed_attention import PACKED_SDPA

        defaults: dict[str, Any] = {"tie_word_embeddings": True, "max_position_embeddings": 32768}
        defaults["rope_parameters"] = {"rope_type": "default", "rope_theta": 1e6}
        folder = self.folder / f"model{next(self.numbers)}"
        Qwen2Config(**(defaults | shape), architectures=["Qwen2ForCausalLM"]).save_pretrained(folder)

        def random_weights(*_: Any, config: Any, torch_dtype: Any, **__: Any) -> Any:
            torch.manual_seed(0)
            with torch.device(self.device):
                return AutoModelForCausalLM.from_config(config, dtype=torch.float32).to(torch_dtype)

        dtypes = {"param_dtype": param_dtype, "reduce_dtype": "fp32", "buffer_dtype": "fp32"}
        arguments = {
            "model_config": HFModelConfig(
                path=str(folder),
                load_tokenizer=False,
                override_config={"attn_implementation": PACKED_SDPA},
                use_remove_padding=False,
                **({"enable_gradient_checkpointing": False} | model),
            ),
            "engine_config": FSDPEngineConfig(
                strategy=strategy,
                model_dtype=model_dtype,
                forward_only=forward_only,
                use_torch_compile=False,
                mixed_precision=dtypes,
                **(settings or {}),
            ),
            "optimizer_config": FSDPOptimizerConfig(lr=0.0, total_training_steps=1),
            "checkpoint_config": CheckpointConfig(),
        }
        with patch.object(AutoModelForCausalLM, "from_pretrained", random_weights):
            if plain:
                engine = FSDPEngineWithLMHead(**arguments)
            else:
                engine = EngineRegistry.new("language_model", strategy, **arguments)
            engine.initialize()
        try:
            yield engine
        finally:
            del engine
            gc.collect()
            if self.cuda:
                torch.cuda.empty_cache()


def make_batch(vocabulary: int, lengths: list[int], *, micro_batch: int | None = None, **settings: Any) -> Any:
    """Random rows, half of each a response, as verl's workers receive them."""
    import torch
    from verl.utils import tensordict_utils as tu

    generator = torch.Generator().manual_seed(1)
    ids = [torch.randint(3, vocabulary, (length,), generator=generator) for length in lengths]
    responses = [row[len(row) // 2 :] for row in ids]
    masks = [(torch.rand(len(row), generator=generator) < 0.8).long() for row in responses]
    for mask in masks:
        mask[0] = 1
    noise = [torch.randn(len(row), generator=generator) for row in responses]
    rows = {
        "input_ids": ids,
        "prompts": [row[: len(row) // 2] for row in ids],
        "responses": responses,
        "position_ids": [torch.arange(len(row)) for row in ids],
        "response_mask": masks,
        "loss_mask": masks,
        "old_log_probs": [0.1 * row - 7.6 for row in noise],
        "advantages": [row.sign() for row in noise],
        "token_weights": [torch.ones(len(row)) for row in responses],
    }
    columns = {name: torch.nested.as_nested_tensor(column, layout=torch.jagged) for name, column in rows.items()}
    defaults = {
        "temperature": 1.0, "use_remove_padding": True, "use_dynamic_bsz": False,
        "micro_batch_size_per_gpu": micro_batch or len(lengths), "global_batch_size": len(lengths),
    }
    return tu.get_tensordict(columns, defaults | settings)


def infer(engine: Any, batch: Any) -> dict[str, Any]:
    with engine.eval_mode():
        return dict(engine.infer_batch(batch)["model_output"])


def energy_flag() -> dict[str, bool]:
    from actfocus_verl.integration.engine import CALCULATE

    return {CALCULATE["energy"]: True}


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
    import torch

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
    """The energy under bf16 against float32, and at two cuts into micro-batches; in nats and as a weight's change."""
    import torch

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
        "weight (beta 0.5), largest change": float(0.5 * (torch.sub(whole, exact) / spread).abs().max()),
    }


def check_loss(bench: Bench) -> Result:
    """Weights of 1 against verl's own loss, bit for bit; other weights against Eq. 6 written out."""
    import torch
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
    import torch

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
    import torch
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

    from actfocus_verl.integration import engine as ours

    row = 2048
    model = SHAPES[shape]
    if bench.tiny:
        row, tokens, model = 32, 256, SMALL
    kernel = patch.object(transformer_impl, "logprobs_from_logits", one_pass_log_probs)
    reduction = patch.object(ours, "_LEAST_LOG_PROB", float("inf"))  # then no log-prob is good enough
    arms: dict[str, tuple[dict[str, bool], Any]] = {
        "without": ({}, nullcontext()),
        "energy": (energy_flag(), nullcontext()),
        "energy of the logits": (energy_flag(), reduction),
    }
    lines: dict[str, list[Result]] = {name: [] for name in arms}
    with bench.engine(model) as engine, kernel if one_pass and bench.cuda else nullcontext():
        for turn in range(rounds + 1):
            for name in list(arms) if turn % 2 else list(arms)[::-1]:
                flags, change = arms[name]
                batch = make_batch(model["vocab_size"], [row] * (tokens // row), micro_batch=8, **flags)
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
        ratios = sorted(with_["seconds"] / without["seconds"] for with_, without in pairs)
        found[name] |= {"ratio": median(ratios), "smallest ratio": ratios[0], "largest ratio": ratios[-1]}
    return {"passed": True, "tokens": tokens, "rounds": rounds, "arms": found}


def check_update_memory(bench: Bench) -> Result:
    """Seconds and peak memory of forward and backward with an entropy bonus, with and without entropy in chunks."""
    from verl.workers.config import ActorConfig, PolicyLossConfig

    from actfocus_verl.integration.loss import token_weighted_ppo_loss

    model, lengths = (SMALL, [32] * 4) if bench.tiny else (SHAPES["0.5B"], [2048] * 4)
    found: Result = {}
    for chunked in (False, True):
        settings = {"entropy_from_logits_with_chunking": chunked, "entropy_checkpointing": chunked}
        config = ActorConfig(
            strategy="fsdp2",
            rollout_n=1,
            use_dynamic_bsz=True,
            entropy_coeff=0.001,
            policy_loss=PolicyLossConfig(loss_mode="token_weighted"),
        )
        loss = partial(token_weighted_ppo_loss, config=config)
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
    cost = partial(partial, check_cost)
    return [
        Check("energy, fsdp2", partial(check_energy, strategy="fsdp2", forward_only=False), 5),
        Check("energy, fsdp2, forward only", partial(check_energy, strategy="fsdp2", forward_only=True), 4),
        Check("logit kernels", check_kernels, 6),
        Check("cost, 0.5B", cost(shape="0.5B", tokens=65536, one_pass=True, rounds=5), 15),
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
                Check("cost, 1.5B", cost(shape="1.5B", tokens=65536, one_pass=True, rounds=5), 25),
                Check("cost, 3B", cost(shape="3B", tokens=65536, one_pass=True, rounds=5), 40),
            ]
        ),
        Check("update", check_update_memory, 20),
        Check("cost, 0.5B, verl's log-probs", cost(shape="0.5B", tokens=16384, one_pass=False, rounds=3), 15),
    ]


def machine(device: str) -> Result:
    import torch

    def version(name: str) -> str | None:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            return None

    names = ("torch", "transformers", "verl", "tensordict", "peft", "triton", "flash-attn")
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else "CPU",
        "python": sys.version.split()[0],
        "versions": {name: version(name) for name in names},
    }


def run(device: str, tiny: bool, budget: float, only: list[str], out: Path) -> bool:
    start = time.monotonic()
    import torch.distributed as dist

    import_without_ray(device)
    sys.path.insert(0, str(Path(__file__).parent))
    report: Result = machine(device) | {"import_seconds": time.monotonic() - start, "checks": {}}
    print(json.dumps({key: value for key, value in report.items() if key != "checks"}), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        store = f"file://{folder}/store"
        backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "cpu:gloo"
        dist.init_process_group(backend, init_method=store, rank=0, world_size=1)
        bench = Bench(device, tiny, Path(folder), rounds=2 if tiny else 5)
        for check in checks(tiny):
            if only and not any(part in check.name for part in only):
                continue
            left = budget - (time.monotonic() - start)
            report["checks"][check.name] = _one(check, bench, left)
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(json.dumps(report, indent=1) + "\n")
        dist.destroy_process_group()
    return all(result.get("passed", False) for result in report["checks"].values())


def _one(check: Check, bench: Bench, left: float) -> Result:
    if left < check.seconds:
        print(f"{check.name}: left out, {left:.0f} s left", flush=True)
        return {"left_out": True}
    began = time.monotonic()
    try:
        result = check.run(bench)
    except Exception as error:  # a check that cannot run must not hide the others
        traceback.print_exc()
        result = {"passed": False, "error": f"{type(error).__name__}: {error}"[:500]}
    result["wall_seconds"] = round(time.monotonic() - began, 1)
    print(f"{check.name}: {json.dumps(result)}", flush=True)
    return result


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="sizes for a test on a CPU")
    parser.add_argument("--budget-seconds", type=float, default=600.0)
    parser.add_argument("--only", nargs="*", default=[], help="checks whose name contains one of these")
    parser.add_argument("--out", type=Path, default=Path("gpu_check.json"))
    parser.add_argument("--table", type=Path, help="print the tables of an earlier run instead")
    chosen = parser.parse_args(arguments)
    if chosen.table:
        from gpu_check_table import tables

        print(tables(json.loads(chosen.table.read_text())), end="")
        return 0
    return 0 if run(chosen.device, chosen.tiny, chosen.budget_seconds, chosen.only, chosen.out) else 1


if __name__ == "__main__":
    sys.exit(main())
