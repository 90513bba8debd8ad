"""verl's real FSDP engine on a tiny random model, on a CPU, without Ray; and batches as verl's workers receive them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from tensordict import TensorDict
from verl.trainer.config import CheckpointConfig
from verl.utils import tensordict_utils as tu
from verl.workers.config import FSDPEngineConfig, FSDPOptimizerConfig, HFModelConfig
from verl.workers.engine import EngineRegistry

from actfocus_verl.integration.engine import CALCULATE
from actfocus_verl.integration.loss import token_weighted_ppo_loss
from actfocus_verl.platforms.packed_attention import PACKED_SDPA
from tests.helpers.losses import actor_config
from tests.helpers.tokenizer import build_tokenizer

VOCABULARY = 300
TOKEN_COLUMNS = ("response_mask", "loss_mask", "old_log_probs", "ref_log_prob", "advantages", "token_weights")


def save_tiny_model(folder: Path, **settings: Any) -> Path:
    """A two-layer Qwen2 with random weights and its tokenizer, as a Hugging Face folder; the same every time.

    settings: of its configuration, beside or instead of those here.
    """
    from transformers import Qwen2Config, Qwen2ForCausalLM

    defaults = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "tie_word_embeddings": True,
        "initializer_range": 0.3,  # far from uniform predictions, so that a misplaced position is seen
    }
    config = Qwen2Config(**(defaults | settings))
    tokenizer = build_tokenizer(vocab_size=config.vocab_size)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Qwen2ForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@contextmanager
def process_group(folder: Path, *, rank: int = 0, world_size: int = 1) -> Iterator[None]:
    """gloo over a file store in `folder`, which must be new; torch has one thread meanwhile."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    dist.init_process_group(
        "cpu:gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=world_size, timeout=None
    )
    try:
        yield
    finally:
        dist.destroy_process_group()
        torch.set_num_threads(threads)


def build_engine(
    folder: Path,
    *,
    model_type: str = "language_model",
    forward_only: bool = False,
    model_dtype: str = "fp32",
    save_lora_only: bool = False,
    lr: float = 0.0,
    **model: Any,
) -> Any:
    """The engine that verl's registry gives for `fsdp2` on this platform, initialised; it computes in float32.

    model: fields of verl's model configuration, such as lora_rank.
    """
    engine_config = FSDPEngineConfig(
        strategy="fsdp2",
        model_dtype=model_dtype,
        dtype="float32",
        use_torch_compile=False,
        forward_only=forward_only,
        mixed_precision={"param_dtype": "fp32", "reduce_dtype": "fp32", "buffer_dtype": "fp32"},
    )
    model_config = HFModelConfig(
        path=str(folder),
        override_config={"attn_implementation": PACKED_SDPA},
        enable_gradient_checkpointing=False,
        use_remove_padding=False,
        model_type=model_type,
        **model,
    )
    engine = EngineRegistry.new(
        model_type,
        "fsdp2",
        model_config=model_config,
        engine_config=engine_config,
        optimizer_config=FSDPOptimizerConfig(lr=lr, total_training_steps=1),
        checkpoint_config=CheckpointConfig(save_lora_only=save_lora_only),
    )
    engine.initialize()
    return engine


def make_rows(count: int, seed: int = 0) -> list[dict[str, torch.Tensor]]:
    """Rows as an agent loop leaves them plus what the trainer adds: prompts of 3-6 and responses of 4-9 tokens."""
    generator = torch.Generator().manual_seed(seed)

    def integers(low: int, high: int, size: tuple[int, ...] = ()) -> torch.Tensor:
        return torch.randint(low, high, size, generator=generator)

    rows = []
    for _ in range(count):
        prompt, length = integers(3, VOCABULARY, (int(integers(3, 7)),)), int(integers(4, 10))
        response = integers(3, VOCABULARY, (length,))
        mask = (torch.rand(length, generator=generator) < 0.8).long()
        mask[0] = 1
        floats = {
            name: torch.randn(length, generator=generator) for name in ("old_log_probs", "ref_log_prob", "advantages")
        }
        rows.append(
            {
                "prompts": prompt,
                "responses": response,
                "input_ids": torch.cat([prompt, response]),
                "position_ids": torch.arange(len(prompt) + length),
                "response_mask": mask,
                "loss_mask": mask,
                "old_log_probs": floats["old_log_probs"] * 0.3 - 5.7,  # near log(1 / VOCABULARY): ratios around 1
                "ref_log_prob": floats["ref_log_prob"] * 0.3 - 5.7,
                "advantages": floats["advantages"],
                "token_weights": torch.rand(length, generator=generator) * 2 * mask,
            }
        )
    return rows


def to_batch(rows: list[dict[str, torch.Tensor]], **settings: Any) -> TensorDict:
    """The rows as verl's workers receive them: jagged columns, and settings as non-tensor data."""
    names = [name for name in rows[0] if all(name in row for row in rows)]
    columns = {name: torch.nested.as_nested_tensor([row[name] for row in rows], layout=torch.jagged) for name in names}
    defaults = {
        "temperature": 1.0,
        "use_remove_padding": False,
        "use_dynamic_bsz": False,
        "micro_batch_size_per_gpu": len(rows),
        "global_batch_size": len(rows),
    }
    return tu.get_tensordict(columns, defaults | settings)


def infer(engine: Any, batch: TensorDict) -> dict[str, torch.Tensor]:
    """The model outputs of a forward pass, as verl's reference pass runs it."""
    with engine.eval_mode():
        return dict(engine.infer_batch(batch)["model_output"])


def gradients(engine: Any, batch: TensorDict, loss: Callable[..., Any]) -> dict[str, torch.Tensor]:
    """Full gradients by parameter name after the engine's own forward and backward over the batch."""
    with engine.train_mode():
        engine.optimizer_zero_grad()
        engine.forward_backward_batch(batch, loss)
        named = engine.module.named_parameters()
        return {name: _full(weight.grad).clone() for name, weight in named if weight.grad is not None}


def disturb_adapter(engine: Any) -> None:
    """Give an adapter, whose B is zero at first, the weights of one that was trained."""
    generator = torch.Generator().manual_seed(0)
    for name, weight in engine.module.named_parameters():
        if "lora_B" in name or "lora_embedding_" in name:
            local = weight.to_local() if hasattr(weight, "to_local") else weight
            local.data.copy_(torch.randn(local.shape, generator=generator))


def save_run(folder: Path, engine: Any, *steps: int, latest: int) -> Path:
    """A run's folder with the checkpoints of these steps, written by verl's engine and checkpoint manager.

    latest: the step that the trainer noted as complete.
    """
    for step in steps:
        engine.save_checkpoint(str(folder / "checkpoints" / f"global_step_{step}" / "actor"), global_step=step)
    (folder / "checkpoints" / "latest_checkpointed_iteration.txt").write_text(str(latest))
    (folder / "config.yaml").write_text("run: {}\n")
    return folder


def _full(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def rank_gradients(rank: int, world_size: int, store: Path, model: Path, rows: int, out: Path) -> None:
    """One rank of a data-parallel update, for `torch.multiprocessing.spawn`: its share of `make_rows(rows)`, saved.

    The gradients go to `out`, and this rank's energies to a file of its number beside it.
    """
    torch.set_num_threads(1)
    share = rows // world_size
    with process_group(store, rank=rank, world_size=world_size):
        engine = build_engine(model)
        mine = make_rows(rows)[rank * share : (rank + 1) * share]
        batch = to_batch(mine, global_batch_size=rows, micro_batch_size_per_gpu=share // 2, calculate_entropy=True)
        found = gradients(engine, batch, weighted_loss())
        energies = infer(engine, to_batch(mine, use_remove_padding=True, **{CALCULATE["energy"]: True}))["energy"]
        torch.save(energies.values(), out.with_name(f"energies{rank}.pt"))
        if rank == 0:
            torch.save(found, out)


def weighted_loss(**settings: Any) -> Callable[..., Any]:
    """Our loss with KL and entropy terms on, as the trainer hands it to the workers."""
    config = actor_config("token_weighted", use_kl_loss=True, kl_loss_coef=0.1, entropy_coeff=0.01, **settings)
    return partial(token_weighted_ppo_loss, config=config)
