"""Which seed of the paper's code base each board of a `ragen` split has; the worlds turn a seed into its board.

The code base (mll-lab-nu/RAGEN) numbers its training boards from seed 10,000 and its evaluation boards from seed 123.
It knows no test split: ours has seeds that neither of the two reaches.
"""

from __future__ import annotations

from typing import Final

from actfocus_verl.errors import ConfigurationError

FIRST_SEEDS: Final = {"train": 10_000, "evaluation": 123, "test": 1_000_000_000}

_MOST_SEEDS: Final = 1 << 32
"""NumPy's legacy generator, which Sokoban draws from, takes no larger one."""


def board_seed(split: str, index: int) -> int:
    """The seed of board `index` >= 0 of the split. Raises ConfigurationError where the code base could have none."""
    seed = FIRST_SEEDS[split] + index
    if seed >= _MOST_SEEDS:
        remedy = f"Use an index below {_MOST_SEEDS - FIRST_SEEDS[split]}"
        raise ConfigurationError("env.index", index, f"its seed ({seed}) must be below 2**32", remedy)
    return seed
