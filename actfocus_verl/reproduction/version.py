"""The code version of a run: runs of different code do not belong in one cell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import actfocus_verl
from actfocus_verl.launch.record import installed_versions, source_commit

PACKAGE = Path(actfocus_verl.__file__).parent
_NOT_OF_A_RUN = ("reporting", "reproduction", "evaluation", "evaluate.py")
"""A training run imports none of these, as import contracts and tests check."""


@dataclass(frozen=True)
class CodeVersion:
    """source: digest of the files a training run can import, whether committed or not. commit: for people.

    A commit alone would not do: two dirty states have one name, and a commit that only adds a result changes no run.
    """

    source: str
    commit: str | None
    packages: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        return {"source": self.source, "commit": self.commit, "packages": dict(self.packages)}


def current_version() -> CodeVersion:
    """The version of the files on disk: the calling process may have loaded older ones."""
    return CodeVersion(source_digest(PACKAGE), source_commit(), installed_versions())


def source_digest(package: Path) -> str:
    """A digest of the names and contents of the files below `package` that a training run can import."""
    digest = blake2b(digest_size=12)
    for path in sorted(package.rglob("*")):
        relative = path.relative_to(package)
        if path.suffix not in (".py", ".json") or relative.parts[0] in _NOT_OF_A_RUN:
            continue
        content = path.read_bytes()
        digest.update(f"{relative.as_posix()}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> str | None:
    """The differences between two versions (`CodeVersion.to_json`) that concern a run; None without any."""
    if one.get("source") != other.get("source"):
        return f"the package's source ({_short(one)} and {_short(other)})"
    ours, theirs = dict(one.get("packages", {})), dict(other.get("packages", {}))
    names = [name for name in sorted({*ours, *theirs}) if ours.get(name) != theirs.get(name)]
    return ", ".join(f"{name} {ours.get(name)} and {theirs.get(name)}" for name in names) or None


def _short(version: Mapping[str, Any]) -> str:
    commit = str(version.get("commit") or "no commit")
    dirty = "-dirty" if commit.endswith("-dirty") else ""
    return f"{commit[:10]}{dirty}, digest {str(version.get('source'))[:8]}"
