"""`python -m actfocus_verl.environments`: manifest, overlap, play, and what they refuse."""

from __future__ import annotations

import io

import pytest

from actfocus_verl.environments import World, make_world, turn_message
from actfocus_verl.environments.__main__ import main
from actfocus_verl.environments.boards import overlap
from actfocus_verl.environments.frozen_lake import FrozenLake
from actfocus_verl.environments.frozen_lake.rules import Board
from actfocus_verl.environments.play import play


def test_a_manifest_holds_every_board_of_the_split(capsys):
    assert main(["manifest", "env=frozen_lake", "split=test", "n=7", "size=5"]) == 0
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split("\t") == ["index", "hash", "stratum", "optimal_return"]
    for index, line in enumerate(lines):
        world = make_world("frozen_lake", split="test", index=index, size=5)
        assert line.split("\t")[:3] == [str(index), world.board_hash(), str(world.stratum())]
        assert float(line.split("\t")[3]) == pytest.approx(world.optimal_return(), abs=1e-6)
    assert len(lines) == 7


BOARDS = {
    # The mirror image of a training board counts as that board; the third evaluation board repeats the first.
    "train": [Board(4, 0, 5, 0), Board(4, 0, 1, 1 << 15)],
    "evaluation": [Board(4, 3, 6, 0), Board(4, 0, 2, 0), Board(4, 3, 6, 0)],
}


def test_overlap_by_hand(monkeypatch):
    def fixed(env: str, *, preset: str, split: str, index: int) -> World:
        world = make_world(env)
        assert isinstance(world, FrozenLake)
        world.board = BOARDS[split][index]
        return world

    monkeypatch.setattr("actfocus_verl.environments.boards.make_world", fixed)
    found = overlap("frozen_lake", preset="clean", train=2, evaluation=3, overrides={})
    assert (found.shared, found.repeated) == (2, 1)
    assert str(found).startswith("2 of 3 evaluation boards (66.7%)")


def test_overlap_is_said_of_every_preset(capsys):
    assert main(["overlap", "env=frozen_lake", "train=600", "evaluation=200"]) == 0
    clean, ragen = capsys.readouterr().out.splitlines()
    assert clean.startswith("frozen_lake/clean: 0 of 200 evaluation boards (0.0%)")
    assert ragen.startswith("frozen_lake/ragen: ")
    assert not ragen.startswith("frozen_lake/ragen: 0 ")


def test_a_person_sees_what_a_model_sees_and_pays_for_mistakes():
    answers, shown = iter(["Sideways", "Right || Down || Left", None]), []
    world = make_world("frozen_lake", index=3, success_rate=1.0)
    first = turn_message(world, turn=1, actions_left=10).text
    assert play(world, read=lambda: next(answers), write=shown.append) == pytest.approx(-0.1)
    text = "".join(shown)
    assert text.startswith(f"{world.system_prompt()}\n\n{first}\n")
    assert "Not valid: the turn costs -0.1." in text
    assert "Reward: -0.1\nTurn 2\n" in text
    assert "Actions left: 8." in text  # the third action of a turn is ignored
    assert text.endswith(f"not solved; return -0.1, best possible on average {world.optimal_return():.3g}\n")


def test_the_worlds_are_listed_with_their_presets(capsys):
    assert main(["list"]) == 0
    assert "sokoban: clean, ragen" in capsys.readouterr().out.splitlines()


def test_playing_in_the_terminal(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO("Up\n"))
    assert main(["play", "env=frozen_lake", "preset=ragen", "index=5"]) == 0
    assert "not solved" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["manifests", "env=frozen_lake"],
            "command='manifests': unknown command. Use one of: list, manifest, overlap, play",
        ),
        (["manifest"], "env=None: is required. Add env=<text>"),
        (["manifest", "frozen_lake"], "argument='frozen_lake': must be key=value."),
        (["manifest", "env=chess"], "env.name='chess': unknown world."),
        (["manifest", "env=frozen_lake", "n=0"], "n=0: must be an integer >= 1."),
        (["manifest", "env=frozen_lake", "n=1025"], "env.index=1024: board index out of range"),
        (["overlap", "env=frozen_lake", "colour=red"], "env.colour='red': unknown key of frozen_lake."),
        (["play", "env=frozen_lake", "n=3"], "env.n=3: unknown key of frozen_lake."),
        (["list", "all"], "argument='all': list takes none."),
    ],
)
def test_mistakes_are_one_line_on_stderr(arguments, message, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}")
    assert error.count("\n") == 1
