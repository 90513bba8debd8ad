"""The files of a run, below ``outputs/<experiment>/<run>/``: their names, and the reading that several rooms share.

====================================  ================================================================================
``config.yaml``                       the resolved configuration (launch/record.py)
``run.json``                          versions, commit, machine, start, end, exit reason (launch/record.py)
``metrics.jsonl``                     a flat object per step, with ``step`` (integration/run_log.py)
``played_step.json``                  the newest step's object until ``metrics.jsonl`` has it (integration/run_log.py)
``local_updates.jsonl``               a flat object per local update of ``schedule=separate_async``, with ``step``
                                      (integration/run_log.py)
``evaluations.jsonl``                 an object per evaluation and data source (integration/run_log.py)
``failed_episodes.jsonl``             an object per episode that ended in an error (integration/standstill.py)
``rollouts/<step>.jsonl``             a sample of the episodes of a step (integration/run_log.py)
``checkpoints/global_step_<step>/``   verl's checkpoints, with its note of the latest complete one
``merged/global_step_<step>/``        the Hugging Face folder of a checkpoint (evaluation/checkpoints.py)
``claim.json``                        which process writes here now (launch/claim.py)
``diagnose/``, ``figures/``           what the commands of these names write
====================================  ================================================================================
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

CONFIG_FILE: Final = "config.yaml"
RUN_FILE: Final = "run.json"
METRICS_FILE: Final = "metrics.jsonl"
PLAYED_STEP_FILE: Final = "played_step.json"
LOCAL_UPDATES_FILE: Final = "local_updates.jsonl"
EVALUATIONS_FILE: Final = "evaluations.jsonl"
FAILED_EPISODES_FILE: Final = "failed_episodes.jsonl"
CHECKPOINTS_FOLDER: Final = "checkpoints"
TRACKER_FILE: Final = "latest_checkpointed_iteration.txt"
"""Beside the checkpoints: verl writes the step of each into it once that is complete."""
STEP_FOLDER: Final = "global_step_"
"""The start of a checkpoint folder's name, before the step."""
TINY_POLICY_FILE: Final = "tiny_policy.json"
"""Beside a tiny policy's weights: its config, seconds by phase, and the play of the finished policy."""

_ROLLOUTS_FOLDER: Final = "rollouts"


def rollouts_file(run: Path, step: int) -> Path:
    """Where the sampled episodes of a step go."""
    return run / _ROLLOUTS_FOLDER / f"{step}.jsonl"


def rollout_files(run: Path) -> dict[int, Path]:
    """The files of sampled episodes that there are, by step, in order."""
    files = (run / _ROLLOUTS_FOLDER).glob("*.jsonl")
    return dict(sorted((int(file.stem), file) for file in files if file.stem.isdecimal()))


def saved_steps(checkpoints: Path) -> list[int]:
    """The steps that have a checkpoint folder, whole or not, in order."""
    found = (checkpoint_step(path) for path in checkpoints.glob(f"{STEP_FOLDER}*"))
    return sorted(step for step in found if step is not None)


def checkpoint_step(folder: Path) -> int | None:
    """The step of a checkpoint folder; None where that is no folder, or has another name."""
    step = folder.name.removeprefix(STEP_FOLDER)
    return int(step) if step.isdecimal() and folder.is_dir() else None


def tracked_step(checkpoints: Path) -> str | None:
    """What verl noted as the latest complete checkpoint: the text of a step, unless the file is damaged; None: none."""
    file = checkpoints / TRACKER_FILE
    return file.read_text(errors="replace").strip() if file.is_file() else None


def complete_lines(content: bytes) -> list[bytes]:
    """The lines of a file that have ended, without their ends; not the one that is being written, or was cut short."""
    return content.split(b"\n")[:-1]


def kept_lines(path: Path) -> list[bytes]:
    """The complete lines of a file that is appended to; a last one that was cut short is removed from it."""
    if not path.exists():
        return []
    content = path.read_bytes()
    if content and not content.endswith(b"\n"):
        with path.open("r+b") as file:
            file.truncate(content.rfind(b"\n") + 1)
    return complete_lines(content)
