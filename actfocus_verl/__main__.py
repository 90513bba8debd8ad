"""`actfocus`: this package's commands under one name; `python -m actfocus_verl` is the same.

Each command is a module: `actfocus evaluate ...` is just `python -m actfocus_verl.evaluate ...`. The modules import
heavy packages, so only the one named is imported.
"""

from __future__ import annotations

import importlib
import os
import runpy
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from actfocus_verl import __version__

EXIT_MISTAKE: Final = 2


class Command(NamedTuple):
    """module: the one whose `main` runs. words: inserted before the user's arguments."""

    module: str
    text: str
    words: tuple[str, ...] = ()


COMMANDS: Final[Mapping[str, Command]] = {
    "cold-start": Command("cold_start", "fine-tune a chat model on a world's scripted play, before training"),
    "train": Command("train", "train a policy; arguments are Hydra's overrides, --help prints the groups"),
    "evaluate": Command("evaluate", "evaluate a model, a checkpoint or a server on the boards of a split"),
    "diagnose": Command("diagnose", "show where reward variance and the gradient are among a run's tokens"),
    "truth": Command("truth", "show where an episode's return is decided: reasoning, action, format or luck"),
    "report": Command("report", "write a run's page and figure, print its success rates"),
    "export": Command("export", "write a run's checkpoint as a Hugging Face model"),
    "serve": Command("serve", "serve a model through vLLM's OpenAI-compatible server"),
    "play": Command("environments", "play a world in the terminal", ("play",)),
    "worlds": Command("worlds", "list the worlds and their boards, or play them with their oracle"),
    "reproduce": Command("reproduction", "run a matrix of experiments and report on it"),
    "check": Command("plugin", "check what is registered with verl; with --ray also in a Ray worker", ("--check",)),
}


def help_text() -> str:
    width = max(map(len, COMMANDS)) + 2
    lines = [f"  {name.ljust(width)}{command.text}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: actfocus <command> [arguments]",
            "",
            *lines,
            "",
            "actfocus <command> --help lists a command's arguments. To enable tab completion for train:",
            '  eval "$(actfocus train -sc install=bash)"',
            "",
        ]
    )


def main() -> int:
    """Run the command that the first word names; returns the exit status, or exits as the command does."""
    words = sys.argv[1:]
    if words[:1] == ["-sc"]:
        return _complete(words)
    if not words or words[0] in ("-h", "--help"):
        sys.stdout.write(help_text())
        return 0 if words else EXIT_MISTAKE
    if words[0] == "--version":
        sys.stdout.write(f"actfocus_verl {__version__}\n")
        return 0
    if words[0] not in COMMANDS:
        sys.stderr.write(f"error: {words[0]} is not a command. Use one of: {', '.join(COMMANDS)}\n")
        return EXIT_MISTAKE
    _run(COMMANDS[words[0]], words[1:])
    return 0


def _run(command: Command, words: Sequence[str]) -> None:
    """As `python -m` would: with the current folder on the path, for a user's own world or weighting."""
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    sys.argv[1:] = [*command.words, *words]
    module = f"actfocus_verl.{command.module}"
    if command.module == "train":  # Hydra completes for the program that sys.argv names, which runpy would replace
        importlib.import_module(module).main()
    else:
        runpy.run_module(module, run_name="__main__", alter_sys=True)


def _complete(words: Sequence[str]) -> int:
    """Answer Hydra's completion script: the names of the commands, or Hydra's completions for `train`.

    The script calls the program without arguments, with the line being typed in COMP_LINE.
    """
    program, _, line = os.environ.get("COMP_LINE", "").partition(" ")
    name, typed, rest = line.lstrip().partition(" ")
    if not typed:
        sys.stdout.write(" ".join(COMMANDS) + "\n")
    elif name == "train":
        os.environ["COMP_LINE"] = f"{program} {rest}"
        _run(COMMANDS[name], words)
    return 0


if __name__ == "__main__":
    sys.exit(main())
