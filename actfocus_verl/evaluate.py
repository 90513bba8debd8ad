"""Evaluate a model on the boards of a split, through vLLM, without a trainer.

    python -m actfocus_verl.evaluate model=<model> env=frozen_lake out=<folder>
    python -m actfocus_verl.evaluate model=outputs/quickstart out=<folder> episodes=512 repeats=16 temperature=0.5
    python -m actfocus_verl.evaluate model=<model> env=sokoban out=<folder> server=http://127.0.0.1:8000/v1
    python -m actfocus_verl.evaluate agent=my_agent:play tasks=test.jsonl out=<folder> server=http://127.0.0.1:8000/v1

Any other key, like max_turns=5, belongs to the world. Ctrl-C keeps every finished episode. Exit status: 0 finished,
1 failed, 2 a mistake in the command, 130 interrupted. See docs/evaluation.md.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

if __name__ == "__main__":
    # Read when torch is imported, as it is below: vLLM's CPU kernels warn, past every logger, that memory is bound to
    # the NUMA node that is used. Errors still show.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")

from rich.console import Console

from actfocus_verl.arguments import help_text
from actfocus_verl.command import run_command, start
from actfocus_verl.environments import world_config
from actfocus_verl.errors import Interrupted
from actfocus_verl.evaluation.arguments import (
    Arguments,
    Options,
    RunDefaults,
    backend_setting,
    complete,
    context_tokens,
    evaluation_options,
)
from actfocus_verl.evaluation.backends import local_sampler
from actfocus_verl.evaluation.display import EpisodeProgress, summary_tables
from actfocus_verl.evaluation.engine import local_weights
from actfocus_verl.evaluation.episodes import (
    EpisodeKey,
    EpisodePlayer,
    EpisodeRecord,
    plan,
    play_episodes,
)
from actfocus_verl.evaluation.folder import EvaluationFolder
from actfocus_verl.evaluation.interruption import run_interruptible
from actfocus_verl.evaluation.models import ModelFiles, NamedModel, find_model, read_model, weights_digest
from actfocus_verl.evaluation.sampling import Sampler
from actfocus_verl.evaluation.summary import summarise

Json = dict[str, Any]


def evaluate(words: Sequence[str], console: Console) -> tuple[Json, Json]:
    """Run one evaluation, or the rest of it; returns its settings and its summary.

    words: the command line. console: for progress. Raises ConfigurationError, EvaluationError, and Interrupted after a
    signal; episodes finished by then are kept.
    """
    options = evaluation_options(words)
    named = find_model(options["model"], options.get("step"))
    arguments = complete(options, RunDefaults.read(named.run) if named.run else None)
    opening = world_config(arguments.env, preset=arguments.preset, **arguments.world).limits().opening
    model = read_model(_model_path(named, arguments, console), arguments.template, opening)
    settings = _settings(arguments, named, model)
    with EvaluationFolder(arguments.out, settings) as folder:
        done = {record.key for record in folder.records}
        missing = [key for key in plan(arguments.boards, arguments.repeats) if key not in done]
        if missing:
            world = asdict(world_config(arguments.env, preset=arguments.preset, **arguments.world))
            with _recorded(folder, world):
                _Play(arguments, model, settings["max_context_tokens"], folder, console).play(missing)
        summary = summarise(folder.records)
        if missing or not folder.is_finished:
            folder.end("finished", summary)
    return settings, summary


def _model_path(named: NamedModel, arguments: Arguments, console: Console) -> str:
    """The folder of configuration and tokenizer, and of the weights unless a server has them."""
    if arguments.server is not None:
        return named.without_weights()
    return local_weights(named, arguments.platform, console)


def _settings(arguments: Arguments, named: NamedModel, model: ModelFiles) -> Json:
    """Everything that the episodes depend on."""
    local = arguments.server is None
    return {
        "model": named.name,
        "step": named.step,
        "revision": model.revision,
        "weights": weights_digest(model.path) if local and named.is_folder else None,
        "env": arguments.env,
        "preset": arguments.preset,
        "split": arguments.split,
        "world": dict(arguments.world),
        "episodes": arguments.episodes,
        "repeats": arguments.repeats,
        "temperature": float(arguments.temperature),
        "seed": arguments.seed,
        "template": dict(arguments.template) or None,
        "platform": arguments.platform if local else None,
        **backend_setting(arguments),
        "engine": dict(arguments.engine),
        "server": arguments.server,
        "server_model": arguments.server_model,
        "server_api": None if local else arguments.server_api,
        "request": None if local else dict(arguments.request),
        "max_context_tokens": context_tokens(arguments.max_context_tokens, model.positions),
        "max_response_tokens": arguments.max_response_tokens,
        "texts": arguments.texts,
        "rollouts": arguments.rollouts or None,  # absent, and so None, in folders of earlier versions
    }


@contextmanager
def _recorded(folder: EvaluationFolder, world: Json) -> Iterator[None]:
    """Record the start with all values of the world, and how it ended unless it finished."""
    folder.begin(world=world)
    try:
        yield
    except (Interrupted, KeyboardInterrupt):
        folder.end("interrupted")
        raise
    except Exception as error:
        folder.end(f"failed: {error}")
        raise


class _Play:
    """Plays the missing episodes of one evaluation, by vLLM here or by a server."""

    def __init__(
        self, arguments: Arguments, model: ModelFiles, context: int, folder: EvaluationFolder, console: Console
    ) -> None:
        self._arguments = arguments
        self._model = model
        self._folder = folder
        self._console = console
        self._sampling: Json = {
            "max_context_tokens": context,
            "temperature": float(arguments.temperature),
        }

    def play(self, keys: Sequence[EpisodeKey]) -> None:
        if self._arguments.server is None:
            self._play_here(keys)
        else:
            run_interruptible(self._play_on_server(keys, self._arguments.server))

    def _play_here(self, keys: Sequence[EpisodeKey]) -> None:
        context = self._sampling["max_context_tokens"]
        with local_sampler(self._model, self._arguments, max_context_tokens=context, console=self._console) as sampler:
            run_interruptible(self._play_with(sampler, keys))

    async def _play_on_server(self, keys: Sequence[EpisodeKey], address: str) -> None:
        from actfocus_verl.evaluation.server import ChatServer, CompletionServer

        arguments = self._arguments
        kind = ChatServer if arguments.server_api == "chat" else CompletionServer
        fields = dict(arguments.request)
        own: Json = {"or_else": ", or allow it with server_api=chat"} if kind is CompletionServer else {}
        if kind is ChatServer and arguments.template:  # its template is the server's own
            fields = {"chat_template_kwargs": dict(arguments.template), **fields}
        own |= {"model": arguments.server_model, "timeout": arguments.timeout, "fields": fields}
        async with kind(address, self._model.codec, **own, **self._sampling) as server:
            await self._play_with(server, keys)

    async def _play_with(self, sampler: Sampler, keys: Sequence[EpisodeKey]) -> None:
        arguments, records = self._arguments, self._folder.records
        shared = arguments.episode_settings(self._sampling["max_context_tokens"])
        successes = sum(record.success for record in records)
        player = EpisodePlayer(shared, self._model.codec, sampler)
        with EpisodeProgress(arguments.episodes, len(records), successes, self._console) as progress:

            def keep(record: EpisodeRecord) -> None:
                self._folder.append(record)
                progress.add(record.success)

            await play_episodes(
                keys,
                player.play,
                concurrency=arguments.concurrency,
                record=keep,
                tool_timeout=arguments.tool_timeout,
            )


def _evaluate_and_show(words: Sequence[str], console: Console) -> None:
    Console(highlight=False).print(summary_tables(*evaluate(words, console)))


def main(words: Sequence[str]) -> int:
    """Evaluate, with metrics on stdout and the rest on stderr; returns the exit status."""
    if any(word.startswith("agent=") for word in words):
        from actfocus_verl.evaluation import user_agent

        return run_command(words, user_agent.main, user_agent.usage)
    goes_on = "interrupted; run the same command again to resume"
    return run_command(words, _evaluate_and_show, lambda: help_text(__doc__ or "", Options), interrupted=goes_on)


if __name__ == "__main__":
    start(main)
