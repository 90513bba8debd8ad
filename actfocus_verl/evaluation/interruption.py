"""Asynchronous work that a signal ends in an orderly way."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any

from actfocus_verl.command import STOP_SIGNALS
from actfocus_verl.errors import Interrupted
from actfocus_verl.evaluation.sampling import EvaluationError


def run_interruptible(work: Coroutine[Any, Any, None]) -> None:
    """Run to the end, or to a signal: then cancel it and raise Interrupted."""
    interrupted = False

    async def main() -> None:
        nonlocal interrupted
        task = asyncio.ensure_future(work)
        loop = asyncio.get_running_loop()

        def interrupt() -> None:
            nonlocal interrupted
            if not interrupted:  # a second signal must not break off what the first one started
                interrupted = True
                task.cancel()

        for number in STOP_SIGNALS:
            loop.add_signal_handler(number, interrupt)
        await task

    handlers = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    try:
        asyncio.run(main())
    except (asyncio.CancelledError, EvaluationError):  # on a terminal Ctrl-C reaches the engine as well
        if not interrupted:
            raise
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if interrupted:
        raise Interrupted
