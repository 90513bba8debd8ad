"""What is said when episodes of a step or an evaluation ended in an error: how many, and why one of them did."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from transfer_queue import KVBatchMeta

from actfocus_verl.integration.columns import conversation_rows
from actfocus_verl.integration.run_log import RunLog


def failed_episodes(present: int, expected: int, where: str, cause: str | None = None) -> str:
    """Return the error text for episodes that failed: a rate or a group without them would be biased.

    cause: of one of them (`RunLog.last_failure`).
    """
    why = f" ({cause})" if cause else ""
    return (
        f"{expected - present} of {expected} episodes of {where} ended in an error{why}; see the logs of the "
        "agent-loop workers (run.verbose=true prints them)"
    )


def require_all(batch: KVBatchMeta, expected: int, step: int, run_log: RunLog) -> None:
    """Raises RuntimeError where the batch has fewer conversations than expected."""
    played = len(conversation_rows(batch.keys))
    if played < expected:
        error = failed_episodes(played, expected, f"step {step}", run_log.last_failure())
        raise RuntimeError(f"{error}; trainer.v1.sampler.sync_refill_failed_groups=true replaces failed groups instead")


def naming_the_cause(sample: Callable[..., Any], cause: Callable[[], str | None]) -> Callable[..., Any]:
    """Return verl's `ReplayBuffer.sample`, whose errors say why an episode failed, where one did.

    Where every episode of a step is lost, verl ends the run there, with a sentence about its buffer only.
    """

    @functools.wraps(sample)
    def sampled(*args: Any, **kwargs: Any) -> Any:
        try:
            return sample(*args, **kwargs)
        except RuntimeError as error:
            why = cause()
            if why is None:
                raise
            raise RuntimeError(f"{error} The last episode that failed: {why}") from error

    return sampled
