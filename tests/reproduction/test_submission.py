"""Templates: what they render to is a shell script, and what is submitted is submitted once."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from actfocus_verl.errors import ConfigurationError
from actfocus_verl.reproduction.folders import State, Workspace, read_json
from actfocus_verl.reproduction.submission import render, submit

ROOT = Path(__file__).resolve().parents[2]
TEMPLATES = sorted((ROOT / "recipes" / "cluster").glob("*.sh"))
MATRIX = Path("recipes/matrices/pilot.yaml")


def ignore(line: str) -> None:
    """Nothing is shown."""


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.stem)
def test_a_template_renders_to_a_script(template: Path, workspace: Workspace) -> None:
    first = workspace.matrix.runs()[0]
    said: list[str] = []
    assert submit(workspace, [first], template, MATRIX, said.append, dry_run=True) == [first]
    script = workspace.places(first).job
    subprocess.run(["bash", "-n", str(script)], check=True)
    assert "@{" not in script.read_text()
    words = shlex.split(said[0].partition("would run ")[2])
    assert words[0] in ("sbatch", "bash")
    words = words[words.index(str(script)) + 1 :]
    assert words[:5] == [sys.executable, "-m", "actfocus_verl.reproduction", "run", str(MATRIX.absolute())]
    assert words[5:7] == ["--only", "small/uniform/seed0"]
    assert workspace.state(first) is State.MISSING  # nothing was submitted


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An sbatch that writes down what it is given; fails when told to."""
    program = tmp_path / "bin" / "sbatch"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\n[ -z "$FAIL" ] || {{ echo no queue >&2; exit 1; }}\necho "$*" >>{tmp_path}/calls\necho 42\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    return tmp_path / "calls"


def test_what_is_submitted_is_not_submitted_again(workspace: Workspace, cluster: Path) -> None:
    runs = workspace.matrix.runs()
    slurm = ROOT / "recipes" / "cluster" / "slurm.sh"
    assert submit(workspace, runs[:2], slurm, MATRIX, ignore) == runs[:2]
    assert submit(workspace, runs, slurm, MATRIX, ignore, options=["--mix-versions"]) == runs[2:]
    calls = cluster.read_text().splitlines()
    for call, run in zip(calls, runs, strict=True):
        places = workspace.places(run)
        assert call.startswith("--parsable --job-name=")
        assert f" --output={places.job.with_suffix('.job.log')} --chdir={Path.cwd()} {places.job} " in call
        assert f" --only {run} " in call
    assert workspace.state(runs[0]) is State.SUBMITTED
    assert read_json(workspace.places(runs[0]).submission)["answer"] == "42"
    assert [call.endswith(" --mix-versions") for call in calls] == [False] * 2 + [True] * (len(runs) - 2)


def test_a_refused_submission_is_one_line(workspace: Workspace, cluster: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAIL", "1")
    runs = workspace.matrix.runs()
    with pytest.raises(ConfigurationError, match=r"failed \(no queue\)"):
        submit(workspace, runs, ROOT / "recipes" / "cluster" / "slurm.sh", MATRIX, ignore)
    assert workspace.state(runs[0]) is State.MISSING


def test_the_names_of_before_lead_to_the_recipes() -> None:
    assert {path.name: path.resolve().parent.name for path in (ROOT / "recipes" / "templates").iterdir()} == {
        "slurm.sh": "cluster",
        "ray.sh": "cluster",
    }


class TestRender:
    def test_values_are_quoted_and_the_shell_s_own_signs_stay(self) -> None:
        script, words = render(
            "#submit: put @{script}\necho $HOME ${X} a@b @{name}\n", {"script": "a b", "name": "x;y"}
        )
        assert script == "#submit: put 'a b'\necho $HOME ${X} a@b 'x;y'\n"
        assert words == ["put", "a b"]

    @pytest.mark.parametrize(
        ("template", "message"),
        [
            ("#submit: x @{nothing}\n", "cannot be filled in. Known are @{name}"),
            ("echo\n", "lines of the template start with '#submit: '"),
            ("#submit: a\n#submit: b\n", "lines of the template start with"),
        ],
    )
    def test_a_mistake_is_one_line(self, template: str, message: str) -> None:
        with pytest.raises(ConfigurationError) as caught:
            render(template, {"name": "x"})
        assert message in str(caught.value)
