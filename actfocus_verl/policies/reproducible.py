"""Running code with fixed random states and a fixed number of threads, restored afterwards."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from transformers import set_seed

THREADS = 1
"""The order in which a float32 sum is taken, and so its last bit, depends on the number of threads. One is hardly
slower here, the tensors being small, and much faster where other processes want the second core."""


@contextmanager
def reproducible(seed: int) -> Iterator[None]:
    """Within it Python's, NumPy's and torch's global generators start from `seed`, torch uses `THREADS` threads."""
    threads, python_state, numpy_state = torch.get_num_threads(), random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        try:
            torch.set_num_threads(THREADS)
            set_seed(seed)
            yield
        finally:
            torch.set_num_threads(threads)
            random.setstate(python_state)
            np.random.set_state(numpy_state)
