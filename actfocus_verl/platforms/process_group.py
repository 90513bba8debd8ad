"""The process group on a CPU.

verl 0.9.1 builds the backend string `cpu:gloo,<device>:<backend>`. With a CPU device that is `cpu:gloo,cpu:gloo`, which
torch refuses. verl offers no setting for it, so the default argument is replaced here. Drop it when verl skips the
duplicate.
"""

from __future__ import annotations

import functools
from typing import Any

GLOO_BACKEND = "cpu:gloo"


def install(distributed: Any) -> None:
    """Make `initialize_global_process_group_ray` of the module `verl.utils.distributed` default to `cpu:gloo`, once.

    Must run before `verl.workers.engine_workers` is imported, because that module takes the function by name.
    """
    current = distributed.initialize_global_process_group_ray
    if isinstance(current, functools.partial):
        return
    distributed.initialize_global_process_group_ray = functools.partial(current, backend=GLOO_BACKEND)
