"""What our commands write to a terminal, told apart from what the libraries below them write there."""

from __future__ import annotations

import re
from typing import Final

_TRAIN: Final = (
    r"checking the configuration",
    r"tiny policy: \S.*",
    r"run folder: /.*",
    r"Ray: (started|joined) .*",
    r"(starting|connecting to) Ray|loading the models|starting (vLLM|SGLang)|evaluating|playing the first episodes",
    r"step \d+: .*",
    r"the next step is the last: .*",
    r"interrupted; .*|interrupted before the run began",
    r"(warning|note|error): .*",
)
_EVALUATE: Final = (
    r"merging the checkpoint of step \d+: .*",
    r"starting vLLM",
    r"\d+ of \d+ episodes: success .*",
    r"interrupted; .*",
    r"(warning|note|error): .*",
)
_DIAGNOSE: Final = (
    r"merging the checkpoint of step \d+: .*",
    r"written: .*",
    r"interrupted",
    r"(warning|note|error): .*",
)
OWN_LINES: Final = {"train": _TRAIN, "evaluate": _EVALUATE, "diagnose": _DIAGNOSE}
"""By command, what a line on its standard error that is ours looks like, where that is no terminal."""


def foreign_lines(text: str, command: str) -> list[str]:
    """The lines of a command's captured output that are not ours: of Ray, vLLM, verl, transformers, Python's warnings.

    text: its standard error; for `train` both streams, since it writes nothing to standard output. command: a key of
    OWN_LINES.
    """
    own = re.compile("|".join(f"(?:{pattern})" for pattern in OWN_LINES[command]))
    return [line for line in text.splitlines() if line.strip() and not own.fullmatch(line)]
