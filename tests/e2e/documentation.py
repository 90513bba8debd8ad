"""The commands that README.md and docs/*.md promise, in reading order, and a folder to type them in."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.runs import ROOT, _environment

README = "README.md"
LINKED = (".cache", "actfocus_verl", "configs", "docs", "recipes", "scripts", "README.md")
"""What a command may name, and does not write to (the cache of tiny policies apart)."""
COPIED = ("results",)

_FENCE = re.compile(r"^```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\((docs/[\w.]+\.md)")


@dataclass(frozen=True)
class Block:
    """One ```bash block."""

    page: str
    """Path from the repository's root."""
    number: int
    """Its place among the page's blocks, from 1."""
    text: str

    @property
    def name(self) -> str:
        """Page and number: a test's id, and how the list of exceptions names it."""
        return f"{self.page}:{self.number}"

    @property
    def commands(self) -> list[str]:
        """The block's lines, continued ones joined."""
        return [line for line in re.sub(r"\\\n\s*", "", self.text).splitlines() if line.strip()]


def pages() -> list[str]:
    """README.md, the pages that it links to in that order, then the others by name."""
    linked = list(dict.fromkeys(_LINK.findall((ROOT / README).read_text(encoding="utf-8"))))
    others = sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))
    return [README, *linked, *(page for page in others if page not in linked)]


def blocks() -> list[Block]:
    """Every ```bash block of the documentation, in reading order."""
    return [
        Block(page, number, text)
        for page in pages()
        for number, text in enumerate(_FENCE.findall((ROOT / page).read_text(encoding="utf-8")), start=1)
    ]


def files_of(page: str) -> Iterator[tuple[str, str]]:
    """(path, content) of each file that a page shows: a block that begins with its path as a comment."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for content in re.findall(r"^```(?:python|yaml)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        path = re.match(r"# ([\w/]+\.(?:py|yaml))\n", content)
        if path:
            yield path[1], content


class Workplace:
    """A reader's folder: the repository's files are links, so that `outputs/` and what a page writes are its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in LINKED:
            (folder / name).symlink_to(ROOT / name)
        for name in COPIED:
            shutil.copytree(ROOT / name, folder / name)
        (folder / ".venv").symlink_to(Path(sys.prefix))

    def write_files_of(self, page: str) -> None:
        """Write the files that a page shows, as its reader would."""
        for path, content in files_of(page):
            file = self.folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content, encoding="utf-8")

    def start(self, command: str, log: Path) -> subprocess.Popen[bytes]:
        """Type a command into a shell with the environment activated; what it says goes to `log`."""
        environment = _environment() | {"NO_PROXY": "127.0.0.1", "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
        environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
        with log.open("wb") as terminal:
            return subprocess.Popen(
                ["bash", "-euo", "pipefail", "-c", command],
                cwd=self.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=terminal,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
