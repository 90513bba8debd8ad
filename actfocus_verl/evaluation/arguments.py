"""The command line: `key=value` arguments, and what a run folder fills in for the keys that were not given."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from actfocus_verl.arguments import build_arguments, option, read_options
from actfocus_verl.config import template_options, world_overrides
from actfocus_verl.environments import known_presets, make_world, world_limits
from actfocus_verl.errors import ConfigurationError

PLATFORMS = ("cpu", "gpu")
SERVER_APIS = ("completions", "chat")
PAPER_CONTEXT = 3600
"""Tokens of prompt and response together where neither the command line nor a run says otherwise (paper, App. C.2)."""

_TAKEN = ("name", "index", "episode_seed")
"""Arguments of `make_world` that are nobody's to choose here."""


@dataclass(frozen=True)
class Options:
    """The keys of the command line; any other key is the world's own."""

    model: str = option("model's folder, Hugging Face id, or a run's folder: its latest checkpoint")
    out: Path = option(
        "new folder for episodes.jsonl and evaluation.json; the same command again goes on where it ended"
    )
    step: int | None = option("of a run, the checkpoint of this step", None, low=1)
    env: str = option("world; default: the run's", "")
    preset: str = option("preset of the world; without it the run's in its own world, else the world's first", "")
    split: str = option("split whose first boards are played", "evaluation")
    episodes: int = option("episodes in all: the first episodes/repeats boards of the split", 512, low=1)
    repeats: int = option("times each board is played", 1, low=1)
    temperature: float = option("sampling temperature; 0 takes the likeliest token", 0.5, low=0.0, high=100.0)
    seed: int = option("seed of the worlds' randomness and of the sampling", 0, low=0)
    template: dict[str, Any] = option("variable of the chat template, like template.enable_thinking=false", {})
    platform: str = option("how vLLM is set up here: cpu or gpu", "cpu", choices=PLATFORMS)
    engine: dict[str, Any] = option("argument of vLLM's engine, like engine.tensor_parallel_size=4", {})
    server: str | None = option(
        "OpenAI-compatible server to use instead, http://host:port/v1; model is then the one whose tokenizer it has",
        None,
    )
    server_model: str | None = option("which of the server's models; default: its only one", None)
    server_api: str = option(
        "completions: token ids in and out, which needs a vLLM server; chat: messages, which any server takes",
        "completions",
        choices=SERVER_APIS,
    )
    request: dict[str, Any] = option("field of every request to a server; null leaves a field out", {})
    timeout: float = option("seconds a server may take for a reply", 600.0, low=1.0, high=86_400.0)
    concurrency: int = option("episodes played at the same time", 128, low=1)
    max_context_tokens: int | None = option(
        f"tokens of prompt and response; default: the run's, or {PAPER_CONTEXT}, and never more than the model's",
        None,
        low=1,
    )
    max_response_tokens: int | None = option(
        "tokens after the first prompt; default: the run's, or no limit of its own", None, low=1
    )
    texts: bool = option("also write states and replies", False)

    @property
    def boards(self) -> int:
        """Boards played, each `repeats` times."""
        return self.episodes // self.repeats


@dataclass(frozen=True)
class Arguments(Options):
    """The command line, checked and complete. world: keys of the world."""

    world: Mapping[str, object] = field(default_factory=dict)


KEYS = tuple(Options.__dataclass_fields__)


@dataclass(frozen=True)
class RunDefaults:
    """What a run's `config.yaml` says of the episodes it was trained on.

    world: the keys that were set. template: the run's `data.apply_chat_template_kwargs`.
    """

    env: str
    preset: str
    world: Mapping[str, object]
    max_context_tokens: int
    max_response_tokens: int
    template: Mapping[str, object] = field(default_factory=dict)

    @classmethod
    def read(cls, run: Path) -> RunDefaults:
        """Raises ConfigurationError when the run has no readable `config.yaml`."""
        try:
            config = OmegaConf.load(run / "config.yaml")
            prompt, response = int(config.data.max_prompt_length), int(config.data.max_response_length)
            world: dict[str, Any] = OmegaConf.to_container(config.env)  # type: ignore[assignment]
            template = template_options(config.data)
            return cls(world["name"], world["preset"], world_overrides(world), prompt + response, response, template)
        except (
            OSError,
            yaml.YAMLError,
            OmegaConfBaseException,
            AttributeError,
            KeyError,
            TypeError,
            ValueError,
        ) as error:
            problem = f"its config.yaml cannot be read ({' '.join(str(error).split())})"
            raise ConfigurationError("model", str(run), problem, "Name the merged model's folder instead") from error


def evaluation_options(words: Sequence[str]) -> dict[str, Any]:
    """The `key=value` words, those of KEYS with the types they have there. Raises ConfigurationError."""
    options = read_options(words)
    own = {key: value for key, value in options.items() if key in KEYS}
    checked = build_arguments(Options, own)
    return {key: getattr(checked, key) if own.get(key) is not None else value for key, value in options.items()}


def complete(options: Mapping[str, Any], run: RunDefaults | None) -> Arguments:
    """The arguments, where they are not given those of the run, if there is one, or else the defaults.

    A run's own world keys hold for its own world only; there, another preset's boards are played with the prompts of
    the run's. Raises ConfigurationError for invalid values.
    """
    given = {key: value for key, value in options.items() if key in KEYS and value is not None}
    world = {key: value for key, value in options.items() if key not in KEYS}
    if run is not None:
        given.setdefault("env", run.env)
        if given["env"] == run.env:
            given.setdefault("preset", run.preset)
            world = {**_habits(run, given["preset"]), **run.world, **world}
        given.setdefault("max_context_tokens", run.max_context_tokens)
        given.setdefault("max_response_tokens", run.max_response_tokens)
        given["template"] = {**run.template, **given.get("template", {})}
    if not given.get("env"):
        raise ConfigurationError("env", None, "is required without a run", "Add for example env=frozen_lake")
    given.setdefault("preset", known_presets(given["env"])[0])
    world = {key: value for key, value in world.items() if value is not None}  # null: the preset's value
    arguments = Arguments(**given, world=world)
    _check_combinations(arguments, given)
    _check_world(arguments)
    return arguments


def _habits(run: RunDefaults, preset: str) -> dict[str, str]:
    """What the run's policy is used to be told and to be read by, where another preset has it otherwise."""
    own, other = (world_limits(run.env, preset=each) for each in (run.preset, preset))
    keys = ("prompts", "reply", "prefill")
    return {key: getattr(own, key) for key in keys if getattr(own, key) != getattr(other, key)}


def _check_combinations(arguments: Arguments, given: Mapping[str, Any]) -> None:
    if arguments.episodes % arguments.repeats:
        remedy = f"Set episodes to a multiple of {arguments.repeats}: every board is played that often"
        raise ConfigurationError("episodes", arguments.episodes, "must be a multiple of repeats", remedy)
    if arguments.server is None:
        for key in ("server_model", "server_api", "request", "timeout"):
            if key in given:
                raise ConfigurationError(key, given[key], "needs a server", "Add server=http://host:port/v1")
    elif not re.match(r"https?://[^/]+", str(arguments.server)):
        raise ConfigurationError("server", arguments.server, "must be an address", "Write server=http://host:port/v1")
    elif arguments.engine:
        first = next(iter(arguments.engine))
        remedy = "Start the server with it, or leave server= out"
        raise ConfigurationError(f"engine.{first}", arguments.engine[first], "cannot be set on a server", remedy)


def _check_world(arguments: Arguments) -> None:
    """Make the first and the last board: an unknown world, key or value, or a split that is too small, shows here."""
    for key in _TAKEN:
        if key in arguments.world:
            raise ConfigurationError(key, arguments.world[key], "unknown key", f"Known: {', '.join(KEYS)}")
    for index in (0, arguments.boards - 1):
        make_world(
            arguments.env,
            preset=arguments.preset,
            split=arguments.split,
            index=index,
            episode_seed=0,
            **arguments.world,
        )
