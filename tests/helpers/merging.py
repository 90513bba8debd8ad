"""A fixture that merges checkpoints as the product does, in this process."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
from typing import Any

import pytest

from actfocus_verl.integration import merger


@pytest.fixture
def merger_in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real merger, without the seconds that a process of its own takes to import verl."""

    run = subprocess.run

    def run_here(command: list[str], **options: Any) -> Any:
        if command[:3] != [sys.executable, "-m", merger.__name__]:
            return run(command, **options)
        with contextlib.redirect_stdout(io.StringIO()) as said:
            status = merger.main(command[3:])
        return subprocess.CompletedProcess(command, status, said.getvalue())

    monkeypatch.setattr(subprocess, "run", run_here)
