"""An agent is a function or a command, given a task and an address, that returns a reward.

    async def play(task, *, base_url, api_key, model) -> float

A function runs in a thread of its own, an `async` one in an event loop of its own there: whatever it blocks, it blocks
itself alone. A thread cannot be ended from outside: past its time limit it is left behind, and its session closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import shlex
import signal
import threading
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Any, Final, Protocol

from actfocus_verl.checks import finite_number
from actfocus_verl.errors import ConfigurationError, one_line
from actfocus_verl.files import json_text

RAISED: Final = "raised"
TIMEOUT: Final = "timeout"
NO_REWARD: Final = "no_reward"
FINISHED: Final = "finished"
_SHOWN: Final = 4000


@dataclass(frozen=True)
class Endpoint:
    """What an agent is given beside its task, as OpenAI's clients name it."""

    base_url: str
    api_key: str
    model: str

    def arguments(self) -> dict[str, str]:
        """Keyword arguments of an agent's function."""
        return {"base_url": self.base_url, "api_key": self.api_key, "model": self.model}

    def variables(self) -> dict[str, str]:
        """Environment variables of an agent's command; the first two are OpenAI's own."""
        return {"OPENAI_BASE_URL": self.base_url, "OPENAI_API_KEY": self.api_key, "OPENAI_MODEL": self.model}


@dataclass(frozen=True)
class Outcome:
    """How a conversation ended. how: FINISHED, RAISED, TIMEOUT or NO_REWARD; details: for a log."""

    how: str
    reward: float | None = None
    details: str = ""


class Agent(Protocol):
    """Plays one conversation."""

    async def play(self, task: Mapping[str, Any], endpoint: Endpoint, seconds: float) -> Outcome:
        """Play it within a time limit; whatever goes wrong in the agent is in the outcome."""


def build_agent(function: str | None, command: str | None) -> Agent:
    """The agent of `agent.function` (`module:function`) or `agent.command`.

    Raises ConfigurationError unless exactly one is given and the function can be imported.
    """
    if (function is None) == (command is None):
        problem = "one of agent.function and agent.command names the agent"
        raise ConfigurationError("agent.function", function, problem, "Set one of the two")
    if command is not None:
        return CommandAgent(command)
    try:
        found = resolve_name(str(function))
    except (ImportError, AttributeError, ValueError) as error:
        remedy = "Write module:function, importable in every process of the run"
        raise ConfigurationError(
            "agent.function", function, f"it cannot be imported ({one_line(error)})", remedy
        ) from error
    if not callable(found):
        raise ConfigurationError("agent.function", function, "is not a function", "Name the function that plays")
    return FunctionAgent(found)


class FunctionAgent:
    """An agent in this process."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    async def play(self, task: Mapping[str, Any], endpoint: Endpoint, seconds: float) -> Outcome:
        """See `Agent`."""
        call = _Call(self._function, dict(task), endpoint, asyncio.get_running_loop())
        try:
            result = await asyncio.wait_for(call.result(), seconds)
        except asyncio.TimeoutError:
            return Outcome(TIMEOUT, details=f"the agent took more than {seconds:g} s")
        except _AgentError as error:
            return Outcome(RAISED, details=str(error))
        finally:
            call.give_up()
        return _outcome(result, "the agent returned")


class _AgentError(Exception):
    """What an agent raised, as text: its exceptions may be of any kind, also such as would end this process."""


class _Call:
    """One call of a function in a thread, whose result is awaited in another event loop."""

    def __init__(
        self, function: Callable[..., Any], task: dict[str, Any], endpoint: Endpoint, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._call: Callable[[], Any] = lambda: function(task, **endpoint.arguments())
        self._loop = loop
        self._future: asyncio.Future[Any] = loop.create_future()
        self._inner: tuple[asyncio.AbstractEventLoop, asyncio.Task[Any] | None] | None = None
        threading.Thread(target=self._run, name="agent", daemon=True).start()

    def result(self) -> asyncio.Future[Any]:
        return self._future

    def give_up(self) -> None:
        """Cancel a coroutine that still runs."""
        if self._inner is not None:
            loop, task = self._inner
            with contextlib.suppress(RuntimeError):  # it has just ended, and its loop is closed
                loop.call_soon_threadsafe(task.cancel)  # type: ignore[union-attr]

    def _run(self) -> None:
        try:
            result = self._call()
            if inspect.isawaitable(result):
                result = asyncio.run(self._finish(result))
        except BaseException as error:  # noqa: BLE001  (SystemExit too: of one agent's, the others know nothing)
            text = "".join(traceback.format_exception(error))[-_SHOWN:]
            self._tell(self._future.set_exception, _AgentError(text))
        else:
            self._tell(self._future.set_result, result)

    async def _finish(self, awaitable: Any) -> Any:
        self._inner = asyncio.get_running_loop(), asyncio.current_task()
        try:
            return await awaitable
        finally:
            self._inner = None

    def _tell(self, setter: Callable[[Any], None], value: Any) -> None:
        def tell() -> None:
            if not self._future.done():  # the conversation is over
                setter(value)

        with contextlib.suppress(RuntimeError):  # so is the process
            self._loop.call_soon_threadsafe(tell)


class CommandAgent:
    """An agent in a process, in any language.

    It reads the task as JSON on stdin and finds the server in OPENAI_BASE_URL, OPENAI_API_KEY and OPENAI_MODEL. The
    last line that it prints is the reward, unless it posted one to `reward_info`.
    """

    def __init__(self, command: str) -> None:
        self._words = shlex.split(command)
        if not self._words:
            raise ConfigurationError("agent.command", command, "is empty", "Write the command to run")

    async def play(self, task: Mapping[str, Any], endpoint: Endpoint, seconds: float) -> Outcome:
        """See `Agent`."""
        pipe = asyncio.subprocess.PIPE
        try:
            process = await asyncio.create_subprocess_exec(
                *self._words,
                stdin=pipe,
                stdout=pipe,
                stderr=pipe,
                env={**os.environ, **endpoint.variables()},
                start_new_session=True,
            )
        except OSError as error:
            return Outcome(RAISED, details=f"{self._words[0]} did not start: {error}")
        given = json_text(dict(task), default=str).encode()
        try:
            out, err = await asyncio.wait_for(process.communicate(given), seconds)
        except asyncio.TimeoutError:
            return Outcome(TIMEOUT, details=f"the agent took more than {seconds:g} s")
        finally:
            with contextlib.suppress(ProcessLookupError):  # what it started ends with it
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        text = (out + err).decode(errors="replace")[-_SHOWN:]
        if process.returncode != 0:
            return Outcome(RAISED, details=f"the agent's exit status is {process.returncode}\n{text}")
        lines = out.decode(errors="replace").split()
        return _outcome(_number(lines[-1] if lines else ""), "the agent's last word is", text)


def _number(text: str) -> object:
    try:
        return float(text)
    except ValueError:
        return text


def _outcome(result: object, what: str, details: str = "") -> Outcome:
    reward = finite_number(result)
    if reward is None:
        return Outcome(NO_REWARD, details=f"{what} {result!r:.200}, which is not a finite number\n{details}".strip())
    return Outcome(FINISHED, reward, details)
