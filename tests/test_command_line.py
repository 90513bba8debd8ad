"""`actfocus`: it finds every command, starts at once, and completes what Hydra completes."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from actfocus_verl import __main__ as command_line
from actfocus_verl.__main__ import COMMANDS


def typed(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """The exit status of `actfocus words`."""
    monkeypatch.setattr(sys, "argv", ["actfocus", *words])
    monkeypatch.setattr(sys, "path", list(sys.path))
    try:
        return command_line.main()
    except SystemExit as end:
        return int(end.code or 0)


def test_help_names_every_command_and_every_command_is_a_module(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert typed(monkeypatch, "--help") == 0
    assert typed(monkeypatch) == 2
    shown = capsys.readouterr().out
    for name, command in COMMANDS.items():
        assert f"\n  {name} " in shown
        spec = find_spec(f"actfocus_verl.{command.module}")
        assert spec is not None
        folder = spec.submodule_search_locations
        file = Path(folder[0]) / "__main__.py" if folder else Path(str(spec.origin))
        assert 'if __name__ == "__main__":' in file.read_text(encoding="utf-8")


def test_its_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from actfocus_verl.__main__ import main; sys.argv[1:] = ['--help']; main();"
        "sys.exit(bool({'torch', 'numpy', 'hydra', 'omegaconf', 'verl', 'rich'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_a_command_is_the_module_with_that_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the current folder on the path, as for `python -m`: a world of one's own may be in it."""
    (tmp_path / "my_lake.py").write_text("from actfocus_verl.environments.frozen_lake import FrozenLake as MyLake\n")
    monkeypatch.chdir(tmp_path)
    assert typed(monkeypatch, "worlds", "manifest", "env=my_lake:MyLake", "n=2") == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
    assert typed(monkeypatch, "play", "n=2") == 2
    assert capsys.readouterr().err == "error: env=None: is required. Add env=<text>\n"


def test_an_unknown_command_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert typed(monkeypatch, "evaluation") == 2
    assert capsys.readouterr().err.startswith("error: evaluation is not a command. Use one of: cold-start, train, ")


@pytest.mark.parametrize("line", ["actfocus ", "actfocus tr"])
def test_tab_completes_the_commands(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], line: str
) -> None:
    monkeypatch.setenv("COMP_LINE", line)
    assert typed(monkeypatch, "-sc", "query=bash") == 0
    assert capsys.readouterr().out.split() == list(COMMANDS)


def test_tab_completes_trains_overrides(tmp_path: Path) -> None:
    """By Hydra, whose script for the shell calls the program by its name alone."""
    program = tmp_path / "actfocus"
    program.write_text("import sys; from actfocus_verl.__main__ import main; sys.exit(main())")
    words = [sys.executable, str(program)]
    told = subprocess.run([*words, "train", "-sc", "install=bash"], check=True, capture_output=True, text=True)
    assert told.stdout.rstrip().endswith("hydra_bash_completion actfocus")
    env = {"PATH": "", "PYTHONPATH": ":".join(sys.path), "COMP_LINE": "actfocus train env=so"}
    asked = subprocess.run([*words, "-sc", "query=bash"], check=True, capture_output=True, text=True, env=env)
    assert asked.stdout.split() == ["env=sokoban"]
