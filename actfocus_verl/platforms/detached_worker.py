"""verl's worker of `separate_async` on a CPU: a saved policy is a copy.

verl keeps the old policy of a cycle as `tensor.cpu()`, and on a CPU that is the tensor itself: the saved weights would
change with every update, and restoring them would do nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils import _pytree as pytree
from verl.experimental.separation.engine_workers import DetachActorWorker


class CPUDetachActorWorker(DetachActorWorker):
    """Saves clones."""

    @property
    def copy_handler(self) -> Callable[[torch.nn.Module], Any]:
        """verl's handler of the strategy, whose result shares no memory with the module."""
        save = super().copy_handler
        return lambda module: cloned(save(module))


def cloned(state: Any) -> Any:
    """A nested structure with every tensor in it cloned; the rest, sharding specifications among it, as it is."""
    return pytree.tree_map_only(torch.Tensor, torch.clone, state)
