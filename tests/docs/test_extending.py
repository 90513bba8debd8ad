"""docs/extending.md does what it says: its class, its YAML and its commands are run as they stand there."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from actfocus_verl.environments import SPLITS, make_world, split_size
from actfocus_verl.environments.boards import overlap
from actfocus_verl.policies import TinyPolicyConfig
from actfocus_verl.policies.demonstrations import conversation
from actfocus_verl.preflight.derived import fill_derived
from actfocus_verl.preflight.settings import check_config
from actfocus_verl.reporting.run_folder import RunFolder
from actfocus_verl.rollout import parse_reply
from actfocus_verl.train import verl_config_folder
from tests.config.conftest import compose_config

PAGE = Path(__file__).resolve().parents[2] / "docs" / "extending.md"
FIRST, ENV = "corridor:Corridor", "measured_corridor:MeasuredCorridor"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def commands() -> list[list[str]]:
    """The page's command lines, without `python`."""
    lines = "\n".join(blocks("bash")).replace("\\\n", " ").splitlines()
    return [shlex.split(line)[1:] for line in lines if line]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder with the page's files in it, from which the world can be imported."""
    for text in [*blocks("python"), *blocks("yaml")]:
        path = tmp_path / text.removeprefix("# @package _global_\n").splitlines()[0].removeprefix("# ")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    for module in ("corridor", "measured_corridor", "lamp"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    return tmp_path


def test_the_first_world_is_short() -> None:
    code, settings = blocks("python")[0], blocks("yaml")[0]
    assert len(code.splitlines()) <= 40
    assert len(settings.splitlines()) <= 10


def test_the_first_world_is_played(project: Path) -> None:
    for index in range(20):
        world = make_world(FIRST, index=index)
        while not world.done:
            world.step(world.parse_action(" right" if world.goal > world.place else "LEFT "))
        assert world.success
    found = overlap(FIRST, preset="default", train=1, evaluation=400, overrides={})
    assert found.evaluation - found.repeated == 56  # as the page says


def test_boards_are_split_for_good_and_the_evaluation_has_enough(project: Path) -> None:
    sizes = {split: split_size(ENV, split=split) for split in SPLITS}
    assert sizes["train"] >= 64
    found = overlap(ENV, preset="default", train=sizes["train"], evaluation=sizes["evaluation"], overrides={})
    assert (found.shared, found.repeated) == (0, 0)
    names = [make_world(ENV, split=split, index=i).board_hash() for split in SPLITS for i in range(sizes[split])]
    assert len(set(names)) == len(names)


def test_the_world_of_functions_is_short_and_configures_a_run(project: Path) -> None:
    code = next(block for block in blocks("python") if block.startswith("# lamp.py"))
    assert len(code.split("class Lamp")[1].splitlines()) <= 30
    folders = f"file://{project / 'conf'},file://{verl_config_folder()}"
    config = compose_config("env=lamp", "platform=cpu", f"hydra.searchpath=[{folders}]")
    assert (config.credit.action_span, config.env.tool_format) == ("tool_call", "hermes")
    world = make_world("lamp:Lamp", index=3)
    assert [world.call("press", {"switch": switch}) for switch in (1, 3)] == ["dark", "light"]
    assert world.success


def test_every_board_is_solved_by_walking_towards_the_goal(project: Path) -> None:
    for index, length in product(range(20), (48, 60)):
        world = make_world(ENV, index=index, length=length)
        moves = world.stratum()
        for _ in range(moves):
            assert not world.done
            result = world.step(world.parse_action(" right" if world.goal > world.place else "LEFT "))
        assert (result.reward, result.done, world.success) == (1.0, True, True)
        assert world.optimal_return() == 1.0


def test_the_scripted_player_talks_as_the_page_says(project: Path) -> None:
    for coupling in ("loose", "coupled"):
        messages = conversation(TinyPolicyConfig(env=ENV, preset="default", coupling=coupling), 0)
        reasoning, answer = messages[2]["content"].split("</think>")
        assert parse_reply(messages[2]["content"]).actions
        move = answer.split()[1]
        assert (move in reasoning) == (coupling == "coupled")


@pytest.mark.parametrize(("env", "path"), [("corridor", FIRST), ("measured_corridor", ENV)])
def test_its_configuration_composes_and_passes_every_check_before_the_start(project: Path, env: str, path: str) -> None:
    (arguments,) = (line for line in commands() if "actfocus_verl.train" in line)
    overrides = [argument for argument in arguments[2:] if argument not in ("--config-dir", "conf", "env=corridor")]
    folders = f"file://{project / 'conf'},file://{verl_config_folder()}"  # what --config-dir does
    config = compose_config(*overrides, f"env={env}", f"hydra.searchpath=[{folders}]")
    fill_derived(config)
    check_config(config)
    prompts = config.trainer.total_training_steps * config.data.train_batch_size
    assert config.env.train_size == (split_size(path, split="train") or prompts)
    assert OmegaConf.select(config, "tiny_policy.env") == path


@pytest.mark.parametrize(("command", "says"), [("play", "Turn 1"), ("manifest", "stratum"), ("overlap", "0 of 64")])
def test_the_commands_that_look_at_it_work(project: Path, command: str, says: str) -> None:
    (arguments,) = (line for line in commands() if command in line)
    line = [sys.executable, *arguments]
    answer = subprocess.run(line, cwd=project, input="Left\n", capture_output=True, text=True, check=True)
    assert says in answer.stdout


@pytest.mark.e2e
@pytest.mark.nightly  # test_documentation.py types the same two commands
@pytest.mark.timeout(1800)
def test_it_trains_to_a_curve(project: Path) -> None:
    """The page's two commands, with a smaller policy and fewer steps than a reader wants to see."""
    train, report = commands()[1:3]
    smaller = [
        *("trainer.total_training_steps=2", "trainer.test_freq=1", "env.evaluation_size=16", "data.train_batch_size=4"),
        *("actor_rollout_ref.rollout.n=4", "+tiny_policy.layers=1", "+tiny_policy.evaluation_episodes=0"),
    ]
    for command in ([*train, *smaller], report):
        answer = subprocess.run([sys.executable, *command], cwd=project, capture_output=True, text=True)
        assert answer.returncode == 0, answer.stdout[-3000:] + answer.stderr[-3000:]
    folder = RunFolder.open(project / "outputs" / "corridor")
    assert [entry.step for entry in folder.evaluations] == [0, 1, 2]
    assert (project / "outputs" / "corridor" / "figures" / "success.png").stat().st_size > 0
