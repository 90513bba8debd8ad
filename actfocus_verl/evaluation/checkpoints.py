"""A run's checkpoint as a Hugging Face folder: verl's own merger, run once for each checkpoint."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from actfocus_verl.errors import ConfigurationError
from actfocus_verl.evaluation.sampling import EvaluationError

_LATEST = "latest_checkpointed_iteration.txt"
"""verl writes it once a checkpoint is complete."""
_ERROR_LINES = 5


@dataclass(frozen=True)
class Checkpoint:
    """The actor's shards after `step` training steps."""

    run: Path
    step: int

    @property
    def actor(self) -> Path:
        """verl's folder of the actor."""
        return self.run / "checkpoints" / f"global_step_{self.step}" / "actor"

    @property
    def tokenizer(self) -> Path:
        """The model's configuration and tokenizer, without weights."""
        return self.actor / "huggingface"

    @property
    def merged(self) -> Path:
        """The Hugging Face folder, once it is merged."""
        return self.run / "merged" / f"global_step_{self.step}"


def find_checkpoint(run: Path, step: int | None) -> Checkpoint:
    """The checkpoint of a step, or the latest. Raises ConfigurationError where the run has none such."""
    folder = run / "checkpoints"
    kept = sorted(int(path.name.rpartition("_")[2]) for path in folder.glob("global_step_*") if _is_checkpoint(path))
    if not kept:
        remedy = "Let it reach one (trainer.save_freq), or name a model's folder"
        raise ConfigurationError("model", str(run), "the run has no checkpoint", remedy)
    if step is None:
        step = _latest(folder, kept)
    if step not in kept:
        raise ConfigurationError(
            "step", step, f"{run} has no checkpoint of it", f"Use one of: {', '.join(map(str, kept))}"
        )
    return Checkpoint(run, step)


def merge(checkpoint: Checkpoint, environment: Mapping[str, str]) -> Path:
    """Merge the checkpoint unless that was done before; returns the Hugging Face folder.

    The folder appears complete or not at all, whatever ends the merger. verl's merger writes bfloat16 whatever the
    training used. environment: variables for the merger's process. Raises EvaluationError when it fails.
    """
    target = checkpoint.merged
    if target.is_dir():
        return target
    target.parent.mkdir(exist_ok=True)
    with FileLock(target.parent / ".lock"):
        if target.is_dir():  # another evaluation merged it while this one waited
            return target
        unfinished = target.with_name(f".{target.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        _run_merger(checkpoint.actor, unfinished, environment)
        unfinished.rename(target)
    return target


def _run_merger(actor: Path, target: Path, environment: Mapping[str, str]) -> None:
    command = [sys.executable, "-m", "verl.model_merger", "merge", "--backend", "fsdp"]
    command += ["--local_dir", str(actor), "--target_dir", str(target)]
    result = subprocess.run(
        command,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if result.returncode or not any(target.glob("*.safetensors")):
        said = " | ".join(result.stdout.strip().splitlines()[-_ERROR_LINES:])
        raise EvaluationError(f"verl's model merger failed on {actor} (exit status {result.returncode}): {said}")


def _is_checkpoint(folder: Path) -> bool:
    return folder.name.rpartition("_")[2].isdecimal() and (folder / "actor" / "fsdp_config.json").is_file()


def _latest(folder: Path, kept: list[int]) -> int:
    """What verl noted as complete; without such a note, the highest step."""
    try:
        return int((folder / _LATEST).read_text())
    except (OSError, ValueError):
        return kept[-1]
