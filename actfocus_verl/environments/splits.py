"""Seeds and splits shared by all worlds: the same index gives the same board in every process.

No Python `hash` and no global state anywhere: every number comes from BLAKE2b over readable text.
"""

from __future__ import annotations

from hashlib import blake2b

import numpy as np

from actfocus_verl.checks import require_choice
from actfocus_verl.errors import ConfigurationError

SPLITS = ("train", "evaluation", "test")

_SPLIT_KEY = b"actfocus-split-1"
"""Changing it reshuffles every board between the splits: never do that in a released version."""

_SPLIT_QUARTERS = ("train", "train", "evaluation", "test")


def stable_hash(text: str, *, bits: int = 63) -> int:
    """A hash of `text` in [0, 2**bits), bits <= 512, that no process, platform or PYTHONHASHSEED changes."""
    return int.from_bytes(blake2b(text.encode(), digest_size=64).digest(), "big") >> (512 - bits)


def hex_digest(text: str) -> str:
    """128-bit hexadecimal hash of `text`."""
    return blake2b(text.encode(), digest_size=16).hexdigest()


def seeded_generator(*parts: str | int) -> np.random.Generator:
    """The one generator of (environment, preset, split, index, ...), e.g. `("frozen_lake", "clean", "train", 7)`."""
    entropy = stable_hash("/".join(map(str, parts)), bits=128)
    return np.random.Generator(np.random.PCG64(entropy))


def split_of(canonical: str) -> str:
    """The only split that a board with this canonical form may occur in: half of all boards train.

    Splits are disjoint by construction, without a table: membership is a keyed hash of the canonical form.
    """
    digest = blake2b(canonical.encode(), digest_size=8, key=_SPLIT_KEY).digest()
    return _SPLIT_QUARTERS[digest[0] & 3]


def require_split(split: str) -> None:
    """Raise ConfigurationError unless `split` is known."""
    require_choice("env.split", split, choices=SPLITS)


def require_index(index: int, split: str, size: int | None) -> None:
    """Raise ConfigurationError unless board `index` exists in a split of `size` boards (None: unbounded)."""
    extent = "no upper limit" if size is None else f"{size} boards"
    if isinstance(index, bool) or not isinstance(index, int) or index < 0 or (size is not None and index >= size):
        last = "upward" if size is None else f"to {size - 1}"
        raise ConfigurationError(
            "env.index", index, f"board index out of range: split {split!r} has {extent}", f"Use an index from 0 {last}"
        )
