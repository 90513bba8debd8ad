"""Submits runs to a cluster: a recipe (recipes/cluster) is filled in for each, and its `#submit:` line is run.

That line hands the run's command to the recipe, as a user hands over any other; a template may also have the fields
elsewhere. The job is this same script with `--only <run>`, so locks, resuming and summaries work as on one machine, if
the cluster's nodes share the folders through a file system with `flock`.
"""

from __future__ import annotations

import shlex
import string
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from actfocus_verl.errors import ConfigurationError
from actfocus_verl.files import timestamp, write_json
from actfocus_verl.reproduction.folders import State, Workspace
from actfocus_verl.reproduction.matrix import Run
from actfocus_verl.reproduction.runner import Say

_SUBMIT = "#submit: "


class _Template(string.Template):
    """`@{name}`, so that the shell's own $ is left alone."""

    delimiter = "@"
    pattern = r"@(?:(?P<escaped>@)|\{(?P<braced>\w+)\}|(?P<named>(?!))|(?P<invalid>\{))"  # type: ignore[assignment]  # the class makes a Pattern of it


def render(template: str, values: Mapping[str, str | list[str]]) -> tuple[str, list[str]]:
    """Fill in a template; return the script, and the words of its `#submit:` line.

    values: by name, a word or the words of a command; they are quoted for the shell.

    Raises:
        ConfigurationError: the template has no such line, or an unknown field.
    """
    try:
        words = {name: [value] if isinstance(value, str) else value for name, value in values.items()}
        script = _Template(template).substitute({name: shlex.join(value) for name, value in words.items()})
    except (KeyError, ValueError) as error:
        known = ", ".join(f"@{{{name}}}" for name in values)
        raise ConfigurationError("--submit", str(error), "cannot be filled in", f"Known are {known}") from error
    lines = [line.removeprefix(_SUBMIT) for line in script.splitlines() if line.startswith(_SUBMIT)]
    if len(lines) != 1:
        raise ConfigurationError("--submit", len(lines), f"lines of the template start with {_SUBMIT!r}", "Write one")
    return script, shlex.split(lines[0])


def submit(
    workspace: Workspace,
    runs: Sequence[Run],
    template: Path,
    matrix_file: Path,
    say: Say,
    *,
    options: Sequence[str] = (),
    dry_run: bool = False,
) -> list[Run]:
    """Submit the runs that are not done, running or submitted; return them.

    Args:
        options: further words of the command on the node, such as --mix-versions.
        dry_run: only write the scripts.

    Raises:
        ConfigurationError: the template cannot be read or filled in, or its command fails.
    """
    try:
        text = template.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigurationError("--submit", str(template), f"cannot be read ({error})", "Give a template") from error
    waiting = (State.DONE, State.RUNNING, State.SUBMITTED)
    submitted = []
    for run in runs:
        if workspace.state(run) in waiting:
            continue
        places = workspace.places(run)
        command = [sys.executable, "-m", "actfocus_verl.reproduction", "run", str(matrix_file.absolute())]
        command += ["--only", str(run), "--results", str(workspace.results.absolute())]
        command += ["--outputs", str(workspace.outputs.absolute()), *options]
        values: dict[str, str | list[str]] = {
            "command": command,
            "name": f"{workspace.matrix.name}-{run}".replace("/", "-"),
            "script": str(places.job),
            "log": str(places.job.with_suffix(".job.log")),
            "root": str(Path.cwd()),
        }
        script, words = render(text, values)
        places.job.parent.mkdir(parents=True, exist_ok=True)
        places.job.write_text(script, encoding="utf-8")
        if dry_run:
            say(f"{run}: would run {shlex.join(words)}")
        else:
            answer = _call(words)
            write_json(places.submission, {"at": timestamp(), "command": words, "answer": answer})
            say(f"{run}: submitted {answer}")
        submitted.append(run)
    return submitted


def _call(words: Sequence[str]) -> str:
    try:
        answer = subprocess.run(words, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        problem = f"failed ({(getattr(error, 'stderr', '') or str(error)).strip()})"
        raise ConfigurationError("--submit", shlex.join(words), problem, "Submit the script by hand") from error
    return answer.stdout.strip()
