"""What Ray's node manager writes when it kills workers because a machine's memory is full."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

_LOG: Final = "raylet.out"
_KILL: Final = re.compile(
    r"OOM kill reason: Memory usage (\d+)B exceeded threshold of (\d+)B.*?"
    r"Top \d+ memory users:[^\n]*\n\d+\t([\d.]+)\t([^\n]+)",
    re.DOTALL,
)
_REMEDY: Final = (
    "Lower actor_rollout_ref.actor.ppo_max_token_len_per_gpu and log_prob_max_token_len_per_gpu of "
    "actor_rollout_ref.ref and actor_rollout_ref.rollout: a token's logits take four bytes for each word of the "
    "vocabulary, several times over. Or end what else runs on the machine."
)


def log_size(folder: Path) -> int:
    """Bytes of the node manager's log in a folder of Ray's logs; 0 if there is none."""
    try:
        return (folder / _LOG).stat().st_size
    except OSError:
        return 0


def memory_kill(folder: Path, begun: int) -> str:
    """What was written from byte `begun` on about the first kill for lack of memory, in a sentence; empty if none was.

    Ray chooses whom it kills by rules of its own, and which part of the run then ends first is chance: the largest
    process says more about the cause.
    """
    try:
        with (folder / _LOG).open("rb") as file:
            file.seek(begun)
            found = _KILL.search(file.read().decode(errors="replace"))
    except OSError:  # not there, or another user's
        return ""
    if found is None:
        return ""
    used, allowed, largest, name = found.groups()
    return (
        f"The machine's memory was full ({int(used) / 1e9:.1f} GB used, Ray allows {int(allowed) / 1e9:.1f}), so Ray "
        f"killed workers; the largest process was {name.strip()} with {largest} GB. {_REMEDY}"
    )
