"""The command line: what it accepts, what a run fills in, and one line for every mistake."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from actfocus_verl.environments import known_presets
from actfocus_verl.errors import ConfigurationError
from actfocus_verl.evaluation.arguments import Arguments, RunDefaults, complete, evaluation_options

NEEDED = ("model=m", "out=o")
RUN = RunDefaults("frozen_lake", "ragen", {"max_turns": 3, "size": 5}, 1408, 1024)


def read(*words: str, run: RunDefaults | None = None) -> Arguments:
    return complete(evaluation_options([*NEEDED, *words]), run)


def test_the_defaults_of_the_command() -> None:
    arguments = read("env=frozen_lake")
    assert arguments == Arguments(model="m", out=Path("o"), env="frozen_lake", preset="clean")
    assert (arguments.preset, arguments.split, arguments.episodes, arguments.repeats) == ("clean", "evaluation", 512, 1)
    assert (arguments.temperature, arguments.seed, arguments.platform, arguments.boards) == (0.5, 0, "cpu", 512)


def test_other_keys_are_the_worlds_and_the_engines() -> None:
    arguments = read("env=frozen_lake", "max_turns=3", "episodes=32", "repeats=16", "engine.tensor_parallel_size=4")
    assert (arguments.world, arguments.engine) == ({"max_turns": 3}, {"tensor_parallel_size": 4})
    assert arguments.boards == 2


def test_a_run_fills_in_what_is_not_given() -> None:
    arguments = read(run=RUN)
    assert (arguments.env, arguments.preset, arguments.world) == ("frozen_lake", "ragen", {"max_turns": 3, "size": 5})
    assert (arguments.max_context_tokens, arguments.max_response_tokens) == (1408, 1024)
    given = read("preset=clean", "max_turns=4", "size=null", "max_context_tokens=2000", run=RUN)
    told = {"prompts": "paper", "reply": "lenient", "prefill": "think"}  # as the run's policy is used to
    assert (given.preset, given.world, given.max_context_tokens) == ("clean", {**told, "max_turns": 4}, 2000)
    own = read("preset=clean", "prompts=null", "reply=strict", "size=null", "max_turns=null", run=RUN)
    assert own.world == {"reply": "strict", "prefill": "think"}


def test_template_options_are_the_runs_unless_they_are_given() -> None:
    run = RunDefaults("frozen_lake", "clean", {}, 1408, 1024, {"enable_thinking": False, "effort": "low"})
    assert read(run=run).template == {"enable_thinking": False, "effort": "low"}
    assert read("template.effort=high", run=run).template == {"enable_thinking": False, "effort": "high"}
    assert read("env=frozen_lake", "template.effort=high").template == {"effort": "high"}


def test_a_runs_world_keys_are_not_another_worlds() -> None:
    arguments = read("env=sokoban", run=RUN)
    assert (arguments.preset, arguments.world) == ("clean", {})


def test_a_world_without_the_preset_clean_is_played_in_its_first() -> None:
    world = "actfocus_verl.environments.adapters.gymnasium_toy_text:GymnasiumToyText"
    assert "clean" not in known_presets(world)
    assert read(f"env={world}").preset == known_presets(world)[0]


def test_the_configuration_of_a_run(tmp_path: Path) -> None:
    env = {"name": "frozen_lake", "preset": "clean", "seed": 3, "train_size": 9, "evaluation_size": 64}
    env |= {"size": None, "max_turn_tokens": 96}
    data = {"max_prompt_length": 384, "max_response_length": 1024, "apply_chat_template_kwargs": {"effort": "low"}}
    OmegaConf.save(OmegaConf.create({"env": env, "data": data}), tmp_path / "config.yaml")
    read_back = RunDefaults("frozen_lake", "clean", {"max_turn_tokens": 96}, 1408, 1024, {"effort": "low"})
    assert RunDefaults.read(tmp_path) == read_back
    for damaged in ("env: [", "env: {name: frozen_lake}", "data: 3"):
        (tmp_path / "config.yaml").write_text(damaged)
        with pytest.raises(ConfigurationError, match=r"config.yaml cannot be read .* merged model's folder"):
            RunDefaults.read(tmp_path)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["frozen_lake"], "argument='frozen_lake': must be key=value. --help lists the keys"),
        (["=3"], "argument='=3': must be key=value."),
        (["episodes=${other}"], r"arguments='model=m out=o episodes=\$\{other\}': cannot be read"),
        (["max_turns=["], "cannot be read"),
        ([], "env=None: is required without a run. Add for example env=frozen_lake"),
        (["env=chess"], "env.name='chess': unknown world."),
        (["env=3"], "env.name='3': unknown world."),
        (["env=frozen_lake", "preset=hard"], "env.preset='hard': unknown preset of frozen_lake."),
        (
            ["env=frozen_lake", "split=dev"],
            "env.split='dev': is not a known value. Choose one of: train, evaluation, test",
        ),
        (["env=frozen_lake", "colour=red"], "env.colour='red': unknown key of frozen_lake."),
        (["env=frozen_lake", "max_turns=0"], "env.max_turns=0: must be an integer >= 1."),
        (["env=frozen_lake", "index=3"], "index=3: is not a known key. Known: model, out, step, env"),
        (["env=frozen_lake", "episodes=0"], "episodes=0: must be an integer >= 1. Write for example episodes=512"),
        (["env=frozen_lake", "episodes=many"], "episodes='many': must be an integer >= 1."),
        (["env=frozen_lake", "episodes=1025"], "env.index=1024: board index out of range"),
        (
            ["env=frozen_lake", "repeats=3"],
            "episodes=512: must be a multiple of repeats. Set episodes to a multiple of 3",
        ),
        (["env=frozen_lake", "temperature=-1"], "temperature=-1: must be a number between 0 and 100."),
        (["env=frozen_lake", "seed=-1"], "seed=-1: must be an integer >= 0."),
        (
            ["env=frozen_lake", "platform=tpu"],
            "platform='tpu': must be one of: cpu, gpu. Write for example platform=cpu",
        ),
        (["env=frozen_lake", "texts=some"], "texts='some': must be true or false."),
        (["env=frozen_lake", "engine=3"], "engine=3: must be a mapping. Write for example engine.<name>=<value>"),
        (["env=frozen_lake", "template=3"], "template=3: must be a mapping. Write for example template.<name>=<value>"),
        (["env=frozen_lake", "timeout=9"], "timeout=9.0: needs a server. Add server="),
        (
            ["env=frozen_lake", "server=localhost"],
            "server='localhost': must be an address. Write server=http://host:port/v1",
        ),
        (
            ["env=frozen_lake", "server=http://h/v1", "engine.dtype=half"],
            "engine.dtype='half': cannot be set on a server.",
        ),
    ],
)
def test_mistakes(words: list[str], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        read(*words)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("missing", ["model", "out"])
def test_model_and_out_are_needed(missing: str) -> None:
    options: dict[str, Any] = {"model": "m", "out": "o"}
    words = [f"{key}={value}" for key, value in options.items() if key != missing]
    with pytest.raises(ConfigurationError, match=f"{missing}=None: is required. Add {missing}=<"):
        evaluation_options(words)
