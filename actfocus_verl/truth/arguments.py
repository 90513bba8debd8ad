"""The command line of a measurement."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from actfocus_verl.arguments import build_arguments, option, read_options
from actfocus_verl.environments import acts_by_tools
from actfocus_verl.errors import ConfigurationError
from actfocus_verl.evaluation import arguments as evaluation
from actfocus_verl.evaluation.models import NamedModel
from actfocus_verl.run_files import TINY_POLICY_FILE


@dataclass(frozen=True)
class Options:
    """The keys of the command line; any other key is the world's own."""

    model: str = option("model's folder, Hugging Face id, or a run's folder: its latest checkpoint")
    out: Path = option("new folder for truth.json and samples.jsonl; the same command resumes the measurement")
    step: int | None = option("training step of the run's checkpoint; default: the latest", None, low=1)
    env: str = option("world; default: that of the run or the tiny policy", "")
    preset: str = option("preset of the world; default: the run's, else the world's first", "")
    split: str = option("split whose first boards are played", "train")
    boards: int = option("boards; intervals are over these", 32, low=2)
    episodes: int = option("episodes per board", 8, low=2)
    continuations: int = option("continuations per boundary in each of its two sets", 4, low=2)
    judge: bool | None = option(
        "judge methods by the measured changes; default: true, and false for a policy on a server", None
    )
    reference: str | None = option(
        "model of the frozen reference; default: the one that the run started from, or the model itself", None
    )
    batch: int = option("boards per training step, for the gradients of methods", 8, low=1)
    coordinates: int | None = option(
        "parameters, drawn at random, whose gradients are compared; default: all, or 2^20 of a larger model",
        None,
        low=1,
    )
    dtype: str = option(
        "bfloat16: gradients under autocast, the weights staying float32", "float32", choices=("float32", "bfloat16")
    )
    methods: str | None = option(
        "methods to judge beside the base, comma-separated, as the table calls them; default: all", None
    )
    plain: int = option("plain episodes per measured one, for the reference gradient", 20, low=1)
    temperature: float = option("sampling temperature; 0 is greedy", 1.0, low=0.0, high=100.0)
    seed: int = option("random seed of worlds and sampling", 0, low=0)
    tokens: bool = option("also measure single tokens, of drawn segments of the kind with the largest share", False)
    token_segments: int = option("segments drawn for tokens=true", 16, low=1)
    template: dict[str, Any] = option("variable of the chat template, like template.enable_thinking=false", {})
    backend: str = option(
        "what samples here: vllm, or transformers where vLLM is not installed",
        evaluation.VLLM,
        choices=evaluation.BACKENDS,
    )
    platform: str = option(
        "the sampler's setup and the device of gradients: cpu or gpu", "cpu", choices=evaluation.PLATFORMS
    )
    engine: dict[str, Any] = option("argument of vLLM's engine, like engine.tensor_parallel_size=4", {})
    server: str | None = option(
        "vLLM server to use instead, http://host:port/v1; model then gives the tokenizer",
        None,
    )
    server_model: str | None = option("name of the model on the server; default: its only one", None)
    request: dict[str, Any] = option("field of every request to a server; null leaves a field out", {})
    timeout: float | None = option(
        "timeout of a reply from a server, in seconds; default: 600", None, low=1.0, high=86_400.0
    )
    tool_timeout: float = option(evaluation.TOOL_TIMEOUT_USE, 1800.0, low=1.0, high=evaluation.TOOL_TIMEOUT_LIMIT)
    concurrency: int = option("episodes and continuations played concurrently", 256, low=1)
    max_context_tokens: int | None = option(
        f"tokens of prompt and response; default: the run's, or {evaluation.PAPER_CONTEXT}, capped at the model's",
        None,
        low=1,
    )
    max_response_tokens: int | None = option(
        "tokens after the first prompt; default: the run's, else unlimited", None, low=1
    )


KEYS: Final = tuple(Options.__dataclass_fields__)
_TOKEN_IDS: Final = "completions"
"""The one way to ask a server, as `evaluate` calls it."""


@dataclass(frozen=True)
class Arguments:
    """The command line, checked and complete. played: how an evaluation would play the same episodes."""

    options: Options
    played: evaluation.Arguments

    @property
    def judges(self) -> bool:
        """Whether methods are judged, which needs the policy's weights."""
        return self.played.server is None if self.options.judge is None else self.options.judge


def read_options_and_world(words: Sequence[str]) -> tuple[Options, dict[str, Any]]:
    """The command's keys, and those of the world. Raises ConfigurationError."""
    given = read_options(words)
    options = build_arguments(Options, {key: value for key, value in given.items() if key in KEYS})
    world = {key: value for key, value in given.items() if key not in KEYS}
    if world.pop("server_api", _TOKEN_IDS) != _TOKEN_IDS:
        problem = "a continuation within a reply needs token ids, which a chat does not take"
        raise ConfigurationError("server_api", given["server_api"], problem, f"Use server_api={_TOKEN_IDS}")
    for key in world:
        if key in evaluation.KEYS:  # evaluate has it, and no world
            raise ConfigurationError(key, world[key], "is not a known key", f"Known: {', '.join(KEYS)}")
    return options, world


def complete(
    options: Options, world: Mapping[str, Any], named: NamedModel, run: evaluation.RunDefaults | None
) -> Arguments:
    """The arguments; what was not given comes from the run, if any.

    Raises ConfigurationError for an invalid value, for a world that the model was not trained in, and for one of tools.
    """
    trained = run.env if run is not None else _tiny_policy_world(named)
    if options.env and trained is not None and options.env != trained:
        problem = f"the checkpoint is of another world ({trained})"
        raise ConfigurationError("env", options.env, problem, f"Write env={trained}, or name another model")
    shared = {key: value for key, value in asdict(options).items() if key in evaluation.KEYS and value not in ("", {})}
    shared |= {"episodes": options.boards * options.episodes, "repeats": options.episodes}
    if trained is not None:
        shared["env"] = trained
    played = evaluation.complete({**shared, **world}, run)
    if acts_by_tools(played.env):
        # Without this all of a reply would count as reasoning.
        problem = "is acted in by tool calls, and replies are cut at </think> and </answer> only"
        raise ConfigurationError("env", played.env, problem, "Choose a world that takes answers")
    arguments = Arguments(options, played)
    if arguments.judges:
        _require_gradients(arguments)
    elif options.methods is not None:
        remedy = "Leave it out, or write judge=true"
        raise ConfigurationError("methods", options.methods, "judges methods, and judge=false", remedy)
    return arguments


def _require_gradients(arguments: Arguments) -> None:
    if arguments.played.server is not None:
        problem = "needs the weights, and the policy is behind a server"
        raise ConfigurationError("judge", True, problem, "Write judge=false, or leave out server=")
    if arguments.played.temperature == 0:
        problem = "a greedy policy has no gradient by which methods could be judged"
        raise ConfigurationError("temperature", 0.0, problem, "Write judge=false, or a temperature above 0")


def _tiny_policy_world(named: NamedModel) -> str | None:
    """The world of a tiny policy, which its folder says."""
    if not named.is_folder or named.checkpoint:
        return None
    try:
        return str(json.loads((Path(named.name) / TINY_POLICY_FILE).read_bytes())["config"]["env"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
