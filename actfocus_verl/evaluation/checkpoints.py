"""A run's checkpoint as a Hugging Face folder: shards and adapter merged (integration/merger.py)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml
from filelock import FileLock
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from actfocus_verl.errors import ConfigurationError
from actfocus_verl.evaluation.sampling import EvaluationError
from actfocus_verl.run_files import CHECKPOINTS_FOLDER, CONFIG_FILE, STEP_FOLDER, saved_steps, tracked_step

_FSDP_CONFIG = "fsdp_config.json"
MERGED_FROM = ".merged_from"
"""File of a merged model: `Checkpoint.written` of what it was merged from."""
_MERGER = "actfocus_verl.integration.merger"
_REFUSED = 2
"""The merger's exit status when it prints a one-line reason."""
_ERROR_LINES = 5


@dataclass(frozen=True)
class Checkpoint:
    """The actor's shards after `step` training steps."""

    run: Path
    step: int

    @property
    def actor(self) -> Path:
        """verl's folder of the actor."""
        return self.run / CHECKPOINTS_FOLDER / f"{STEP_FOLDER}{self.step}" / "actor"

    @property
    def tokenizer(self) -> Path:
        """The model's configuration and tokenizer, without weights."""
        return self.actor / "huggingface"

    @property
    def merged(self) -> Path:
        """The Hugging Face folder, once it is merged."""
        return self.run / "merged" / f"{STEP_FOLDER}{self.step}"

    @property
    def is_merged(self) -> bool:
        """Whether `merged` is of this checkpoint: not of an earlier one, nor a LoRA run's base beside its adapter."""
        if not self.merged.is_dir() or (self.merged / "lora_adapter").exists():
            return False
        note = self.merged / MERGED_FROM
        return note.is_file() and note.read_text() == self.written

    @property
    def written(self) -> str:
        """Tells this writing of the checkpoint from another. Equal or not: an order of dates is that of the clocks."""
        return str((self.actor / _FSDP_CONFIG).stat().st_mtime_ns)


def find_checkpoint(run: Path, step: int | None, key: str = "model") -> Checkpoint:
    """The checkpoint of a step, or the latest. Raises ConfigurationError if it is missing or incomplete.

    key: the setting that named the run.
    """
    folder = run / CHECKPOINTS_FOLDER
    steps = [each for each in saved_steps(folder) if Checkpoint(run, each).actor.is_dir()]
    missing = {each: _missing(Checkpoint(run, each).actor) for each in steps}
    whole = [each for each in steps if not missing[each]]
    if not whole:
        halves = "".join(f", only an incomplete one of step {each} ({missing[each]})" for each in steps[:1])
        remedy = "Train until a checkpoint is saved (trainer.save_freq), or name a model's folder"
        raise ConfigurationError(key, str(run), f"the run has no checkpoint{halves}", remedy)
    if step is None:
        step = _latest(folder, whole)
    others = f"Use one of: {', '.join(map(str, whole))}"
    if step not in missing:
        raise ConfigurationError("step", step, f"{run} has no checkpoint of it", others)
    if missing[step]:
        raise ConfigurationError("step", step, f"its checkpoint is incomplete ({missing[step]})", others)
    return Checkpoint(run, step)


def merge(checkpoint: Checkpoint, environment: Mapping[str, str]) -> Path:
    """Merge the checkpoint in bfloat16 unless it is merged already; returns the Hugging Face folder.

    The folder appears complete or not at all, even if the merger is killed. environment: variables for the merger's
    process. Raises EvaluationError when it fails, or cannot merge an adapter.
    """
    target = checkpoint.merged
    if checkpoint.is_merged:
        return target
    target.parent.mkdir(exist_ok=True)
    with FileLock(target.parent / ".lock"):
        if not checkpoint.is_merged:  # another evaluation may have merged it while this one waited
            with appears_whole(target) as unfinished:
                (unfinished / MERGED_FROM).write_text(checkpoint.written)
                write_model(checkpoint, unfinished, "bf16", environment)
    return target


@contextmanager
def appears_whole(target: Path) -> Iterator[Path]:
    """Yield a new folder beside `target`, which takes its place, and that of what was there, once the block has ended.

    The caller holds a lock: unfinished folders of earlier calls are removed.
    """
    _remove_unfinished(target)
    unfinished, old = (target.with_name(f".{target.name}.{word}.unfinished") for word in (os.getpid(), "old"))
    unfinished.mkdir()
    try:
        yield unfinished
        if target.exists():
            target.rename(old)
        unfinished.rename(target)
    finally:
        _remove_unfinished(target)


def _remove_unfinished(target: Path) -> None:
    for left in target.parent.glob(f".{target.name}.*.unfinished"):
        shutil.rmtree(left, ignore_errors=True)


def write_model(checkpoint: Checkpoint, target: Path, dtype: str, environment: Mapping[str, str]) -> None:
    """Write the trained model into `target`, in a separate process. dtype: bf16 or fp32.

    Raises EvaluationError when that fails, and for a checkpoint whose trained weights cannot be determined.
    """
    _require_own_adapter(checkpoint)
    result = subprocess.run(
        [sys.executable, "-m", _MERGER, str(checkpoint.actor), str(target), dtype],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    lines = result.stdout.strip().splitlines()
    if result.returncode == _REFUSED and lines:
        raise EvaluationError(lines[-1])
    if result.returncode or not any(target.glob("*.safetensors")):
        said = " | ".join(lines[-_ERROR_LINES:])
        raise EvaluationError(f"merging {checkpoint.actor} failed (exit status {result.returncode}): {said}")


def _require_own_adapter(checkpoint: Checkpoint) -> None:
    """Refuse an adapter that the run started from and whose kind was not saved: rank and alpha do not tell it."""
    actor = checkpoint.actor
    if not (actor / "lora_train_meta.json").is_file() or (actor / "adapter_config.json").is_file():
        return
    key = "actor_rollout_ref.model.lora_adapter_path"
    try:
        given = OmegaConf.select(OmegaConf.load(checkpoint.run / CONFIG_FILE), key)
    except (OSError, yaml.YAMLError, OmegaConfBaseException):
        return  # a run without a configuration: what verl itself wrote down holds
    if given is not None:
        problem = "the run started from this adapter, and its checkpoint does not record the adapter's kind"
        raise ConfigurationError(key, given, problem, f"Copy its adapter_config.json to {actor}")


def _missing(actor: Path) -> str:
    """The missing part of a checkpoint; empty when it is complete."""
    try:
        ranks = int(json.loads((actor / _FSDP_CONFIG).read_bytes())["world_size"])
    except (OSError, ValueError, KeyError, TypeError):
        return f"no {_FSDP_CONFIG}"
    for name in (f"model_world_size_{ranks}_rank_{rank}.pt" for rank in range(ranks)):
        if not zipfile.is_zipfile(actor / name):  # torch writes a zip archive, whose table of contents comes last
            return f"{name} is truncated" if (actor / name).exists() else f"no {name}"
    return "" if (actor / "huggingface" / "config.json").is_file() else "no huggingface/config.json"


def _latest(folder: Path, whole: list[int]) -> int:
    """What verl noted as complete; without such a note, the highest step."""
    noted = tracked_step(folder) or ""
    return int(noted) if noted.isdecimal() else whole[-1]
