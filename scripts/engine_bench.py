"""verl's FSDP engine on random weights in one process, without Ray; what gpu_check.py and benchmark_energy.py share.

verl imports Ray, TransferQueue and the like, and a pass over a batch uses none of them: empty modules do.
"""

from __future__ import annotations

import gc
import importlib.abc
import importlib.machinery
import itertools
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch.profiler import ProfilerActivity, profile

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
SMALL: dict[str, Any] = {
    "vocab_size": 2000,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.35,
}
SHAPES: dict[str, dict[str, Any]] = {
    name: {
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
    }
    for name, hidden, intermediate, layers, heads in (
        ("0.5B", 896, 4864, 24, 14),
        ("1.5B", 1536, 8960, 28, 12),
        ("3B", 2048, 11008, 36, 16),
    )
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


class AbsentFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
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
    sys.meta_path.insert(0, AbsentFinder(ABSENT))
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
        if self.cuda:
            torch.cuda.synchronize()

    @contextmanager
    def measured(self) -> Iterator[Result]:
        """Fill in the block's seconds, and the GPU memory it adds at its peak in GB (None on a CPU)."""
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


@contextmanager
def alone(device: str, **settings: Any) -> Iterator[Bench]:
    """A bench in a process group of one, in a temporary folder. settings: the bench's. After `import_without_ray`."""
    with tempfile.TemporaryDirectory() as folder:
        backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "cpu:gloo"
        dist.init_process_group(backend, init_method=f"file://{folder}/store", rank=0, world_size=1)
        yield Bench(device, folder=Path(folder), **settings)
        dist.destroy_process_group()


def make_batch(vocabulary: int, lengths: list[int], *, micro_batch: int | None = None, **settings: Any) -> Any:
    """Random rows, half of each a response, as verl's workers receive them."""
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
        "temperature": 1.0,
        "use_remove_padding": True,
        "use_dynamic_bsz": False,
        "micro_batch_size_per_gpu": micro_batch or len(lengths),
        "global_batch_size": len(lengths),
    }
    return tu.get_tensordict(columns, defaults | settings)


def token_weighted_loss(**settings: Any) -> Callable[..., Any]:
    """Our loss as an update gets it. settings: of verl's actor."""
    from verl.workers.config import ActorConfig, PolicyLossConfig

    from actfocus_verl.integration.loss import token_weighted_ppo_loss

    config = ActorConfig(
        strategy="fsdp2",
        rollout_n=1,
        use_dynamic_bsz=True,
        policy_loss=PolicyLossConfig(loss_mode="token_weighted"),
        **settings,
    )
    return partial(token_weighted_ppo_loss, config=config)


def infer(engine: Any, batch: Any) -> dict[str, Any]:
    with engine.eval_mode():
        return dict(engine.infer_batch(batch)["model_output"])


def energy_flag() -> dict[str, bool]:
    from actfocus_verl.integration.engine import CALCULATE

    return {CALCULATE["energy"]: True}


def peak_bytes(call: Callable[[], object]) -> int:
    """Most bytes of main memory that torch held at a time beyond what it held before; the results are among them."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        call()
    assert profiled.profiler is not None
    assert profiled.profiler.kineto_results is not None
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns()))
    return max(held, default=0)
