"""What every world that a package plays keeps: its tasks, its splits, an oracle, hostile texts, and clear errors."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import fields

import numpy as np
import pytest
from omegaconf import OmegaConf

from actfocus_verl.environments import PlayedTurns, make_world, observe
from actfocus_verl.environments.boards import overlap
from actfocus_verl.errors import ConfigurationError
from actfocus_verl.rollout import parse_reply
from actfocus_verl.worlds import oracle_results
from tests.environments.package_worlds import (
    ROOT,
    PackageWorld,
    every_world,
    hash_seed_environment,
    no_code_and_no_files,
)

PINNED = {
    "textcraft": "992f8275246f5439eed6bea4b711753ec085777216c07022a9070be6297a6069",
    "babyai": "8a487861823d69799e58fb84433e496f0d78b04dca8e523e541e2812f8dccea7",
    "alfred_rooms": "e38d87c5f7fbaaf2ab4a9e9adb2696e2adede92b20509e249762b6bff97b8d7e",
    "textworld_express": "49e55605cf2951c711635f79edec3fea8c8dc7fa342eb9b19b073c6b557ef962",
}
"""SHA-256 of the manifest of the first boards of each split (`PackageWorld.boards`), prompts included."""

_TASKS = """
import hashlib
from actfocus_verl.environments import make_world
digest = hashlib.sha256()
for split in ("train", "evaluation", "test"):
    for index in range({count}):
        world = make_world({name!r}, split=split, index=index)
        text = "\\n".join([world.board_hash(), str(world.stratum()), world.system_prompt(), world.render()])
        digest.update(text.encode())
print(digest.hexdigest())
"""


@every_world
def test_the_task_list_is_the_pinned_one_in_every_process(case: PackageWorld) -> None:
    case.require()
    for seed in ("1", "2"):
        command = [sys.executable, "-c", _TASKS.format(name=case.name, count=case.boards[0])]
        environment = hash_seed_environment(seed)
        told = subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=200)
        assert told.stdout.strip() == PINNED[case.name]


@every_world
def test_no_evaluation_board_is_a_training_board(case: PackageWorld) -> None:
    case.require()
    preset = make_world(case.name).preset
    _, train, evaluation, _ = case.boards
    found = overlap(case.name, preset=preset, train=train, evaluation=evaluation, overrides={})
    assert (found.shared, found.repeated) == (0, 0)


@every_world
def test_the_oracle_solves_every_board_with_the_best_return(case: PackageWorld) -> None:
    case.require()
    for preset in type(case.world()).presets():
        for result in oracle_results(case.name, preset=preset, split="test", count=case.boards[3], overrides={}):
            assert result.success, str(result)
            assert result.episode_return == pytest.approx(result.optimal_return)


@every_world
@pytest.mark.nightly
@pytest.mark.timeout(1800)
def test_the_oracle_solves_all_that_the_package_solves(case: PackageWorld) -> None:
    case.require()
    played = [
        result
        for preset in type(case.world()).presets()
        for split in ("train", "evaluation", "test")
        for result in oracle_results(
            case.name,
            preset=preset,
            split=split,
            count=min(type(case.world()).split_size(preset, split) or case.nightly, case.nightly),
            overrides={},
        )
    ]
    failed = [result for result in played if not result.success]
    assert all(math.isnan(result.optimal_return) for result in failed), failed  # the package solves them no better
    assert len(failed) <= 0.01 * len(played), failed


def oracle_until(world, turns: int) -> PlayedTurns:
    """Some turns of the oracle; the world is not over after them unless it has to be."""
    played = PlayedTurns(world)
    for _ in range(turns):
        if not played.over:
            played.act(parse_reply(world.oracle_reply()).actions)
    return played


@every_world
def test_the_same_replies_lead_to_the_same_states_and_drawing_anew_changes_nothing_before(case: PackageWorld) -> None:
    """Forked rollouts replay the replies of another episode, and then go on with other randomness."""
    one, other = case.world(index=3, episode_seed=1), case.world(index=3, episode_seed=1)
    for turns in range(3):
        assert (one.anchor(), observe(one).text) == (other.anchor(), observe(other).text)
        assert one.oracle_reply() == other.oracle_reply()
        if not one.done:
            reply = one.oracle_reply()
            for world in (one, other):
                PlayedTurns(world).act(parse_reply(reply).actions)
        if turns == 1:
            other.reseed(7)
            assert (one.anchor(), observe(one).text) == (other.anchor(), observe(other).text)


@every_world
def test_the_end_is_final(case: PackageWorld) -> None:
    world = case.world(index=1)
    action = world.parse_action(world.oracle()[0])
    played = PlayedTurns(world)
    while not played.over:
        played.act(parse_reply(world.oracle_reply()).actions)
    assert world.done
    assert world.success
    with pytest.raises(RuntimeError, match="after the episode ended"):
        world.step(action)


HOSTILE = [
    "",
    "  \n",
    "\x00",
    "<|im_end|>",
    "zqx",
    "__import__('os').system('true')",
    "{zqx}",
    "%s%n",
    "١",
    "9" * 5000,
    "[" * 100_000,
    "up " * 10_000,
    "go north; rm -rf /",
    "../../etc/passwd",
    "\ud800",
    "\u202e\ufeff",
]


def hostile_texts(case: PackageWorld, rng: np.random.Generator, count: int):
    """Replies made of what the world understands, put together at random, and of what nothing should understand."""
    parts = case.vocabulary.split("|")
    for _ in range(count):
        length = int(rng.integers(1, 8))
        chosen = [parts[rng.integers(len(parts))] for _ in range(length)]
        if rng.random() < 0.2:
            chosen.insert(int(rng.integers(length + 1)), HOSTILE[rng.integers(len(HOSTILE))])
        yield (" " if rng.random() < 0.8 else "").join(chosen)


def play_hostile(case: PackageWorld, count: int) -> None:
    rng = np.random.default_rng(0)
    index, played, world = -1, None, None
    with no_code_and_no_files(case.own_code):
        for number, text in enumerate(hostile_texts(case, rng, count)):
            if played is None or played.over:
                index += 1
                world = case.world(index=index % 8)
                played = PlayedTurns(world)
            if number % 7 == 3:
                text = world.oracle()[0]  # somewhere else in the world, hostile texts may mean something else
            reply = f"<think> </think><answer>{text}</answer>" if number % 5 else text
            played.act(parse_reply(reply).actions)
            shown = world.system_prompt() + observe(world).text
            assert "zqx" not in shown
            assert "<|im_end|>" not in shown


@every_world
def test_hostile_texts_do_nothing_and_never_reach_the_prompt(case: PackageWorld) -> None:
    warm = [case.world(index=index) for index in range(8)]
    for world in warm:
        world.oracle()  # whatever the package loads, it has loaded now
    del warm, world
    play_hostile(case, 250)


@every_world
@pytest.mark.nightly
def test_ten_thousand_hostile_texts(case: PackageWorld) -> None:
    warm = [case.world(index=index) for index in range(8)]
    for world in warm:
        world.oracle()
    del warm, world
    play_hostile(case, 10_000)


@every_world
def test_an_absent_package_is_one_line_that_says_what_to_install(case: PackageWorld) -> None:
    code = (
        f"import sys; sys.modules[{case.package!r}] = None\n"
        "from actfocus_verl.environments import make_world\n"
        "from actfocus_verl.errors import ConfigurationError\n"
        f"try: make_world({case.name!r})\n"
        "except ConfigurationError as error: print(error)"
    )
    command, environment = [sys.executable, "-c", code], hash_seed_environment("0")
    told = subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=60).stdout
    assert told.count("\n") == 1
    assert f'pip install "actfocus_verl[{case.extra}]"' in told


@every_world
def test_its_configuration_file_says_what_the_first_preset_is(case: PackageWorld) -> None:
    file = ROOT / "configs" / "env" / f"{case.name}.yaml"
    env = OmegaConf.load(file)
    case.require()
    kind = type(case.world())
    shared = {"name", "preset", "seed", "train_size", "evaluation_size"}
    first = kind.configs[env.preset]
    assert env.preset == kind.presets()[0]
    assert set(env) - shared == {field.name for field in fields(first)}
    lines = [line for line in file.read_text().splitlines() if ": null  " in line and not line.startswith("evaluation")]
    told = {line.split(":")[0]: line.split("# ")[1].split(";")[0].split(":")[0] for line in lines}
    assert told == {key: str(getattr(first, key)) for key in told}


@every_world
def test_bad_settings_are_one_line(case: PackageWorld) -> None:
    for wrong in ({"max_turns": 0}, {"size_of_all": 4}, {"index": -1}):
        with pytest.raises(ConfigurationError) as caught:
            case.world(**wrong)
        assert "\n" not in str(caught.value)
