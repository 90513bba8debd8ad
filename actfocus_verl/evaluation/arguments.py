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

from actfocus_verl.arguments import read_options
from actfocus_verl.config import template_options, world_overrides
from actfocus_verl.environments import make_world
from actfocus_verl.environments.base import require_integer, require_number
from actfocus_verl.errors import ConfigurationError

PLATFORMS = ("cpu", "gpu")
SERVER_APIS = ("completions", "chat")
PAPER_CONTEXT = 3600
"""Tokens of prompt and response together where neither the command line nor a run says otherwise (paper, App. C.2)."""

_INTEGERS = {"episodes": 1, "repeats": 1, "seed": 0, "concurrency": 1}
_OPTIONAL_INTEGERS = {"step": 1, "max_context_tokens": 1, "max_response_tokens": 1}
"""Keys that must be integers of at least this much."""

_TAKEN = ("name", "index", "episode_seed")
"""Arguments of `make_world` that are nobody's to choose here."""


@dataclass(frozen=True)
class Arguments:
    """The command line, checked. See `python -m actfocus_verl.evaluate --help` for the keys.

    world: keys of the world. template: names for the chat template. engine: arguments of vLLM's engine. request: fields
    of a request to a server.
    None: not given.
    """

    model: str
    out: Path
    env: str
    preset: str = "clean"
    split: str = "evaluation"
    episodes: int = 512
    repeats: int = 1
    temperature: float = 0.5
    seed: int = 0
    step: int | None = None
    platform: str = "cpu"
    server: str | None = None
    server_model: str | None = None
    server_api: str = "completions"
    timeout: float = 600.0
    concurrency: int = 128
    max_context_tokens: int | None = None
    max_response_tokens: int | None = None
    texts: bool = False
    world: Mapping[str, object] = field(default_factory=dict)
    template: Mapping[str, object] = field(default_factory=dict)
    engine: Mapping[str, object] = field(default_factory=dict)
    request: Mapping[str, object] = field(default_factory=dict)

    @property
    def boards(self) -> int:
        """Boards played, each `repeats` times."""
        return self.episodes // self.repeats


_KEYS = tuple(name for name in Arguments.__dataclass_fields__ if name != "world")


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
    """The `key=value` words; `model` and `out` are required, and texts. Raises ConfigurationError."""
    options = read_options(words)
    for key in ("model", "out"):
        if options.get(key) is None:
            raise ConfigurationError(key, None, "is not given", f"Add {key}=<folder>")
        options[key] = str(options[key])
    return options


def complete(options: Mapping[str, Any], run: RunDefaults | None) -> Arguments:
    """The arguments, where they are not given those of the run, if there is one, or else the defaults.

    A run's own world keys hold for its own world only. Raises ConfigurationError for whatever cannot be.
    """
    given = {key: value for key, value in options.items() if key in _KEYS and value is not None}
    world = {key: value for key, value in options.items() if key not in _KEYS}
    if run is not None:
        given.setdefault("env", run.env)
        if given["env"] == run.env:
            given.setdefault("preset", run.preset)
            world = {**run.world, **world}
        given.setdefault("max_context_tokens", run.max_context_tokens)
        given.setdefault("max_response_tokens", run.max_response_tokens)
        if isinstance(given.setdefault("template", {}), Mapping):
            given["template"] = {**run.template, **given["template"]}
    if "env" not in given:
        raise ConfigurationError("env", None, "no world was named", "Add for example env=frozen_lake")
    world = {key: value for key, value in world.items() if value is not None}  # null: the preset's value
    arguments = Arguments(**{**given, "out": Path(given["out"])}, world=world)
    _check_values(arguments)
    _check_combinations(arguments, given)
    _check_world(arguments)
    return arguments


def _check_values(arguments: Arguments) -> None:
    for key, low in {**_INTEGERS, **_OPTIONAL_INTEGERS}.items():
        value = getattr(arguments, key)
        if value is not None or key in _INTEGERS:
            require_integer(key, value, low=low)
    require_number("temperature", arguments.temperature, low=0.0, high=100.0)
    require_number("timeout", arguments.timeout, low=1.0, high=86_400.0)
    for key in ("env", "preset", "split", "platform"):
        if not isinstance(getattr(arguments, key), str):
            raise ConfigurationError(key, getattr(arguments, key), "is no name", "Write a name")
    if not isinstance(arguments.texts, bool):
        raise ConfigurationError("texts", arguments.texts, "is neither true nor false", "Write texts=true")
    groups = {
        "template": "name for the chat template",
        "engine": "argument of vLLM's engine",
        "request": "field of a request",
    }
    for key, meaning in groups.items():
        value = getattr(arguments, key)
        if not isinstance(value, Mapping):
            raise ConfigurationError(key, value, f"is no {meaning}", f"Write {key}.name=value")
    for key, known in {"platform": PLATFORMS, "server_api": SERVER_APIS}.items():
        value = getattr(arguments, key)
        if value not in known:
            raise ConfigurationError(key, value, "unknown", f"Use one of: {', '.join(known)}")


def _check_combinations(arguments: Arguments, given: Mapping[str, Any]) -> None:
    if arguments.episodes % arguments.repeats:
        remedy = f"Set episodes to a multiple of {arguments.repeats}: every board is played that often"
        raise ConfigurationError("episodes", arguments.episodes, "is no multiple of repeats", remedy)
    if arguments.server is None:
        for key in ("server_model", "server_api", "request", "timeout"):
            if key in given:
                raise ConfigurationError(key, given[key], "belongs to a server", "Add server=http://host:port/v1")
    elif not re.match(r"https?://[^/]+", str(arguments.server)):
        raise ConfigurationError("server", arguments.server, "is no address", "Write server=http://host:port/v1")
    elif arguments.engine:
        first = next(iter(arguments.engine))
        remedy = "Start the server with it, or leave server= out"
        raise ConfigurationError(f"engine.{first}", arguments.engine[first], "cannot be set on a server", remedy)


def _check_world(arguments: Arguments) -> None:
    """Make the first and the last board: an unknown world, key or value, or a split that is too small, shows here."""
    for key in _TAKEN:
        if key in arguments.world:
            raise ConfigurationError(key, arguments.world[key], "unknown key", f"Known: {', '.join(_KEYS)}")
    for index in (0, arguments.boards - 1):
        make_world(
            arguments.env,
            preset=arguments.preset,
            split=arguments.split,
            index=index,
            episode_seed=0,
            **arguments.world,
        )
