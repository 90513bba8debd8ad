"""An episode whose tool does not return is ended, and told where it stands; one that waits for the policy is not."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from actfocus_verl.errors import ConfigurationError
from actfocus_verl.rollout import StandstillWatch, beside_loop, standstill, waiting_elsewhere

KEY = "run.tool_timeout"
GUARD = 60
"""Seconds that are never reached unless something is wrong."""


class Hours:
    """A clock that runs as the test says; it counts how often it was read."""

    def __init__(self) -> None:
        self.now = 0.0
        self.reads = 0

    def __call__(self) -> float:
        self.reads += 1
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Hours:
    monkeypatch.setattr(standstill, "POLL_SECONDS", 0.005)
    return Hours()


async def looked(clock: Hours, times: int = 5) -> None:
    """The watch has looked a few more times."""
    until = clock.reads + times
    while clock.reads < until:
        await asyncio.sleep(0.005)


async def never() -> None:
    await asyncio.get_running_loop().create_future()


def message(watch: StandstillWatch, episode: Callable[[], object]) -> str:
    async def run() -> None:
        await asyncio.wait_for(watch.play("an episode", episode()), GUARD)

    with pytest.raises(ConfigurationError) as caught:
        asyncio.run(run())
    return str(caught.value)


def test_a_tool_that_never_returns_is_named_by_its_line(clock: Hours) -> None:
    async def tool() -> None:
        await never()

    async def episode() -> None:
        clock.now = 1801.0
        await asyncio.gather(tool(), tool())  # as verl's tool agent calls them

    said = message(StandstillWatch(1800.0, KEY, clock=clock), episode)
    assert said == (
        f"run.tool_timeout=1800.0: an episode has waited longer for its tool, world or reward, at {__file__}, line "
        f"{never.__code__.co_firstlineno + 1}, in never. Give what it calls there a time limit of its own, or raise "
        "this one (null: none)"
    )


def test_a_slow_world_is_named_by_the_line_in_its_thread(clock: Hours) -> None:
    released = threading.Event()

    def step() -> None:
        clock.now = 1801.0
        assert released.wait(GUARD)

    async def episode() -> None:
        try:
            await beside_loop(True, step)
        finally:
            released.set()

    assert f"at {__file__}, line {step.__code__.co_firstlineno + 2}, in step. " in message(
        StandstillWatch(1800.0, KEY, clock=clock), episode
    )


def test_whoever_waits_for_the_policy_may_wait(clock: Hours) -> None:
    """A server ten times as slow as ever, or a queue in front of it, is no fault of the tool's."""

    async def reply() -> str:
        with waiting_elsewhere():
            clock.now += 100_000.0
            await looked(clock)
        return "reply"

    async def episode() -> list[str]:
        replies = [await reply() for _ in range(3)]
        clock.now += 1799.0  # and a tool that takes nearly as long as it may
        await looked(clock)
        return replies + list(await asyncio.gather(reply(), reply()))

    watch = StandstillWatch(1800.0, KEY, clock=clock)
    assert asyncio.run(watch.play("an episode", episode())) == ["reply"] * 5


def test_one_that_stands_still_takes_no_other_with_it(clock: Hours) -> None:
    watch = StandstillWatch(1800.0, KEY, clock=clock)

    async def goes_on() -> int:
        with waiting_elsewhere():
            clock.now += 1801.0
            await looked(clock)
        return 1

    async def everything() -> list[object]:
        return await asyncio.gather(
            watch.play("a", never()), *(watch.play("b", goes_on()) for _ in range(3)), return_exceptions=True
        )

    stands, *others = asyncio.run(everything())
    assert isinstance(stands, ConfigurationError)
    assert others == [1, 1, 1]


def test_errors_and_cancelling_of_others_come_out_as_they_are(clock: Hours) -> None:
    watch = StandstillWatch(1800.0, KEY, clock=clock)

    async def fails() -> None:
        raise ValueError("no such board")

    async def cancelled() -> None:
        task = asyncio.ensure_future(watch.play("an episode", never()))
        await looked(clock)
        task.cancel()
        await task

    with pytest.raises(ValueError, match="no such board"):
        asyncio.run(watch.play("an episode", fails()))
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(cancelled())


@pytest.mark.parametrize("blocks", [True, False])
def test_where_cancelling_does_not_help_the_process_ends(
    clock: Hours, monkeypatch: pytest.MonkeyPatch, blocks: bool
) -> None:
    """A tool that blocks the event loop, or that goes on whatever it is told."""
    monkeypatch.setattr(standstill, "GRACE_SECONDS", 0.05)
    ended, said = threading.Event(), []

    def end(text: str) -> None:
        said.append(text)
        ended.set()

    def blocking() -> None:
        assert ended.wait(GUARD)

    async def stubborn() -> None:
        while not ended.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0.005)

    async def episode() -> None:
        clock.now = 1801.0
        blocking() if blocks else await stubborn()

    async def run() -> None:
        with contextlib.suppress(ConfigurationError):
            await StandstillWatch(1800.0, KEY, clock=clock, end=end).play("an episode", episode())

    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, run()).result(GUARD)
    assert said[0].startswith("run.tool_timeout=1800.0: an episode has waited longer for its tool, world or reward, ")
    if blocks:
        assert f"at {__file__}, line {blocking.__code__.co_firstlineno + 1}, in blocking" in said[0]


def test_the_last_words_of_a_blocked_process() -> None:
    """They are the last lines of its log, which the watchdog shows."""
    code = """
import asyncio, time
from actfocus_verl.rollout import standstill

def tool():
    while True:
        time.sleep(1)

async def episode():
    tool()

standstill.POLL_SECONDS = standstill.GRACE_SECONDS = 0.01
asyncio.run(standstill.StandstillWatch(0.01, "run.tool_timeout").play("an episode", episode()))
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=GUARD, check=False)
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].startswith("error: run.tool_timeout=0.01: an episode has waited longer for ")
    assert "in tool. Give what it calls there a time limit of its own" in ended.stderr


def test_its_thread_ends_with_the_last_episode(clock: Hours) -> None:
    watch = StandstillWatch(1800.0, KEY, clock=clock)
    asyncio.run(watch.play("an episode", asyncio.sleep(0)))
    thread = watch._thread
    if thread is not None:
        thread.join(GUARD)
    assert watch._thread is None
    asyncio.run(watch.play("an episode", asyncio.sleep(0)))
    assert watch._thread is not thread
