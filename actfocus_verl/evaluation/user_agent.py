"""`evaluate agent=...`: an agent of the user's on a file of tasks, against any server or a model served here.

    python -m actfocus_verl.evaluate agent=my_agent:play tasks=test.jsonl out=<folder> server=http://127.0.0.1:8000/v1
    python -m actfocus_verl.evaluate agent=my_agent:play tasks=test.jsonl out=<folder> model=outputs/my_run/model

The function is the one that was trained: `play(task, *, base_url, api_key, model)` returns the reward. The server's key
is that of the environment's OPENAI_API_KEY. Each conversation is a line of episodes.jsonl; the same command resumes.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import openai
from rich.console import Console
from rich.table import Table

from actfocus_verl.arguments import help_text, option, read_arguments
from actfocus_verl.errors import ConfigurationError, one_line
from actfocus_verl.evaluation.folder import EPISODES_FILE, EVALUATION_FILE
from actfocus_verl.evaluation.interruption import run_interruptible
from actfocus_verl.evaluation.sampling import EvaluationError
from actfocus_verl.files import append_json, timestamp, write_json
from actfocus_verl.gateway import Endpoint, build_agent
from actfocus_verl.gateway.agents import FINISHED
from actfocus_verl.gateway.tasks import read_tasks
from actfocus_verl.launch.claim import FolderClaim
from actfocus_verl.run_files import kept_lines

Json = dict[str, Any]

_START_SECONDS: Final = 900.0
_RESAMPLES: Final = 2000
_NO_KEY: Final = "none"


@dataclasses.dataclass(frozen=True)
class Options:
    """The keys of the command line."""

    agent: str = option("the agent, module:function; or command: and what to run")
    tasks: Path = option("file of tasks, .jsonl, .json or .parquet: one row a conversation")
    out: Path = option("folder for episodes.jsonl and evaluation.json; the same command resumes the evaluation")
    server: str | None = option("OpenAI-compatible server, http://host:port/v1", None)
    server_model: str | None = option("name of the model on the server; default: its only one", None)
    model: str | None = option("or a model's folder or Hugging Face id, served here through vLLM", None)
    tool_format: str = option("tool parser of vLLM for model=", "hermes")
    repeats: int = option("conversations per task", 1, low=1)
    concurrency: int = option("conversations at the same time", 16, low=1)
    timeout: float = option("seconds a conversation may take", 600.0, low=0.0)


def main(words: Sequence[str], console: Console) -> None:
    """Evaluate, and print the table."""
    Console(highlight=False).print(_table(evaluate(words, console)))


def usage() -> str:
    """The command's help."""
    return help_text(__doc__ or "", Options)


def evaluate(words: Sequence[str], console: Console) -> Json:
    """Run one evaluation, or the rest of it; returns its summary.

    Raises ConfigurationError and EvaluationError, and Interrupted after a signal: finished conversations are kept.
    """
    options = read_arguments(Options, words)
    if (options.server is None) == (options.model is None):
        problem = "one of server and model answers the agent"
        raise ConfigurationError(
            "server", options.server, problem, "Set server=http://host:port/v1, or model to a folder"
        )
    command = options.agent.removeprefix("command:") if options.agent.startswith("command:") else None
    agent = build_agent(None if command is not None else options.agent, command)
    try:
        tasks = read_tasks(options.tasks)
    except (OSError, ValueError) as error:
        raise ConfigurationError("tasks", str(options.tasks), one_line(error), "Name a file of tasks") from error
    settings = {
        **{key: str(getattr(options, key)) for key in ("agent", "tasks", "server", "server_model", "model")},
        "repeats": options.repeats,
        "timeout": options.timeout,
    }
    with FolderClaim("out", options.out):
        done = _finished(options.out, settings)
        missing = [(i, j) for i in range(len(tasks)) for j in range(options.repeats) if (i, j) not in done]
        if missing:
            with _server(options, console) as address:
                play = _play_all(agent, tasks, missing, options, Endpoint(address, _key(), _model(address, options)))
                run_interruptible(play)
        summary = summarise(list(_episodes(options.out)))
        write_json(
            options.out / EVALUATION_FILE,
            {"settings": settings, "status": "finished", "ended": timestamp(), "summary": summary},
        )
    return summary


def summarise(episodes: Sequence[Json]) -> Json:
    """Mean reward with a 95 % interval over tasks (bootstrap), and how conversations ended.

    An unfinished conversation has reward 0.
    """
    by_task: dict[int, list[float]] = {}
    for episode in episodes:
        by_task.setdefault(episode["task"], []).append(episode["reward"] or 0.0)
    means = [statistics.fmean(rewards) for rewards in by_task.values()]
    rng = random.Random(0)
    drawn = sorted(statistics.fmean(rng.choices(means, k=len(means))) for _ in range(_RESAMPLES))
    ends: dict[str, int] = {}
    for episode in episodes:
        ends[episode["how"]] = ends.get(episode["how"], 0) + 1
    return {
        "tasks": len(by_task),
        "conversations": len(episodes),
        "mean_reward": statistics.fmean(means),
        "ci_low": drawn[int(0.025 * _RESAMPLES)],
        "ci_high": drawn[int(0.975 * _RESAMPLES) - 1],
        "unfinished": sum(episode["how"] != FINISHED for episode in episodes),
        "ends": dict(sorted(ends.items())),
    }


def _finished(out: Path, settings: Json) -> set[tuple[int, int]]:
    """What an earlier start of the same evaluation has played."""
    file = out / EVALUATION_FILE
    if file.exists():
        earlier = json.loads(file.read_text())["settings"]
        for key, value in settings.items():
            if earlier.get(key) != value:
                problem = f"{out} holds an evaluation with {key}={earlier.get(key)!r}"
                raise ConfigurationError(key, value, problem, "Use the same settings, or another out=")
    else:
        write_json(file, {"settings": settings, "status": "running", "started": timestamp(), "summary": None})
    return {(episode["task"], episode["repeat"]) for episode in _episodes(out)}


def _episodes(out: Path) -> Iterator[Json]:
    for line in kept_lines(out / EPISODES_FILE):
        yield json.loads(line)


async def _play_all(
    agent: Any, tasks: Sequence[Json], missing: Sequence[tuple[int, int]], options: Options, endpoint: Endpoint
) -> None:
    free = asyncio.Semaphore(options.concurrency)

    async def play(task: int, repeat: int) -> None:
        async with free:
            began = time.perf_counter()
            outcome = await agent.play(tasks[task], endpoint, options.timeout)
        entry = {"task": task, "repeat": repeat, "reward": outcome.reward, "how": outcome.how}
        took = round(time.perf_counter() - began, 3)
        append_json(options.out / EPISODES_FILE, {**entry, "seconds": took, "details": outcome.details})

    await asyncio.gather(*(play(*each) for each in missing))


def _key() -> str:
    return os.environ.get("OPENAI_API_KEY") or _NO_KEY


def _model(address: str, options: Options) -> str:
    if options.server_model is not None:
        return options.server_model
    try:
        with openai.OpenAI(base_url=address, api_key=_key()) as client:
            names = [model.id for model in client.models.list()]
    except openai.OpenAIError as error:
        raise EvaluationError(f"{address}/models did not answer: {one_line(error)}") from error
    if len(names) != 1:
        problem = "the server has several models or none"
        raise ConfigurationError("server_model", None, problem, f"Use one of: {', '.join(names)[:300]}")
    return names[0]


@contextmanager
def _server(options: Options, console: Console) -> Iterator[str]:
    """The address of the server; for `model=` of one that runs while the block does."""
    if options.server is not None:
        yield options.server.rstrip("/")
        return
    from actfocus_verl.evaluation.engine import no_processes_left

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    tools = ["--enable-auto-tool-choice", f"--tool-call-parser={options.tool_format}"]
    where = ["--host=127.0.0.1", f"--port={port}"]
    log = options.out / "server.log"
    console.print(f"starting vLLM; its messages are in {log}", soft_wrap=True)
    with no_processes_left(), log.open("w") as file:
        words = [sys.executable, "-m", "actfocus_verl.serve", str(options.model), *where, *tools]
        process = subprocess.Popen(words, stdout=file, stderr=subprocess.STDOUT)
        address = f"http://127.0.0.1:{port}/v1"
        _wait_for(process, address, log)
        yield address


def _wait_for(process: subprocess.Popen[bytes], address: str, log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    with openai.OpenAI(base_url=address, api_key=_key(), max_retries=0, timeout=5.0) as client:
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise EvaluationError(f"vLLM's server did not start; see {log}")
            try:
                client.models.list()
                return
            except openai.OpenAIError:
                time.sleep(1.0)
    raise EvaluationError(f"vLLM's server did not answer within {_START_SECONDS:g} s; see {log}")


def _table(summary: Json) -> Table:
    table = Table("tasks", "conversations", "mean reward", "95 % interval", "unfinished", box=None, pad_edge=False)
    interval = f"{summary['ci_low']:.3f} to {summary['ci_high']:.3f}"
    mean = f"{summary['mean_reward']:.3f}"
    table.add_row(str(summary["tasks"]), str(summary["conversations"]), mean, interval, str(summary["unfinished"]))
    return table
