"""A checkpoint's shards as a Hugging Face folder: verl's merger, without its rounding, and with adapters merged.

    python -m actfocus_verl.integration.merger <actor's folder> <new folder> <bf16 or fp32>

verl's own always writes bfloat16, and for a LoRA run the untrained base model with an adapter beside it that no reader
of the folder loads. Here weights are rounded once, at the end, and peft merges the adapter.
Exit status: 0, or 2 for a checkpoint that cannot be merged; the last line of stdout is then the reason.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

import torch
from accelerate import init_empty_weights
from peft import LoraConfig, get_peft_model
from torch.distributed.tensor import DTensor
from verl.model_merger.base_model_merger import ModelMergerConfig
from verl.model_merger.fsdp_model_merger import FSDPModelMerger, merge_non_dtensor_shards

from actfocus_verl.errors import ConfigurationError
from actfocus_verl.integration.checkpoints import ADAPTER_CONFIG

DTYPES: Final = {"bf16": torch.bfloat16, "fp32": torch.float32}
_EXIT_MISTAKE: Final = 2
_ADAPTER: Final = ("lora_", ".modules_to_save.")
"""Part of every adapter weight's name."""
_REWRITTEN: Final = ("config.json", "model.safetensors.index.json", "pytorch_model.bin.index.json")
_WEIGHTS: Final = (".safetensors", ".bin")


class FoldingMerger(FSDPModelMerger):
    """verl's merger of FSDP shards, whose result is the model that was trained.

    Raises ConfigurationError, in one line, when it cannot guarantee that.
    """

    def __init__(self, actor: Path, target: Path, dtype: torch.dtype) -> None:
        super().__init__(
            ModelMergerConfig(
                operation="merge",
                backend="fsdp",
                local_dir=str(actor),
                target_dir=str(target),
                hf_model_config_path=str(actor / "huggingface"),
            )
        )
        self._actor, self._target, self._dtype = actor, target, dtype
        # The attention of whoever trained: its name may be unknown here, and none is needed to write weights.
        self.model_config._attn_implementation = "eager"

    @torch.no_grad()
    def _load_and_merge_state_dicts(
        self, world_size: int, total_shards: int, mesh_shape: tuple[int, ...], mesh_dim_names: tuple[str, ...]
    ) -> dict[str, torch.Tensor]:
        """The full weights by name, in the precision of the shards."""
        shards = [
            torch.load(
                self._actor / f"model_world_size_{world_size}_rank_{rank}.pt",
                map_location="cpu",
                weights_only=False,
                mmap=True,
            )
            for rank in range(total_shards)
        ]
        is_adapted = any(map(_is_of_adapter, shards[0]))
        state = {}
        for name in list(shards[0]):
            parts = [shard.pop(name) for shard in shards]
            if isinstance(parts[0], DTensor):
                placement = parts[0].placements[-1]  # the first of two is a replication
                whole = self._merge_by_placement([part.to_local() for part in parts], placement)
            else:
                whole = merge_non_dtensor_shards(name, parts)
            state[name] = whole if is_adapted else self._rounded(whole)  # an adapter is folded in first
        return state

    def save_hf_model_and_tokenizer(self, state_dict: dict[str, torch.Tensor]) -> None:
        """Write the folder: weights, configuration, and the checkpoint's other files for a reader."""
        model = self._empty_model()
        adapter = self._adapter(state_dict) if any(map(_is_of_adapter, state_dict)) else None
        if adapter is not None and not _embeddings(model).isdisjoint(map(_layer, filter(_is_of_adapter, state_dict))):
            model = self._empty_model(tie_word_embeddings=False)  # with an adapter in one, the two matrices differ
        with init_empty_weights():
            wrapped = model if adapter is None else get_peft_model(model, adapter)
        unexpected = wrapped.load_state_dict(state_dict, strict=False, assign=True).unexpected_keys
        if model.config.get_text_config().tie_word_embeddings:
            model.tie_weights()
        missing = [name for name, weight in wrapped.named_parameters() if weight.is_meta]
        if unexpected or missing:
            remedy = (
                f"Put the adapter's own {ADAPTER_CONFIG} there" if adapter else "Use the checkpoint of another step"
            )
            self._refuse(_difference(unexpected, missing), remedy)
        folded: Any = model if adapter is None else wrapped.merge_and_unload()
        folded.to(self._dtype).save_pretrained(self._target)
        self._copy_the_rest()

    def _empty_model(self, **changes: Any) -> Any:
        """The model without its weights."""
        for name, value in changes.items():
            for config in (self.model_config, self.model_config.get_text_config()):
                setattr(config, name, value)
        with init_empty_weights():
            return self.get_transformers_auto_model_class().from_config(self.model_config, dtype=self._dtype)

    def _adapter(self, state_dict: dict[str, torch.Tensor]) -> LoraConfig:
        """The adapter's configuration: as our engine saved it, or, for verl's own, from rank, alpha and names."""
        if not any(name.endswith("weight") and not _is_of_adapter(name) for name in state_dict):
            problem = "holds the adapter alone, without the model it belongs to"
            self._refuse(problem, "Train without save_lora_only in actor_rollout_ref.actor.checkpoint")
        if (self._actor / ADAPTER_CONFIG).is_file():
            adapter = LoraConfig.from_pretrained(str(self._actor))
        else:
            meta = self._load_lora_train_meta() or {}
            if not meta.get("r") or not meta.get("lora_alpha"):
                problem = "has a LoRA adapter of unknown rank and alpha"
                self._refuse(problem, f"Put the adapter's own {ADAPTER_CONFIG} there")
            targets = sorted({_layer(name) for name in state_dict if ".lora_" in name})
            adapter = LoraConfig(r=meta["r"], lora_alpha=meta["lora_alpha"], target_modules=targets)
        adapter.init_lora_weights = False  # they are loaded
        adapter.inference_mode = False
        return adapter

    def _refuse(self, problem: str, remedy: str) -> NoReturn:
        raise ConfigurationError("checkpoint", str(self._actor), problem, remedy)

    def _rounded(self, weight: torch.Tensor) -> torch.Tensor:
        return weight.to(self._dtype) if weight.is_floating_point() else weight

    def _copy_the_rest(self) -> None:
        """Tokenizer, chat template, generation config, processor: unchanged."""
        for path in sorted((self._actor / "huggingface").iterdir()):
            if path.is_file() and path.name not in _REWRITTEN and path.suffix not in _WEIGHTS:
                shutil.copyfile(path, self._target / path.name)
        for path in self._target.glob("*.safetensors"):  # written for their owner alone
            path.chmod((self._target / "config.json").stat().st_mode)


def _is_of_adapter(name: str) -> bool:
    return any(part in name for part in _ADAPTER)


def _layer(name: str) -> str:
    """The layer of the model that a weight of an adapter belongs to."""
    return re.split(r"\.lora_|\.modules_to_save\.", name)[0].removeprefix("base_model.model.")


def _embeddings(model: Any) -> set[str]:
    """Names of the layers that share one weight where embeddings are tied; none where they are not."""
    if not model.config.get_text_config().tie_word_embeddings:
        return set()
    layers = (model.get_input_embeddings(), model.get_output_embeddings())
    return {name for name, module in model.named_modules() if any(module is layer for layer in layers)}


def _difference(unexpected: Sequence[str], missing: Sequence[str]) -> str:
    parts = {"weights that its configuration does not explain": unexpected, "no weights for": missing}
    return " and ".join(f"has {what} ({', '.join(names[:3])})" for what, names in parts.items() if names)


def main(words: Sequence[str]) -> int:
    """Merge; returns the exit status."""
    actor, target, dtype = words
    try:
        FoldingMerger(Path(actor), Path(target), DTYPES[dtype]).merge_and_save()
    except ConfigurationError as error:
        sys.stdout.write(f"{error}\n")
        return _EXIT_MISTAKE
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
