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
from actfocus_verl.environments import known_presets, make_world, world_config
from actfocus_verl.errors import ConfigurationError, one_line
from actfocus_verl.evaluation.episodes import EpisodeSettings
from actfocus_verl.run_files import CONFIG_FILE

PLATFORMS = ("cpu", "gpu")
VLLM = "vllm"
BACKENDS = (VLLM, "transformers")
SERVER_APIS = ("completions", "chat")
PAPER_CONTEXT = 3600
"""Default tokens of prompt and response together, without a value on the command line or from a run (App. C.2)."""

TOOL_TIMEOUT_USE = "seconds that an episode may wait for its world between two replies"
TOOL_TIMEOUT_LIMIT = 1e9

_TAKEN = ("name", "index", "episode_seed")
"""Arguments of `make_world` that cannot be chosen here."""


@dataclass(frozen=True)
class Options:
    """The keys of the command line; any other key is the world's own."""

    model: str = option("model's folder, Hugging Face id, or a run's folder: its latest checkpoint")
    out: Path = option("new folder for episodes.jsonl and evaluation.json; the same command resumes the evaluation")
    step: int | None = option("training step of the run's checkpoint; default: the latest", None, low=1)
    env: str = option("world; default: the run's", "")
    preset: str = option("preset of the world; default: the run's for its own world, else the world's first", "")
    split: str = option("split whose first boards are played", "evaluation")
    episodes: int = option("total episodes, on the first episodes/repeats boards of the split", 512, low=1)
    repeats: int = option("episodes per board", 1, low=1)
    temperature: float = option("sampling temperature; 0 is greedy", 0.5, low=0.0, high=100.0)
    seed: int = option("random seed of worlds and sampling", 0, low=0)
    template: dict[str, Any] = option("variable of the chat template, like template.enable_thinking=false", {})
    backend: str = option(
        "what samples here: vllm, or transformers where vLLM is not installed", "vllm", choices=BACKENDS
    )
    platform: str = option("the sampler's setup: cpu or gpu", "cpu", choices=PLATFORMS)
    engine: dict[str, Any] = option("argument of vLLM's engine, like engine.tensor_parallel_size=4", {})
    server: str | None = option(
        "OpenAI-compatible server to use instead, http://host:port/v1; model then gives the tokenizer",
        None,
    )
    server_model: str | None = option("name of the model on the server; default: its only one", None)
    server_api: str = option(
        "completions: token ids in and out, needs a vLLM server; chat: messages, works with any server",
        "completions",
        choices=SERVER_APIS,
    )
    request: dict[str, Any] = option("field of every request to a server; null leaves a field out", {})
    timeout: float = option("timeout of a reply from a server, in seconds", 600.0, low=1.0, high=86_400.0)
    tool_timeout: float = option(TOOL_TIMEOUT_USE, 1800.0, low=1.0, high=TOOL_TIMEOUT_LIMIT)
    concurrency: int = option("episodes played concurrently", 128, low=1)
    max_context_tokens: int | None = option(
        f"tokens of prompt and response; default: the run's, or {PAPER_CONTEXT}, capped at the model's",
        None,
        low=1,
    )
    max_response_tokens: int | None = option(
        "tokens after the first prompt; default: the run's, else unlimited", None, low=1
    )
    texts: bool = option("also write states and replies", False)
    rollouts: bool = option("also write token ids and roles, for `diagnose evaluation=<out>`", False)

    @property
    def boards(self) -> int:
        """Number of boards, each played `repeats` times."""
        return self.episodes // self.repeats


@dataclass(frozen=True)
class Arguments(Options):
    """The command line, checked and complete. world: keys of the world."""

    world: Mapping[str, object] = field(default_factory=dict)

    def episode_settings(self, max_context_tokens: int) -> EpisodeSettings:
        """What its episodes share. max_context_tokens: as the model allows, see `context_tokens`."""
        return EpisodeSettings(
            env=self.env,
            preset=self.preset,
            split=self.split,
            overrides=self.world,
            seed=self.seed,
            max_context_tokens=max_context_tokens,
            max_response_tokens=self.max_response_tokens,
            texts=self.texts,
            rollouts=self.rollouts,
        )


KEYS = tuple(Options.__dataclass_fields__)


def backend_setting(arguments: Arguments) -> dict[str, str]:
    """The backend as a setting of an evaluation's folder: nothing for vLLM, as in folders of earlier versions."""
    return {} if arguments.backend == VLLM or arguments.server is not None else {"backend": arguments.backend}


@dataclass(frozen=True)
class RunDefaults:
    """Settings of a run's training episodes, from its `config.yaml`.

    world: the keys that were set. template: the run's `data.apply_chat_template_kwargs`. model: what it started from.
    """

    env: str
    preset: str
    world: Mapping[str, object]
    max_context_tokens: int
    max_response_tokens: int
    template: Mapping[str, object] = field(default_factory=dict)
    model: str = ""

    @classmethod
    def read(cls, run: Path) -> RunDefaults:
        """Raises ConfigurationError when the run has no readable `config.yaml`."""
        try:
            config = OmegaConf.load(run / CONFIG_FILE)
            prompt, response = int(config.data.max_prompt_length), int(config.data.max_response_length)
            world: dict[str, Any] = OmegaConf.to_container(config.env)  # type: ignore[assignment]
            template = template_options(config.data)
            own, tokens = world_overrides(world), prompt + response
            model = str(OmegaConf.select(config, "actor_rollout_ref.model.path") or "")
            return cls(world["name"], world["preset"], own, tokens, response, template, model)
        except (
            OSError,
            yaml.YAMLError,
            OmegaConfBaseException,
            AttributeError,
            KeyError,
            TypeError,
            ValueError,
        ) as error:
            problem = f"its {CONFIG_FILE} cannot be read ({one_line(error)})"
            raise ConfigurationError("model", str(run), problem, "Name the merged model's folder instead") from error


def evaluation_options(words: Sequence[str]) -> dict[str, Any]:
    """The `key=value` words, with the types of KEYS for those keys. Raises ConfigurationError."""
    options = read_options(words)
    own = {key: value for key, value in options.items() if key in KEYS}
    checked = build_arguments(Options, own)
    return {key: getattr(checked, key) if own.get(key) is not None else value for key, value in options.items()}


def complete(options: Mapping[str, Any], run: RunDefaults | None) -> Arguments:
    """The arguments; those not given come from the run, if any, or else from the defaults.

    A run's world keys apply to its own world only; there, another preset's boards are played with the prompts of the
    run's. Raises ConfigurationError for invalid values.
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


def context_tokens(wanted: int | None, positions: int | None) -> int:
    """Tokens of prompt and response together. Raises ConfigurationError where the model has fewer positions."""
    if wanted is None:
        return min(PAPER_CONTEXT, positions or PAPER_CONTEXT)
    if positions is not None and wanted > positions:
        problem = f"the model's context is {positions} tokens"
        raise ConfigurationError("max_context_tokens", wanted, problem, f"Set it to at most {positions}")
    return wanted


def _habits(run: RunDefaults, preset: str) -> dict[str, str]:
    """What the run's policy is used to be told and to be read by, where another preset has it otherwise."""
    own, other = (world_config(run.env, preset=each) for each in (run.preset, preset))
    keys = ("prompts", "reply", "prefill")
    return {key: getattr(own, key) for key in keys if getattr(own, key) != getattr(other, key)}


def _check_combinations(arguments: Arguments, given: Mapping[str, Any]) -> None:
    if arguments.episodes % arguments.repeats:
        remedy = f"Set episodes to a multiple of {arguments.repeats}"
        raise ConfigurationError("episodes", arguments.episodes, "must be a multiple of repeats", remedy)
    if arguments.backend != VLLM and arguments.engine:
        first = next(iter(arguments.engine))
        problem = "is an argument of vLLM's engine"
        raise ConfigurationError(
            f"engine.{first}", arguments.engine[first], problem, "Remove it, or write backend=vllm"
        )
    if arguments.server is None:
        for key in ("server_model", "server_api", "request", "timeout"):
            if key in given:
                raise ConfigurationError(key, given[key], "needs a server", "Add server=http://host:port/v1")
    elif not re.match(r"https?://[^/]+", str(arguments.server)):
        raise ConfigurationError("server", arguments.server, "must be an address", "Write server=http://host:port/v1")
    elif arguments.engine:
        first = next(iter(arguments.engine))
        remedy = "Start the server with it, or remove server="
        raise ConfigurationError(f"engine.{first}", arguments.engine[first], "cannot be set on a server", remedy)


def _check_world(arguments: Arguments) -> None:
    """Create the first and the last board, which fails for an unknown world, key or value, or too small a split."""
    for key in _TAKEN:
        if key in arguments.world:
            raise ConfigurationError(key, arguments.world[key], "is not a known key", f"Known: {', '.join(KEYS)}")
    for index in (0, arguments.boards - 1):
        make_world(
            arguments.env,
            preset=arguments.preset,
            split=arguments.split,
            index=index,
            episode_seed=0,
            **arguments.world,
        )
