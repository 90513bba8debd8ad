"""`World`: its docstring's example is a whole world, and what it does not write has a default."""

from __future__ import annotations

import inspect
import math
import textwrap
from typing import Any

import numpy as np
import pytest

from actfocus_verl.environments import (
    COUPLINGS,
    Observation,
    StepResult,
    World,
    action_rules,
    execute_turn,
    make_world,
    observe,
    register_world,
    registry,
    scripted_player,
    split_size,
    turn_message,
)
from actfocus_verl.environments.play import play
from actfocus_verl.errors import ConfigurationError
from actfocus_verl.rollout import parse_reply

OWN = {"create", "system_prompt", "render", "parse_action", "step", "done", "success"}


@pytest.fixture
def countdown(monkeypatch: pytest.MonkeyPatch) -> type[World]:
    """The class that World's docstring shows, as it stands there."""
    lines = inspect.cleandoc(World.__doc__ or "").splitlines()
    code = textwrap.dedent("\n".join(line for line in lines[1:] if line.startswith("    ") or not line))
    found: dict[str, Any] = {"World": World, "StepResult": StepResult, "action_rules": action_rules}
    exec(code, found)
    monkeypatch.setattr(registry, "_REGISTERED", {})
    return register_world(found["Countdown"])


class Pictured(World):
    """A light to be switched on, shown as a picture."""

    action_names = ("On",)
    lit = False

    @classmethod
    def create(cls, config: Any, *, preset: str, split: str, index: int, episode_seed: int) -> Pictured:
        return cls(preset=preset, split=split, index=index, limits=config.limits())

    def system_prompt(self) -> str:
        return f"Switch the light on. {action_rules(self.limits)}"

    def render(self) -> Observation:
        return Observation(f"Light: {'on' if self.lit else 'off'}.", ("picture",))

    def parse_action(self, text: str) -> str | None:
        return text.strip() if text.strip() in self.action_names else None

    def step(self, action: str) -> StepResult:
        self.lit = True
        return StepResult(1.0, done=True, success=True)

    @property
    def done(self) -> bool:
        return self.lit

    success = done


def test_seven_members_are_a_worlds_own(countdown: type[World]) -> None:
    assert World.__abstractmethods__ == OWN
    assert {name for name in vars(countdown) if not name.startswith("_")} - {"name"} == OWN


def test_the_example_is_played(countdown: type[World]) -> None:
    world = make_world("Countdown", index=1)  # at 3
    assert observe(world) == Observation("Number: 3.")
    assert execute_turn(world, ["Two", "three"], actions_left=10).valid is False
    assert (world.done, world.success) == (False, False)
    assert execute_turn(world, [" one"], actions_left=10).reward == 1.0
    assert (world.done, world.success) == (True, True)


def test_defaults(countdown: type[World]) -> None:
    world = make_world("Countdown")
    assert (countdown.name, countdown.presets(), world.preset) == ("Countdown", ("default",), "default")
    assert (world.limits.max_turns, make_world("Countdown", max_turns=3).limits.max_turns) == (5, 3)
    assert split_size("Countdown") is None
    assert (world.stratum(), dict(world.outcome()), world.known_answer()) == (0, {}, None)
    assert math.isnan(world.optimal_return())
    with pytest.raises(ConfigurationError, match=r"world Countdown does not say .*reseed\(episode_seed\)"):
        world.reseed(0)


def test_a_name_is_that_of_the_class_unless_it_is_set(countdown: type[World]) -> None:
    class Further(countdown):  # type: ignore[misc, valid-type]
        pass

    class Named(countdown):  # type: ignore[misc, valid-type]
        name = "mine"

    class Kept(Named):
        pass

    assert (Further.name, Named.name, Kept.name) == ("Further", "mine", "mine")


def test_boards_that_look_alike_at_the_start_are_one(countdown: type[World]) -> None:
    world, alike, other = (make_world("Countdown", index=index) for index in (0, 8, 1))
    world.step(1)  # before anybody has asked for the hash
    assert world.board_hash() == alike.board_hash() != other.board_hash()
    assert len(world.board_hash()) == 32


def test_states_that_look_alike_are_one(countdown: type[World]) -> None:
    world, again = make_world("Countdown", index=2), make_world("Countdown", index=2)
    start = world.anchor()
    assert 0 <= start < 2**63
    assert start == again.anchor()
    world.step(2)
    assert world.anchor() != start
    again.step(1)
    again.step(1)
    assert world.anchor() == again.anchor()


def test_action_names_are_played_at_random(countdown: type[World]) -> None:
    with pytest.raises(ConfigurationError, match=r"env\.name='Countdown': has neither a script nor action_names"):
        scripted_player("Countdown")
    countdown.action_names = ("One", "Two")
    player, rng, world = scripted_player("Countdown"), np.random.default_rng(0), make_world("Countdown")
    for coupling in COUPLINGS:
        replies = {player.reply(world, rng, coupling=coupling) for _ in range(20)}
        assert {tuple(parse_reply(reply).actions) for reply in replies} == {("One",), ("Two",)}
        assert all(reply.startswith("<think> Number: 2.") for reply in replies)


def test_images_reach_the_message(countdown: type[World]) -> None:
    register_world(Pictured)
    world, shown = make_world("Pictured"), list[str]()
    message = turn_message(world, turn=1, actions_left=10)
    assert message.images == ("picture",)
    assert message.text.startswith("Turn 1\nLight: off.\nActions left: 10.")
    assert play(world, read=lambda: "On", write=shown.append) == 1.0
    assert shown[1] == f"{message.text}\n[1 image]\n"
    assert shown[-1] == "\nLight: on.\n[1 image]\nsolved; return 1\n"
