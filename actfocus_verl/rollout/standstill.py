"""Notice an episode that stands still: its tool, its world or its reward does not come back. Then say where it stands.

What an episode waits for is the policy's reply, another episode, or what the user brought. Only the last is limited: a
server may be slow, and episodes may be many. A thread looks at the time, since a tool that blocks stops the event loop
as well. It cancels the episode; where that is of no use, it ends the process, which the run's watchdog reports.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import sysconfig
import threading
import time
import traceback
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar
from weakref import WeakSet

from actfocus_verl.errors import ConfigurationError

T = TypeVar("T")

POLL_SECONDS = 5.0
GRACE_SECONDS = 10.0
"""How long a cancelled episode may take to end. An event loop that a tool blocks never cancels it."""
_STDLIB: Final = sysconfig.get_paths()["stdlib"] + os.sep
_PACKAGES: Final = f"{os.sep}site-packages{os.sep}"
_OURS: Final = str(Path(__file__).parents[1]) + os.sep

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class _Played:
    """An episode in progress. since: when it last got what it waited for, in seconds of `clock`."""

    name: str
    clock: Callable[[], float]
    loop: asyncio.AbstractEventLoop
    loop_thread: int
    since: float
    task: asyncio.Task[Any] | None = None
    elsewhere: int = 0
    """Replies and episodes it waits for now."""
    threads: list[int] = field(default_factory=list)
    """Those in which its world or its tools run, where they run beside the event loop."""
    overdue: bool = False
    stack: Sequence[traceback.FrameSummary] = ()
    """Of the first of them, when it was overdue."""
    settled: threading.Event = field(default_factory=threading.Event)
    """Set once it has ended, or was overdue no more when its turn came to be cancelled."""


_current: ContextVar[_Played | None] = ContextVar("actfocus_played", default=None)


@contextlib.contextmanager
def waiting_elsewhere() -> Iterator[None]:
    """What runs inside is no standstill of the episode's: the policy replies, or another episode is played."""
    played = _current.get()
    if played is None:
        yield
        return
    played.elsewhere += 1
    try:
        yield
    finally:
        played.since = played.clock()
        played.elsewhere -= 1


class _Threads(ThreadPoolExecutor):
    """What `asyncio.to_thread` runs in: slow worlds, and verl's function tools. Knows whose episode is in which."""

    def submit(self, fn: Callable[..., Any], /, *words: Any, **fields: Any) -> Future[Any]:
        played = _current.get()
        return (
            super().submit(fn, *words, **fields) if played is None else super().submit(_in, played, fn, words, fields)
        )


def _in(played: _Played, fn: Callable[..., Any], words: Sequence[Any], fields: Mapping[str, Any]) -> Any:
    played.threads.append(threading.get_ident())
    try:
        return fn(*words, **fields)
    finally:
        played.threads.remove(threading.get_ident())


class StandstillWatch:
    """Watches the episodes of one process.

    seconds: that an episode may wait for its tool, world or reward. key: the setting that gives them. end: ends the
    process where cancelling does not help; called with the error's text. cancels: try that first; a process whose event
    loop is to close had better not, since closing waits for the thread of a world for ever. without: how the setting
    says that there is no limit, for the error.
    """

    def __init__(
        self,
        seconds: float,
        key: str,
        *,
        end: Callable[[str], None] | None = None,
        cancels: bool = True,
        without: str = " (null: none)",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._seconds, self._key, self._clock = seconds, key, clock
        self._end = end or end_process
        self._cancels, self._without = cancels, without
        self._played: set[_Played] = set()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._loops: WeakSet[asyncio.AbstractEventLoop] = WeakSet()
        """Those whose threads are known."""

    async def play(self, name: str, episode: Coroutine[Any, Any, T]) -> T:
        """What the episode returns. name: for the error.

        Raises ConfigurationError, which names the line of code it stood at, when it stood still and was cancelled.
        """
        loop = asyncio.get_running_loop()
        if loop not in self._loops:
            self._loops.add(loop)
            loop.set_default_executor(_Threads(thread_name_prefix="asyncio"))
        played = _Played(name, self._clock, loop, threading.get_ident(), self._clock())
        token = _current.set(played)
        try:  # a task of its own copies the context, and so do those of its tools
            task: asyncio.Task[T] = asyncio.create_task(episode)
        finally:
            _current.reset(token)
        played.task = task
        self._add(played)
        try:
            return await task
        except asyncio.CancelledError as error:
            if not played.overdue:
                raise
            raise self._error(name, played.stack or traceback.extract_tb(error.__traceback__)) from error
        finally:
            with self._lock:
                self._played.discard(played)
            played.settled.set()

    def _add(self, played: _Played) -> None:
        with self._lock:
            self._played.add(played)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="actfocus-standstill", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        """Look until nothing is played."""
        while True:
            time.sleep(POLL_SECONDS)
            with self._lock:
                if not self._played:
                    self._thread = None
                    return
                overdue = [played for played in self._played if self._is_overdue(played)]
            for played in overdue:
                self._stop(played)

    def _is_overdue(self, played: _Played) -> bool:
        return self._clock() - played.since > self._seconds and played.elsewhere == 0

    def _stop(self, played: _Played) -> None:
        """Cancel an episode, or end the process."""
        if not self._cancels:
            self._end(str(self._error(played.name, _stack_of(*(played.threads[:1] or [played.loop_thread])))))
            return
        reached, task = threading.Event(), played.task

        played.settled.clear()
        if task is None or task.done():
            return

        def cancel() -> None:
            reached.set()
            if self._is_overdue(played):
                played.overdue = True
                task.cancel()
            else:  # it has got on while this was waiting for its turn
                played.settled.set()

        played.stack = _stack_of(*played.threads[:1])
        try:
            played.loop.call_soon_threadsafe(cancel)
        except RuntimeError:  # the loop is closed: nothing is played any more
            return
        if not played.settled.wait(GRACE_SECONDS):
            frames = played.stack if reached.is_set() else _stack_of(played.loop_thread)
            self._end(str(self._error(played.name, frames)))

    def _error(self, name: str, frames: Sequence[traceback.FrameSummary]) -> ConfigurationError:
        return ConfigurationError(
            self._key,
            self._seconds,
            f"{name} has waited longer for its tool, world or reward, {_place(frames)}",
            f"Give what it calls there a time limit of its own, or raise this one{self._without}",
        )


def _stack_of(thread: int | None = None) -> Sequence[traceback.FrameSummary]:
    frame = None if thread is None else sys._current_frames().get(thread)
    return [] if frame is None else traceback.extract_stack(frame)


def _place(frames: Sequence[traceback.FrameSummary]) -> str:
    """The innermost line of the user's, else of another package's: not of Python's own library, nor of ours."""
    foreign = [each for each in frames if not (each.filename.startswith(_STDLIB) and _PACKAGES not in each.filename)]
    users = [each for each in foreign if _PACKAGES not in each.filename and not each.filename.startswith(_OURS)]
    if not (users or foreign):
        return "at a place that is not known"
    place = (users or foreign)[-1]
    return f"at {place.filename}, line {place.lineno}, in {place.name}"


def end_process(message: str) -> None:
    """End at once: a tool that does not return would also not return from an orderly end."""
    logger.critical("error: %s", message)
    logging.shutdown()
    os._exit(1)
