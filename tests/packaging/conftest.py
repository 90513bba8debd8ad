"""Fixtures: a wheel built from this tree, and a tree with the shell scripts but a make-believe Python."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGED = ["actfocus_verl", "configs", "requirements"]
PACKAGED += ["setup.py", "pyproject.toml", "MANIFEST.in", "LICENSE", "README.md"]
# What the scripts call: tests that choose the PATH link these and nothing else.
TOOLS = ["awk", "bash", "cat", "chmod", "cut", "date", "df", "dirname", "env", "find", "flock", "grep", "id"]
TOOLS += ["ls", "mkdir", "mkfifo", "readlink", "rm", "sha256sum", "tail", "uname"]

# Answers as Python 3.11.7 would, writes down how it was called, and makes a virtual environment of copies of itself.
FAKE_PYTHON = """#!/usr/bin/env bash
echo "$*" >>"$FAKE_CALLS"
hang() { # by builtins alone: no child is left behind, whatever the signal
    [[ -n "$1" ]] || return
    mkfifo "$1.pipe" && exec 8<>"$1.pipe"
    : >"$1" && read -r -t 60 -u 8
}
case "$*" in
    *sys.version_info*) echo "${FAKE_VERSION:-3.11.7}" ;;
    "-m venv --clear "*) exit 1 ;;
    "-m venv "*)
        hang "${FAKE_VENV_HANG:-}"
        mkdir -p "$3/bin" "$3/lib/python3.11/site-packages/pip"
        cat "$0" >"$3/bin/python" && chmod +x "$3/bin/python"
        printf "${FAKE_ACTIVATE:-VIRTUAL_ENV=%s}\\n" "$3" >"$3/bin/activate"
        ;;
    "-m pip "*"--dry-run"*) exit "${FAKE_DRY_RUN:-0}" ;;
    "-m pip "*)
        echo "a line of pip's"
        hang "${FAKE_HANG:-}"
        exit "${FAKE_PIP:-0}"
        ;;
    "-c import torch,"*) exit "${FAKE_IMPORTS:-0}" ;;
    "-m ruff"*) exit "${FAKE_RUFF:-0}" ;;
    "-m pytest"*) echo "1 passed in 0.01s" ;;
esac
"""


def copy_tree(target: Path) -> None:
    """Copy all that packaging reads, without caches, to the folder ``target``."""
    target.mkdir(parents=True, exist_ok=True)
    for name in PACKAGED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        elif source.is_file():
            shutil.copy(source, target / name)


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this tree, unpacked: what lands in a site-packages."""
    folder = tmp_path_factory.mktemp("wheel")
    copy_tree(folder / "source")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", "dist"]
    subprocess.run([*command, "./source"], cwd=folder, check=True, capture_output=True, text=True)
    (built,) = (folder / "dist").glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


@dataclass
class ScriptTree:
    """A copy of the scripts whose only Python is the fake one; ``env`` goes to every script run in it."""

    root: Path
    env: dict[str, str]

    @property
    def venv(self) -> Path:
        return self.root / ".venv"

    @property
    def stamp(self) -> Path:
        return self.venv / ".bootstrap"

    def run(
        self, script: str = "scripts/bootstrap.sh", *arguments: str, **env: str
    ) -> subprocess.CompletedProcess[str]:
        return self._bash([script, *arguments], env)

    def call(self, function: str) -> str:
        """Source bootstrap.sh, call one of its functions, return what it printed."""
        return self._bash(["-c", f"source scripts/bootstrap.sh; {function}"], {}).stdout.strip()

    def start(self, **env: str) -> subprocess.Popen[str]:
        """Start bootstrap.sh in a process group of its own, so that a test can interrupt it as Ctrl-C does."""
        return subprocess.Popen(
            ["bash", "scripts/bootstrap.sh"],
            cwd=self.root,
            env={**self.env, **env},
            text=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def calls(self) -> list[str]:
        """How the fake Python was called so far, one line a call."""
        log = Path(self.env["FAKE_CALLS"])
        return log.read_text().splitlines() if log.exists() else []

    def _bash(self, arguments: list[str], env: dict[str, str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", *arguments],
            cwd=self.root,
            env={**self.env, **env},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


def write_program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def scripts(tmp_path: Path) -> ScriptTree:
    root = tmp_path / "tree"
    names = [
        f"scripts/{name}.sh"
        for name in ("bootstrap", "debian", "install_chromium", "install_java", "install_slurm", "test")
    ]
    for name in (*names, ".ci/run", "setup.py"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, root / name)
    shutil.copytree(ROOT / "requirements", root / "requirements")
    programs = tmp_path / "bin"
    write_program(programs / "python3.11", FAKE_PYTHON)
    for tool in TOOLS:
        (programs / tool).symlink_to(shutil.which(tool) or pytest.fail(f"this machine has no {tool}"))
    env = {"PATH": str(programs), "FAKE_CALLS": str(tmp_path / "calls"), "ACTFOCUS_MIN_DISK_GB": "0"}
    return ScriptTree(root, env)


@pytest.fixture
def end_group() -> Callable[[subprocess.Popen[str], signal.Signals], None]:
    """Send a signal to a started script and its children, and wait for it to end."""

    def send(process: subprocess.Popen[str], number: signal.Signals) -> None:
        os.killpg(process.pid, number)
        process.wait(timeout=30)

    return send
