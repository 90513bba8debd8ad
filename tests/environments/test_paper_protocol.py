"""The paper's protocol, `ragen`'s in every world that has it: what is told, and what is read as an action."""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import Any

import numpy as np
import pytest

from actfocus_verl.environments import PlayedTurns, known_presets, make_world, scripted_player, world_config
from actfocus_verl.environments.sudoku.paper import Nonsense, parse_move
from actfocus_verl.environments.sudoku.rules import Placement
from actfocus_verl.environments.webshop.actions import NOTHING, parse_original
from actfocus_verl.errors import ConfigurationError
from tests.helpers.paper_worlds import paper_world

WORLDS = ("frozen_lake", "sokoban", "sudoku", "webshop")


class TestWhatIsTold:
    @pytest.mark.parametrize("name", WORLDS)
    def test_ragen_has_the_papers_protocol_and_clean_its_own(self, name: str) -> None:
        told = {preset: world_config(name, preset=preset) for preset in known_presets(name)}
        assert (told["ragen"].prompts, told["ragen"].reply, told["ragen"].prefill) == ("paper", "lenient", "think")
        assert (told["clean"].prompts, told["clean"].reply, told["clean"].prefill) == ("full", "strict", "none")
        assert (told["ragen"].limits().opening, told["clean"].limits().opening) == ("<think>", "")

    @pytest.mark.parametrize("key", ["prompts", "reply", "prefill"])
    def test_each_is_a_key_of_every_world(self, key: str) -> None:
        with pytest.raises(ConfigurationError, match=rf"env\.{key}='loud'.*Choose one of: \w+, \w+"):
            make_world("sokoban", **{key: "loud"})

    @pytest.mark.parametrize("name", WORLDS)
    def test_what_the_paper_does_not_tell_is_not_told(self, name: str) -> None:
        """No cap of a turn, no number of turns, no reward, no slip rate, no corner."""
        world = make_world(name, preset="ragen")
        text = f"{world.system_prompt()}\n{PlayedTurns(world).message().text}"
        for untold in ("a turn", "turns", "eward", "chance", "0.8", "0.1", "(5, 5)", "score", "up to 2"):
            assert untold not in text
        assert "Actions left: " in text
        assert f"at most {world.limits.max_words} words" in text
        assert ("||" in text) == (name in ("frozen_lake", "sokoban"))
        assert text.count("<answer>") > 1  # an example beside the form

    def test_first_messages_in_full(self) -> None:
        form = "Reply with <think> ... </think> <answer> ... </answer> and nothing else, in at most"
        assert PlayedTurns(paper_world("sokoban")).message().text == (
            "Turn 1\n######\n#_P__#\n#_X__#\n#__O_#\n#__#_#\n######\n" + f"Actions left: 10. {form} 100 words."
        )
        assert PlayedTurns(paper_world("frozen_lake")).message().text == (
            "Turn 1\nSize: 4 rows, 4 columns. Start: (0, 0). Goal: (2, 3). Player: (0, 0). Holes: (0, 2), (2, 0).\n"
            f"P_O_\n____\nO__G\n____\nActions left: 10. {form} 120 words."
        )
        assert PlayedTurns(paper_world("sudoku")).message().text == (
            "Turn 1\n . [2]|[3][4]\n[3][4]|[1][2]\n------+------\n .  . |[4][3]\n[4][3]| . [1]\n"
            "[4] given, 4 yours, *4* in conflict, . blank.\n"
            "What fits: (1,1) 1, (3,1) 1 2, (3,2) 1, (4,3) 2.\n"
            f"Filled: 12 of 16, 12 given and 0 yours. Steps: 0/16.\nActions left: 10. {form} 150 words."
        )

    def test_the_reward_is_shown_without_the_penalty_and_a_turn_without_a_valid_action_is_named(self) -> None:
        told = "Your last reply held no valid action, so nothing has changed. Try once more.\n"
        world = paper_world("sokoban")
        turns = PlayedTurns(world)
        turns.act(["Right", "fly"])  # one of two is valid
        assert turns.rewards == [-0.2]
        assert turns.message().text.startswith("Reward: -0.1\nTurn 2\n")
        assert told not in turns.message().text
        for faulty in ([], ["fly", "swim"]):
            turns.act(faulty)
            assert turns.rewards[-1] == -0.1
            assert turns.message().text.startswith("Reward: 0\n")
            assert f"{world.render()}\n{told}Actions left: 9." in turns.message().text
        clean = PlayedTurns(make_world("sokoban"))
        clean.act([])
        assert clean.message().text.startswith("Reward: -0.1\nTurn 2\n")
        assert told not in clean.message().text

    @pytest.mark.parametrize(
        ("moves", "told"),
        [
            (["3,1,2"], "2 at (3,1) is right"),
            (["3,1,1"], "1 at (3,1) is allowed, but not the best choice"),
            (["1,2,1"], "(1,2) is given and stays"),
            (["1,1,3"], "3 at (1,1) is refused, it is already in row 1 and column 1 and box (1, 1), (1,1) may be 1"),
            (["3,1,1", "3,2,1"], "1 at (3,2) is refused, it is already in row 3 and box (2, 1)"),
            (["3,1,1", "3,1,1"], "1 at (3,1) is refused, it is already in row 3 and column 1 and box (2, 1)"),
            (["5,1,1"], "there is no such row, rows go from 1 to 4"),
            (["1,0,1"], "there is no such column, columns go from 1 to 4"),
            (["1,1,9"], "there is no such digit, digits go from 1 to 4"),
            (["hello"], "not understood. Write for example `place 4 at row 2 col 1` or `2,1,4`"),
        ],
    )
    def test_sudoku_says_what_the_last_move_did(self, moves: list[str], told: str) -> None:
        world = paper_world("sudoku")
        assert "Last move" not in world.render()
        for move in moves:
            world.step(world.parse_action(move))
        assert f"\nLast move: {told}.\n" in world.render()

    def test_nothing_a_model_wrote_comes_back(self) -> None:
        world = paper_world("sudoku")
        world.step(world.parse_action("zqx 77,88,99"))
        assert not re.search("zqx|77|88|99", world.render())

    def test_webshop_lists_what_can_be_done_and_advises_every_turn(self) -> None:
        world = make_world("webshop", preset="ragen")
        assert world.render().endswith("Choose one of: search[words].")
        world.step(world.parse_action(f"search[{world.goal.query}]"))
        lines = world.render().splitlines()
        offered = re.fullmatch(r"Choose one of: (.*)\.", lines[-1])
        assert offered is not None
        for action in offered[1].split(", "):
            assert world.parse_action(action) != NOTHING
        assert len(offered[1].split(", ")) == len(world._links)
        assert lines[-9].startswith("Buy something within 10 actions")
        assert "Buttons" not in world.render()


@pytest.mark.parametrize(
    ("text", "move"),
    [
        ("place 3 at row 1 col 2", Placement(1, 3)),
        ("Place 3 at (1,2)", Placement(1, 3)),
        ("place 3 at 1, 2", Placement(1, 3)),
        ("3 at 1,2", Placement(1, 3)),
        ("(1,2,3)", Placement(1, 3)),
        ("1,2, 3", Placement(1, 3)),
        ("[1,2,3]", Placement(1, 3)),
        ("I place 3 at row 1 col 2.", Placement(1, 3)),
        ("01,02,03", Placement(1, 3)),
        ("1,2,3,4", Placement(1, 3)),
        ("१,२,३", Placement(1, 3)),
        ("1,2,3 at last", Placement(4 + 2, 1)),  # `at`: digit, row, column
        ("place 12,2,3", Nonsense.DIGIT),
        ("1 ,2,3", Nonsense.FORM),
        ("1 2 3", Nonsense.FORM),
        ("", Nonsense.FORM),
        ("7,7,7", Nonsense.ROW),
        ("0,1,2", Nonsense.ROW),
        ("1,5,2", Nonsense.COLUMN),
        ("1,1," + "9" * 5000, Nonsense.DIGIT),
        ("1" * 200_000, Nonsense.FORM),
        ("place " * 40_000, Nonsense.FORM),
        ("1, " * 80_000, Placement(0, 1)),
    ],
)
def test_the_six_forms_of_a_move(text: str, move: object) -> None:
    assert parse_move(4, text) == move


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("search[green tea] now", ("search", "green tea")),
        ("click[Buy Now]", ("click", "buy now")),
        ("Search[tea]", NOTHING),
        ("CLICK[buy now]", NOTHING),
        ("search[tea] click[b0001]", NOTHING),
        ("buy now", NOTHING),
        ("[tea]", NOTHING),
        ("search[", NOTHING),
        ("search[" * 30_000, NOTHING),
    ],
)
def test_the_original_shops_grammar(text: str, command: Any) -> None:
    assert tuple(parse_original(text)) == tuple(command)


def test_in_the_shop_everything_is_an_action_and_searching_is_possible_everywhere() -> None:
    world = make_world("webshop", preset="ragen")
    turns = PlayedTurns(world)
    before = world.render()
    assert turns.act(["fly"]).reward == turns.act(["click[buy now]"]).reward == 0.0
    assert world.render() == before
    turns.act(["search[tea]"])
    turns.act(["search[shoe] please"])
    assert "Results, page 1" in world.render()
    assert (turns.actions, turns.act([]).reward) == (4, -0.1)


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("frozen_lake", "04d1a7c8baa561ec"),
        ("sokoban", "8c4b1cbd8e98b281"),
        ("sudoku", "decd5f9182f3fe7d"),
        ("webshop", "6c62ad9dfb774784"),
    ],
)
def test_clean_is_what_it_was_to_the_byte(name: str, digest: str) -> None:
    """Every text and reward of 30 scripted episodes, a fifth of the turns faulty; computed before `ragen` differed."""
    seen = blake2b(digest_size=8)
    for index in range(30):
        world, rng = make_world(name, index=index, episode_seed=index), np.random.default_rng(index)
        turns = PlayedTurns(world)
        seen.update(world.system_prompt().encode())
        while not turns.over:
            seen.update(turns.message().text.encode())
            reply = scripted_player(name).reply(world, rng)
            answer = "x || y" if rng.random() < 0.2 else reply.split("<answer>")[1].split("</answer>")[0]
            turns.act([action.strip() for action in answer.split("||")])
        seen.update(repr((turns.rewards, turns.actions, world.anchor(), world.board_hash())).encode())
    assert seen.hexdigest() == digest
