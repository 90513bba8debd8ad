"""Slow worlds run beside the event loop, so that one that plans or asks a JVM stalls no other episode."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def beside_loop(slow: bool, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What the function returns. slow: call it in a thread, while the loop goes on; else at once.

    What a fast world does takes less time than the hand-over to a thread.
    """
    if slow:
        return await asyncio.to_thread(function, *args, **kwargs)
    return function(*args, **kwargs)
