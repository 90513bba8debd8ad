"""The model that was named: a folder, a Hugging Face id, a run's checkpoint, or one that is made here first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from actfocus_verl.errors import ConfigurationError, first_line, one_line
from actfocus_verl.evaluation.checkpoints import Checkpoint, find_checkpoint, merge
from actfocus_verl.hub import HUB_ID, UNREADABLE
from actfocus_verl.local_models import Observer, resolve, unobserved
from actfocus_verl.rollout import ChatCodec
from actfocus_verl.rollout.templates import MODEL_KEY, OPTIONS_KEY, PREFILL_KEY, TEMPLATE_KEY
from actfocus_verl.run_files import CHECKPOINTS_FOLDER, CONFIG_FILE

_WEIGHTS = ("*.safetensors", "*.bin")


@dataclass(frozen=True)
class NamedModel:
    """name: the absolute folder, or the Hugging Face id. checkpoint: of a run, where the folder is one."""

    name: str
    is_folder: bool
    checkpoint: Checkpoint | None = None

    @property
    def run(self) -> Path | None:
        """The run's folder."""
        return self.checkpoint.run if self.checkpoint else None

    @property
    def step(self) -> int | None:
        """Training steps of the checkpoint."""
        return self.checkpoint.step if self.checkpoint else None

    def with_weights(self, environment: Mapping[str, str]) -> str:
        """The folder or id that vLLM can load; a checkpoint is merged first (see `checkpoints.merge`)."""
        return str(merge(self.checkpoint, environment)) if self.checkpoint else self.name

    def without_weights(self) -> str:
        """The folder or id that holds at least the tokenizer."""
        return str(self.checkpoint.tokenizer) if self.checkpoint else self.name


def find_model(name: str, step: int | None, observe: Observer = unobserved) -> NamedModel:
    """The model called `name`, which may be made first (see `local_models`).

    observe: told of the making. Raises ConfigurationError when there is none of this name, or `step` does not fit it.
    """
    made = resolve(name, observe)
    folder = made or Path(name).expanduser()
    if folder.is_dir():
        folder = folder.absolute()
        if (folder / "config.json").is_file():
            _require_no_step(step)
            return NamedModel(str(folder), is_folder=True)
        if (folder / CONFIG_FILE).is_file() or (folder / CHECKPOINTS_FOLDER).is_dir():
            return NamedModel(str(folder), is_folder=True, checkpoint=find_checkpoint(folder, step))
        problem = f"the folder holds neither a model (config.json) nor a run ({CONFIG_FILE}, {CHECKPOINTS_FOLDER})"
        raise ConfigurationError("model", name, problem, "Name one of the two")
    if folder.exists() or not HUB_ID.match(name):
        raise ConfigurationError(
            "model", name, "is not a folder", "Name a folder, or a Hugging Face id: organisation/name"
        )
    _require_no_step(step)
    return NamedModel(name, is_folder=False)


def _require_no_step(step: int | None) -> None:
    if step is not None:
        raise ConfigurationError("step", step, "the model is not a run with checkpoints", "Remove it, or name a run")


@dataclass(frozen=True)
class ModelFiles:
    """What is known of a model before it is loaded.

    path: folder or id. codec: its tokenizer and chat template. positions: the longest context it was made for.
    revision: of a Hugging Face id, its commit; None for a folder.
    """

    path: str
    codec: ChatCodec
    positions: int | None
    revision: str | None


def read_model(path: str, template_options: Mapping[str, object] | None = None, opening: str = "") -> ModelFiles:
    """Read configuration and tokenizer. Raises ConfigurationError when that is impossible.

    template_options: further names for the chat template, `enable_thinking` for Qwen3's. opening: see `ChatCodec`.
    """
    from transformers import AutoConfig, AutoTokenizer

    try:
        network: Any = AutoConfig.from_pretrained(path)
        tokenizer: Any = AutoTokenizer.from_pretrained(path)
    except UNREADABLE as error:
        problem = f"its configuration and tokenizer cannot be read ({one_line(error, 300)})"
        raise ConfigurationError("model", path, problem, "Name a complete model") from error
    text = network.get_text_config()
    return ModelFiles(
        path,
        _codec(path, tokenizer, opening, template_options or {}),
        getattr(text, "max_position_embeddings", None),
        getattr(network, "_commit_hash", None),
    )


def _codec(path: str, tokenizer: Any, opening: str, options: Mapping[str, object]) -> ChatCodec:
    """The codec; errors name the keys of `evaluate`, not those of a training run."""
    try:
        return ChatCodec(tokenizer, opening, **options)
    except ConfigurationError as error:
        key, value = ("model", path) if error.key == MODEL_KEY else (error.key, error.value)
        remedy = error.remedy.replace(f"{TEMPLATE_KEY}, or ", "").replace(f", or set {TEMPLATE_KEY}", "")
        remedy = remedy.replace(f"+{OPTIONS_KEY}", "template").replace(PREFILL_KEY, "prefill")
        raise ConfigurationError(key.replace(OPTIONS_KEY, "template"), value, error.problem, remedy) from error


def weights_digest(path: str) -> str:
    """Hexadecimal hash of a folder's weight files, which identifies the model of an evaluation."""
    digest, folder = blake2b(digest_size=16), Path(path)
    for file in sorted({path for pattern in _WEIGHTS for path in folder.glob(pattern)}):
        digest.update(f"{file.name}\0{file.stat().st_size}\0".encode())
        with file.open("rb") as stream:
            while block := stream.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()


def load_policy(path: str, device: str) -> Any:
    """The model in float32 for evaluation. Raises ConfigurationError when it or the device cannot be used."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was built with CUDA
        problem = f"torch cannot use it here ({first_line(error)})"
        raise ConfigurationError("device", device, problem, "Write device=cpu") from error
    try:
        model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    except UNREADABLE as error:
        problem = f"cannot be loaded ({one_line(error, 300)})"
        raise ConfigurationError("model", path, problem, "Name a complete model") from error
    return model.eval().to(place)
