"""The measurement: episodes of the policy, continuations from their boundaries, and what they say."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cached_property
from itertools import groupby
from typing import Any, Final

import numpy as np
import torch
from rich.console import Console

from actfocus_verl.arguments import help_text
from actfocus_verl.command import run_command
from actfocus_verl.environments import world_config
from actfocus_verl.errors import CommandFailed, ConfigurationError
from actfocus_verl.evaluation.arguments import RunDefaults, backend_setting, context_tokens
from actfocus_verl.evaluation.backends import local_sampler
from actfocus_verl.evaluation.engine import local_weights
from actfocus_verl.evaluation.episodes import EpisodeKey, plan, play_episodes
from actfocus_verl.evaluation.interruption import run_interruptible
from actfocus_verl.evaluation.models import (
    ModelFiles,
    NamedModel,
    find_model,
    load_policy,
    read_model,
    weights_digest,
)
from actfocus_verl.evaluation.sampling import Sampler
from actfocus_verl.evaluation.transformers_engine import DEVICES
from actfocus_verl.files import write_json, write_text
from actfocus_verl.launch.claim import FolderClaim
from actfocus_verl.launch.progress import StageProgress
from actfocus_verl.launch.record import installed_versions, source_commit
from actfocus_verl.truth.arguments import Arguments, Options, complete, read_options_and_world
from actfocus_verl.truth.continuations import Continuations, Replayed
from actfocus_verl.truth.decomposition import Changes, MeasuredEpisode, decompose, episode_changes
from actfocus_verl.truth.display import show
from actfocus_verl.truth.figures import plot_shares
from actfocus_verl.truth.html_page import build_page, with_largest_changes
from actfocus_verl.truth.judging import Episodes as JudgedEpisodes
from actfocus_verl.truth.judging import judge
from actfocus_verl.truth.methods import chosen_methods
from actfocus_verl.truth.samples import SampleFile
from actfocus_verl.truth.token_stage import TokenFile, TokenStage

RESULT_FILE: Final = "truth.json"
FIGURE_FILE: Final = "truth.png"
PAGE_FILE: Final = "truth.html"
SETS: Final = 2

Json = dict[str, Any]
Place = tuple[Replayed, int]
"""An episode and the number of one of its boundaries."""


def measure(words: Sequence[str], console: Console) -> Json:
    """Sample what is missing, decompose, and write truth.json, which is returned.

    words: the command line. console: for progress. Raises ConfigurationError; CommandFailed where no return varies or
    the engine fails; Interrupted after a signal. What was sampled by then is kept.
    """
    options, world = read_options_and_world(words)
    named = find_model(options.model, options.step)
    run = RunDefaults.read(named.run) if named.run else None
    arguments = complete(options, world, named, run)
    played = arguments.played
    opening = world_config(played.env, preset=played.preset, **played.world).limits().opening
    local = played.server is None
    weights = local_weights(named, played.platform, console) if local else named.without_weights()
    model = read_model(weights, played.template, opening)
    reference = find_reference(options.reference or (run.model if run else None)) if arguments.judges else None
    methods = chosen_methods(options.methods)
    settings = _settings(arguments, named, model)
    with FolderClaim("out", played.out):
        file = SampleFile(played.out, settings)
        measurement = _Measurement(arguments, model, settings["max_context_tokens"], methods, file, console)
        measurement.complete()
        measured = measurement.measured
        found = {
            "settings": settings,
            "commit": source_commit(),
            "versions": installed_versions(),
            "continuations": SETS * options.continuations,
            **measurement.token_figures(),
            **decompose(measured),
        }
        if arguments.judges:
            found["judged"] = {"reference_model": reference, **measurement.judge(measured, weights, reference)}
        write_json(played.out / RESULT_FILE, found)
        plot_shares(found, played.out / FIGURE_FILE)
        shown = with_largest_changes(measured, measurement.replayed())
        write_text(played.out / PAGE_FILE, build_page(found, shown, model.codec))
    console.print(f"written: {played.out}", soft_wrap=True)
    return found


def _settings(arguments: Arguments, named: NamedModel, model: ModelFiles) -> Json:
    """Everything that the samples depend on."""
    options, played = arguments.options, arguments.played
    local = played.server is None
    served = {"server": played.server, "server_model": played.server_model, "request": dict(played.request)}
    return {
        "model": named.name,
        "step": named.step,
        "revision": model.revision,
        "weights": weights_digest(model.path) if local and named.is_folder else None,
        "env": played.env,
        "preset": played.preset,
        "split": played.split,
        "world": dict(played.world),
        "boards": options.boards,
        "episodes": options.episodes,
        "continuations": options.continuations,
        "temperature": float(played.temperature),
        "seed": played.seed,
        "template": dict(played.template) or None,
        "platform": played.platform if local else None,
        **backend_setting(played),
        "engine": dict(played.engine),
        "max_context_tokens": context_tokens(played.max_context_tokens, model.positions),
        "max_response_tokens": played.max_response_tokens,
        **({} if local else served),
    }


def find_reference(name: str | None) -> str | None:
    """The folder or id of the frozen reference. Raises ConfigurationError where there is no such model."""
    if name is None:
        return None
    try:
        return find_model(name, None).name
    except ConfigurationError as error:
        remedy = "Name the model that the policy started from with reference=, or write judge=false"
        raise ConfigurationError("reference", name, error.problem, remedy) from error


class _Measurement:
    """What a measurement has, and samples of what it lacks."""

    def __init__(
        self,
        arguments: Arguments,
        model: ModelFiles,
        max_context_tokens: int,
        methods: Collection[str] | None,
        file: SampleFile,
        console: Console,
    ) -> None:
        options, played = arguments.options, arguments.played
        self._methods = methods
        self._model = model
        self._file = file
        self._console = console
        self._count = SETS * options.continuations
        self._concurrency = played.concurrency
        self._keys = plan(options.boards, options.episodes)
        further = options.episodes * options.plain if arguments.judges else 0
        every = plan(options.boards, options.episodes + further)
        self._plain = [key for key in every if key.repeat >= options.episodes]
        self._batch = options.batch
        self._temperature = float(played.temperature)
        self._continuations = Continuations(played.episode_settings(max_context_tokens), model.codec, self._count)
        self._continuations.require_reseed()
        self._options = options
        self._token_file = TokenFile(played.out, file.settings) if options.tokens else None
        self._episodes = {key: self._continuations.replay(key, file.episodes[key]) for key in file.episodes}
        self._played = played
        self._sampling: Json = {
            "max_context_tokens": max_context_tokens,
            "temperature": float(played.temperature),
        }

    def complete(self) -> None:
        """Sample what is missing; without a policy where nothing is."""
        played = all(key in self._episodes for key in (*self._keys, *self._plain))
        if played and not self._missing(self._places()) and not self._lacks_tokens():
            return
        if self._played.server is not None:
            run_interruptible(self._sample_on_server(self._played.server))
            return
        context = self._sampling["max_context_tokens"]
        with local_sampler(self._model, self._played, max_context_tokens=context, console=self._console) as sampler:
            run_interruptible(self._sample(sampler))

    @cached_property
    def measured(self) -> list[MeasuredEpisode]:
        """All episodes with their continuations, once these are complete.

        Raises CommandFailed where the returns do not vary.
        """
        self._require_spread()
        return [self._measured(episode) for episode in self.replayed()]

    def replayed(self) -> list[Replayed]:
        """The episodes in the order of `measured`."""
        return [self._episodes[key] for key in self._keys]

    def judge(self, measured: Sequence[MeasuredEpisode], weights: str, reference: str | None) -> Json:
        """The figures of every method, by what `measured` gives.

        weights, reference: folders or ids; reference None: the policy is the frozen reference.
        """
        device = DEVICES[self._played.platform]
        if device != "cpu":
            torch.set_float32_matmul_precision("high")  # TF32: gradients are compared, their last digits are noise
        policy = load_policy(weights, device)
        frozen = policy if reference is None else load_policy(reference, device)
        with StageProgress("truth", self._console) as progress:
            return judge(
                policy,
                frozen,
                self._as_step(self._keys, episode_changes(measured)),
                self._as_step(self._plain, []),
                temperature=self._temperature,
                batch=self._batch,
                names=self._methods,
                coordinates=self._options.coordinates,
                dtype=self._options.dtype,
                progress=progress,
            )

    def _as_step(self, keys: Sequence[EpisodeKey], changes: Sequence[Changes]) -> JudgedEpisodes:
        episodes = [self._episodes[key] for key in keys]
        return JudgedEpisodes(
            trajectories=[episode.played.trajectory for episode in episodes],
            boards=[key.board for key in keys],
            segments=[episode.segments for episode in episodes],
            changes=changes,
            max_context_tokens=self._sampling["max_context_tokens"],
        )

    def _measured(self, episode: Replayed) -> MeasuredEpisode:
        returns = [self._file.returns[episode.key, boundary] for boundary in range(len(episode.segments))]
        return MeasuredEpisode(
            board=episode.key.board,
            episode_return=episode.played.trajectory.episode_return,
            kinds=[segment.kind for segment in episode.segments],
            turns=[segment.start.turn for segment in episode.segments],
            continuations=np.array(returns).reshape(len(returns), SETS, -1),
            stratum=episode.stratum,
        )

    async def _sample_on_server(self, address: str) -> None:
        from actfocus_verl.evaluation.server import CompletionServer

        played = self._played
        own: Json = {"model": played.server_model, "timeout": played.timeout, "fields": dict(played.request)}
        async with CompletionServer(address, self._model.codec, **own, **self._sampling) as server:
            await self._sample(server)

    async def _sample(self, sampler: Sampler) -> None:
        with StageProgress("truth", self._console) as progress:
            await self._play("episodes", self._keys, sampler, progress)
            starts = [(self._episodes[key], 0) for key in self._keys]
            await self._continue("board starts", starts, sampler, progress)
            self._require_spread()  # before most of the work
            await self._continue("continuations", self._places(), sampler, progress)
            if self._token_file is not None:
                await self._tokens.sample(sampler, progress, **self._boundary_limits)
            await self._play("plain episodes", self._plain, sampler, progress)

    async def _play(self, stage: str, keys: Sequence[EpisodeKey], sampler: Sampler, progress: StageProgress) -> None:
        async def play(key: EpisodeKey) -> EpisodeKey:
            sampled = await self._continuations.play(key, sampler)
            self._episodes[key] = self._continuations.replay(key, sampled)
            self._file.add_episode(key, sampled)
            return key

        missing = [key for key in keys if key not in self._episodes]
        done = len(keys) - len(missing)

        def count(_: EpisodeKey) -> None:
            nonlocal done
            done += 1
            progress(stage, done, len(keys))

        await play_episodes(
            missing, play, concurrency=self._concurrency, record=count, tool_timeout=self._played.tool_timeout
        )

    async def _continue(self, stage: str, places: Sequence[Place], sampler: Sampler, progress: StageProgress) -> None:
        async def play(place: Place) -> Place:
            episode, boundary = place
            returns = await self._continuations.returns(episode, boundary, sampler)
            self._file.add_returns(episode.key, boundary, returns)
            return place

        missing = self._missing(places)
        done = len(places) - len(missing)

        def count(_: Place) -> None:
            nonlocal done
            done += 1
            progress(stage, done * self._count, len(places) * self._count)

        await play_episodes(
            missing, play, record=count, name=lambda place: f"continuations of {place[0].key}", **self._boundary_limits
        )

    @property
    def _boundary_limits(self) -> Json:
        """A worker plays all continuations of a boundary at once."""
        return {"concurrency": -(-self._concurrency // self._count), "tool_timeout": self._played.tool_timeout}

    def _places(self) -> list[Place]:
        return [(episode, boundary) for episode in self.replayed() for boundary in range(len(episode.segments))]

    def _missing(self, places: Sequence[Place]) -> list[Place]:
        return [place for place in places if (place[0].key, place[1]) not in self._file.returns]

    def token_figures(self) -> Json:
        """`tokens`: the figures of single tokens, where they were asked for."""
        return {} if self._token_file is None else {"tokens": self._tokens.figures(self._model.codec)}

    def _lacks_tokens(self) -> bool:
        return self._token_file is not None and bool(self._tokens.missing)

    @cached_property
    def _tokens(self) -> TokenStage:
        """The measurement of single tokens, after that of all boundaries."""
        assert self._token_file is not None
        count, seed = self._options.token_segments, self._options.seed
        stage = self._token_file, self._continuations, self.measured, self.replayed()
        return TokenStage(*stage, count=count, seed=seed)

    def _require_spread(self) -> None:
        for _, keys in groupby(self._keys, key=lambda key: key.board):
            if len({value for key in keys for value in self._file.returns[key, 0]}) > 1:
                return
        text = "on every board all continuations from its start have the same return, so there is no variance to share"
        raise CommandFailed(f"{text}. Choose boards that the policy neither always nor never solves")


def _measure_and_show(words: Sequence[str], console: Console) -> None:
    show(measure(words, console))


def main(words: Sequence[str], text: str = "") -> int:
    """Measure, show the tables on stdout and the rest on stderr; returns the exit status. text: of `--help`."""
    goes_on = "interrupted; run the same command again to resume"
    return run_command(words, _measure_and_show, lambda: help_text(text, Options), interrupted=goes_on)
