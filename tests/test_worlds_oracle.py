"""`actfocus worlds oracle`: the world's own best play through the episode machine, and what is said of the rest."""

from __future__ import annotations

import pytest

from actfocus_verl.environments import World
from actfocus_verl.worlds import byte_codec, main


def test_every_board_is_solved_with_the_best_return(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["oracle", "env=sokoban", "split=test", "n=4"]) == 0
    line = capsys.readouterr().out
    assert line.startswith("sokoban/clean, test: 4 of 4 solved, mean return ")
    mean, best = line.split("mean return ")[1].split(", best possible on average ")
    assert mean.strip() == best.strip()


def test_the_opening_is_the_prompts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["oracle", "env=sudoku", "preset=ragen", "n=2"]) == 0
    assert "2 of 2 solved" in capsys.readouterr().out


def test_a_board_that_is_not_solved_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["oracle", "env=webshop", "n=2", "max_turns=1"]) == 1
    shown = capsys.readouterr()
    assert shown.out.startswith("not solved: board 0 (")
    assert "max_turns after 1 turns" in shown.out
    assert "webshop/clean, evaluation: 0 of 2 solved" in shown.out
    assert shown.err == "error: the oracle left 2 of 2 boards unsolved\n"


class Riddle(World):
    """Nobody knows how to play it."""

    @classmethod
    def create(cls, config, *, preset, split, index, episode_seed):
        return cls(preset=preset, split=split, index=index, limits=config.limits())

    def system_prompt(self):
        return ""

    def render(self):
        return "?"

    def parse_action(self, text):
        return None

    def step(self, action):
        raise AssertionError

    done = success = False


def test_a_world_without_an_oracle_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["oracle", f"env={__name__}:Riddle"]) == 2
    assert capsys.readouterr().err == "error: env.name='Riddle': has no oracle. Choose a world that has one\n"


def test_other_commands_are_those_of_the_environments(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    assert "sokoban: clean, ragen" in capsys.readouterr().out.splitlines()


def test_a_token_is_a_byte() -> None:
    codec = byte_codec()
    assert len(codec.text_ids("é<think> a")) == len("é<think> a".encode())


def test_a_tool_worlds_functions_stand_once_in_the_first_message() -> None:
    schema = {"type": "function", "function": {"name": "look", "description": "", "parameters": {"type": "object"}}}
    codec = byte_codec().with_tools([schema])
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    text = codec.offsets(codec.initial_ids(messages))[0]
    assert text.count('"name": "look"') == 1
    assert text.index("look") < text.index("<|im_start|>user")
    assert "look" not in codec.offsets(codec.continuation_ids("next"))[0]
