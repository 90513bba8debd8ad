"""The run's folder: that it can be written, belongs to this run, and holds a checkpoint that can be loaded."""

from __future__ import annotations

import json
import logging
import pickle
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml
from omegaconf import DictConfig, OmegaConf

from actfocus_verl.errors import ConfigurationError, not_writable, one_line
from actfocus_verl.run_files import (
    CHECKPOINTS_FOLDER,
    CONFIG_FILE,
    EVALUATIONS_FILE,
    LOCAL_UPDATES_FILE,
    METRICS_FILE,
    STEP_FOLDER,
    TRACKER_FILE,
    checkpoint_step,
    complete_lines,
    saved_steps,
    tracked_step,
)

logger = logging.getLogger(__name__)

_IDENTITY: Final = (
    *("env", "data.train_files", "rollout", "algorithm_name", "estimator", "credit", "filter"),
    *("model.path", "tiny_policy", "run.seed", "trainer.v1.trainer_mode"),
)
"""Sections and keys whose difference makes it another run."""
_NOT_IDENTITY: Final = ("train_size", "evaluation_size", "cache")
_PAGE: Final = 4096
"""Bytes that must fit into a folder."""
_FSDP: Final = ("fsdp", "fsdp2")
_IN_FLIGHT: Final = "transfer_queue"
"""In a checkpoint of an asynchronous schedule: what was played and not trained on yet."""
_FILES: Final = {"model": "model", "optimizer": "optim", "extra": "extra_state"}
"""verl's name of a checkpoint part -> prefix of its file names."""


def check_output(config: DictConfig) -> None:
    """Create the folders the run writes to, and raise ConfigurationError unless it can start or resume there.

    It cannot where a folder is not writable, where `run.dir` holds a run with another world, algorithm, rollout,
    credit, filter, schedule, model or seed, where a record of it is damaged, and where the checkpoint that
    `trainer.resume_mode` leads to is incomplete or damaged. With several nodes, each of which may keep its part on its
    own disk, missing files are only a warning.
    """
    _require_writable("run.dir", Path(config.run.dir))
    _require_same_run(config)
    _require_records(Path(config.run.dir))
    _check_checkpoint(config)  # before its folder is created: a folder given by mistake is not a checkpoint
    _require_writable("trainer.default_local_dir", Path(config.trainer.default_local_dir))


def _require_writable(key: str, folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".actfocus-", buffering=0) as file:
            file.write(bytes(_PAGE))  # an empty file fits on a full disk
    except OSError as error:
        raise not_writable(key, folder, error) from error


def _require_same_run(config: DictConfig) -> None:
    folder = Path(config.run.dir)
    path = folder / CONFIG_FILE
    if not path.is_file() or not _has_begun(folder):
        return
    try:
        earlier = OmegaConf.create(yaml.safe_load(path.read_text()) or {})
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigurationError(
            "run.dir", str(folder), f"its {CONFIG_FILE} cannot be read", "Choose another run.name, or delete the folder"
        ) from error
    for key in _IDENTITY:
        was, now = _identity(earlier, key), _identity(config, key)
        if key == "model.path" and now is None:  # the tiny policy, whose path is known later; its section says which
            continue
        if was != now:
            raise ConfigurationError(
                "run.dir",
                str(folder),
                f"holds a run with {_difference(key, was, now)}",
                "Choose another run.name, or delete the folder",
            )


def _require_records(folder: Path) -> None:
    """The lines that a resumed run goes on from can be read; only the last may be cut short."""
    for name in (METRICS_FILE, LOCAL_UPDATES_FILE, EVALUATIONS_FILE):
        path = folder / name
        for number, line in enumerate(complete_lines(path.read_bytes()) if path.exists() else (), start=1):
            try:
                int(json.loads(line)["step"])
            except (ValueError, KeyError, TypeError) as error:
                problem = f"line {number} of {path} is damaged ({one_line(error, 100)})"
                raise ConfigurationError("run.dir", str(folder), problem, "Remove the line, or repair it") from error


def _has_begun(folder: Path) -> bool:
    """Whether a run got as far as a record or a checkpoint; what stopped earlier may start anew with other settings."""
    records = (folder / METRICS_FILE, folder / EVALUATIONS_FILE)
    return any(file.exists() for file in records) or bool(saved_steps(folder / CHECKPOINTS_FOLDER))


def _identity(config: DictConfig, key: str) -> Any:
    value = OmegaConf.select(config, key)
    if not isinstance(value, DictConfig):
        return value
    container = OmegaConf.to_container(value, resolve=True)
    return {str(name): part for name, part in container.items() if name not in _NOT_IDENTITY}


def _difference(key: str, was: Any, now: Any) -> str:
    """`credit.alpha=0.3, and this one has 0.1`: the first key that differs."""
    if isinstance(was, dict) and isinstance(now, dict):
        name = next(name for name in (*was, *now) if was.get(name) != now.get(name))
        return _difference(f"{key}.{name}", was.get(name), now.get(name))
    return f"{key}={was!r}, and this one has {now!r}"


def _check_checkpoint(config: DictConfig) -> None:
    """The checkpoint the run will resume from, if any, is whole."""
    trainer = config.trainer
    if trainer.resume_mode == "auto":
        folder = _latest(config, Path(trainer.default_local_dir))
    elif trainer.resume_mode == "resume_path":
        folder = _given(trainer.resume_from_path)
    else:
        folder = None
    if folder is None:
        return
    files, world_size = list(_expected_files(config, folder)), trainer.n_gpus_per_node * trainer.nnodes
    data_loader = folder / "data.pt"
    if data_loader.exists():
        files.append(data_loader)
    else:  # verl does without it
        logger.warning("%s is missing: the resumed run begins its data from the start again", data_loader)
    files += sorted((folder / _IN_FLIGHT).rglob("*.pkl"))
    for file in files:
        if not file.exists():
            _require_same_world(file, folder, world_size)
    if trainer.nnodes > 1:
        _warn_of_nodes(folder, files)
        return
    for file in files:
        if not _is_whole(file):
            size = f"{file.stat().st_size} bytes, not a complete {_kind(file)} file" if file.exists() else ""
            raise _damaged(config, file, f"is damaged ({size})" if size else "is missing", folder)


def _latest(config: DictConfig, checkpoints: Path) -> Path | None:
    """The folder of the step that the tracker file names; None where nothing was saved: the run starts from scratch.

    verl writes the tracker after each checkpoint. So one checkpoint without it was cut short, and of several the
    tracker is lost: starting from scratch would write over them.
    """
    content = tracked_step(checkpoints)
    if content is None:
        steps = saved_steps(checkpoints)
        if len(steps) > 1:
            raise _misled(config, checkpoints, f"holds checkpoints, but no {TRACKER_FILE} that names the latest")
        if steps:
            logger.warning("the checkpoint of step %d in %s was cut short: starting over", steps[0], checkpoints)
        return None
    if not content.isdecimal():
        raise _misled(config, checkpoints, f"{TRACKER_FILE} holds {content[:40]!r}, not a step number")
    folder = checkpoints / f"{STEP_FOLDER}{int(content)}"
    if not folder.is_dir():
        raise _misled(config, checkpoints, f"{TRACKER_FILE} names step {content}, but {folder.name} does not exist")
    return folder


def _misled(config: DictConfig, checkpoints: Path, problem: str) -> ConfigurationError:
    return ConfigurationError(
        "trainer.default_local_dir",
        str(checkpoints),
        problem,
        f"Write a saved step into {checkpoints / TRACKER_FILE} ({_saved_steps(config, checkpoints)}), or set "
        "trainer.resume_mode=disable to start over",
    )


def _given(path: Any) -> Path:
    folder = Path(path) if isinstance(path, str) else None
    if folder is None or checkpoint_step(folder) is None:
        raise ConfigurationError(
            "trainer.resume_from_path",
            path,
            "is not a checkpoint folder",
            f"Give the path of a {STEP_FOLDER}<number> folder",
        )
    return folder


def _expected_files(config: DictConfig, folder: Path) -> Iterator[Path]:
    """The files verl will load, for the strategies that keep one file per part and process."""
    sections = {"actor": config.actor_rollout_ref.actor}
    if config.critic.enable:
        sections["critic"] = config.critic
    world_size = config.trainer.n_gpus_per_node * config.trainer.nnodes
    for name, section in sections.items():
        if section.strategy not in _FSDP:
            continue
        for part in section.checkpoint.load_contents:
            if part in _FILES:
                for rank in range(world_size):
                    yield folder / name / f"{_FILES[part]}_world_size_{world_size}_rank_{rank}.pt"


def _is_whole(file: Path) -> bool:
    """Whether a file has its end: torch's table of contents, or a pickle's last mark."""
    if file.suffix == ".pkl":
        return file.is_file() and file.read_bytes()[-1:] == pickle.STOP
    return file.is_file() and zipfile.is_zipfile(file)


def _kind(file: Path) -> str:
    return "pickle" if file.suffix == ".pkl" else "torch"


def _require_same_world(file: Path, folder: Path, world_size: int) -> None:
    """Raise if the missing part was saved by another number of processes. world_size: this run's."""
    part = file.name.partition("_world_size_")[0]
    if any(file.parent.glob(f"{part}_world_size_{world_size}_rank_*.pt")):
        return
    others = sorted(file.parent.glob(f"{part}_world_size_*_rank_*.pt"))
    if others:
        saved = others[0].name.partition("_world_size_")[2].partition("_")[0]
        raise ConfigurationError(
            "trainer.n_gpus_per_node",
            world_size,
            f"the checkpoint {folder} was saved by {saved} processes, and this run has {world_size} (nodes times GPUs)",
            "Use the same number, or set trainer.resume_mode=disable",
        )


def _warn_of_nodes(folder: Path, files: list[Path]) -> None:
    """Each process loads its files from its own node's disk, and this machine sees only one node."""
    missing = [file for file in files if not file.exists()]
    cut = [file for file in files if file.exists() and not _is_whole(file)]
    for found, what in ((missing, "are not on this machine"), (cut, "are not complete torch files here")):
        if found:
            logger.warning(
                "trainer.default_local_dir=%s: %d of the %d files of %s %s (the first: %s). That is fine if each "
                "node keeps its own; otherwise loading will fail, and trainer.resume_mode=disable starts over.",
                *(folder.parent, len(found), len(files), folder.name, what, found[0].relative_to(folder)),
            )


def _damaged(config: DictConfig, file: Path, problem: str, folder: Path) -> ConfigurationError:
    checkpoints = folder.parent
    earlier = _saved_steps(config, checkpoints, besides=checkpoint_step(folder))
    return ConfigurationError(
        "trainer.default_local_dir",
        str(checkpoints),
        f"the checkpoint to resume from is corrupt: {file} {problem}",
        f"Delete {folder} and write an earlier step into {checkpoints / TRACKER_FILE} ({earlier}), or set "
        "trainer.resume_mode=disable to start over",
    )


def _saved_steps(config: DictConfig, checkpoints: Path, besides: int | None = None) -> str:
    """The steps that can be resumed from. verl leaves the folders of those whose weights it has removed."""
    folders = {step: checkpoints / f"{STEP_FOLDER}{step}" for step in saved_steps(checkpoints) if step != besides}
    if config.trainer.nnodes == 1:
        whole = {step: all(map(_is_whole, _expected_files(config, folder))) for step, folder in folders.items()}
        folders = {step: folder for step, folder in folders.items() if whole[step]}
    return f"saved: {', '.join(map(str, folders))}" if folders else "none is saved"
