"""A line about one episode in a file of the run's folder, from the process that plays it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from actfocus_verl.files import append_json, timestamp


def note_episode(config: Any, file: str, row: Mapping[str, Any], **fields: Any) -> None:
    """Append time, step, group and session of the episode, then `fields`; nothing where the run has no folder here.

    Raises OSError that names the file.
    """
    folder = OmegaConf.select(config, "run.dir")
    if folder is None or not Path(folder).is_dir():
        return
    entry = {
        "time": timestamp(),
        "step": int(row.get("global_steps", 0)),
        "group": str(row.get("uid", "")),
        "session": int(row.get("session_id", 0)),
        **fields,
    }
    append_json(Path(folder) / file, entry)
