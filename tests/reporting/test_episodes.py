"""Sampled episodes for the page: aligned, whatever a run recorded, and refused where columns contradict each other."""

import pytest

from actfocus_verl.credit.tokens import TokenRole
from actfocus_verl.errors import ConfigurationError
from actfocus_verl.reporting.episodes import ROLE_NAMES, colourings, read_episodes
from actfocus_verl.reporting.run_folder import RunFolder

RECORD = {
    "step": 9,
    "group": "board",
    "session": 1,
    "return": 0.75,
    "success": True,
    "stop_reason": "success",
    "turn_rewards": [-0.25, 1.0],
    "prompt_ids": [1, 2, 3],
    "prompt_text": "go",
    "texts": [{"state": "P_G", "reply": "<a>x", "valid": False}, {"state": "_PG", "reply": "y", "valid": True}],
    "final_state": "__P",
    "responses": [7, 8, 9, 5],
    "token_texts": ["<a>", "x", "\n", "y"],
    "response_mask": [1, 1, 0, 1],
    "token_roles": [3, 1, 0, 2],
    "turn_ids": [0, 0, -1, 1],
    "token_weights": [2.9, 0.294291, 0.0, 3.5],
    "energy": [-15.134567, float("nan"), 0.0, -11.0],
    "advantages": [-2.0, -2.0, 0.0, 1.0],
}


@pytest.fixture
def read(run_path, write):
    def read(*records, limit=100):
        for file in (run_path / "rollouts").glob("*.jsonl"):
            file.unlink()
        write(run_path / "rollouts" / "9.jsonl", records)
        return read_episodes(RunFolder.open(run_path), limit)

    return read


def without(*names):
    return {name: value for name, value in RECORD.items() if name not in names}


def test_role_names_are_the_roles_by_number():
    assert [name.upper() for name in ROLE_NAMES] == [TokenRole(number).name for number in range(4)]


def test_an_episode_by_hand(read):
    (episode,), total = read(RECORD)
    assert total == 1
    assert episode.entry == {
        "step": 9,
        "row": 0,
        "group": "board",
        "session": 1,
        "return": 0.75,
        "success": True,
        "stop": "success",
        "turns": 2,
        "valid": 1,
        "tokens": 3,  # sampled ones
        "calls": None,
        "chains": None,
        "roles": [1, 1, 1, 1],
    }
    assert episode.detail == {
        "prompt": "go",
        "prompt_tokens": 3,
        "tokens": ["<a>", "x", "\n", "y"],
        "ids": [7, 8, 9, 5],
        "roles": [3, 1, 0, 2],
        "turns": [0, 0, -1, 1],
        "states": ["P_G", "_PG"],
        "replies": ["<a>x", "y"],
        "valid": [False, True],
        "rewards": [-0.25, 1.0],
        "calls": None,
        "final_state": "__P",
        "token_weights": [2.9, 0.2943, 0.0, 3.5],
        "energy": [-15.13, None, 0.0, -11.0],
        "advantages": [-2.0, -2.0, 0.0, 1.0],
    }


def test_the_rows_of_a_conversation_know_each_other(read):
    calls = {"turn_calls": [[["add", '{"a": 1}'], ["add", "{}"]], []]}
    rows = [RECORD | calls | {"output": output, "session": session} for session, output in ((0, 0), (1, 0), (1, 1))]
    entries = [episode.entry for episode in read(*rows, RECORD)[0]]
    assert [entry["chains"] for entry in entries] == [None, [1, 2], [1, 2], None]
    assert [entry["calls"] for entry in entries] == [2, 2, 2, None]
    assert read(*rows)[0][0].detail["calls"] == calls["turn_calls"]


def test_colour_scales_are_percentiles_of_the_sampled_tokens(read):
    episodes, _ = read(RECORD)
    role, weight, energy, advantage = colourings(episodes)
    assert role == {"key": "roles", "label": "role", "kind": "role"}
    # weights 0.2943, 2.9, 3.5: the 2nd percentile lies 4 % of the way from the first to the second, and so on
    assert weight["low"] == pytest.approx(0.2943 + 0.04 * (2.9 - 0.2943), rel=1e-5)
    assert weight["high"] == pytest.approx(2.9 + 0.96 * (3.5 - 2.9), rel=1e-5)
    # energies -15.13, -11: neither the NaN nor the 0 of the token between the turns
    assert (energy["low"], energy["high"]) == pytest.approx((-15.13 + 0.02 * 4.13, -11.0 - 0.02 * 4.13), rel=1e-5)
    assert (advantage["low"], advantage["high"], advantage["kind"]) == (-2.0, 2.0, "diverging")


def test_an_older_run_without_texts_or_credit(read):
    names = ("token_texts", "prompt_text", "final_state", "token_weights", "energy", "advantages")
    episodes, _ = read(without(*names))
    detail = episodes[0].detail
    assert (detail["tokens"], detail["prompt"], detail["final_state"]) == (None, None, None)
    assert (detail["ids"], detail["replies"]) == ([7, 8, 9, 5], ["<a>x", "y"])
    assert not {"token_weights", "energy", "advantages"} & set(detail)
    assert [colouring["key"] for colouring in colourings(episodes)] == ["roles"]


def test_values_are_coloured_without_roles_too(read):
    episodes, _ = read(without("token_roles"))
    assert episodes[0].entry["roles"] is None
    assert episodes[0].entry["tokens"] == 4
    assert [colouring["key"] for colouring in colourings(episodes)] == [
        "roles",
        "token_weights",
        "energy",
        "advantages",
    ]


def test_an_empty_record_is_an_episode_of_which_nothing_is_known(read):
    (episode,), _ = read({})
    assert episode.entry | {"step": None, "row": None} == dict.fromkeys(episode.entry) | {"turns": 0, "tokens": 0}
    assert episode.detail["ids"] is None


def test_the_chosen_ones_are_spread_over_the_steps(run_path, write):
    for step in (9, 10):
        write(run_path / "rollouts" / f"{step}.jsonl", [RECORD] * 10)
    episodes, total = read_episodes(RunFolder.open(run_path), 5)
    assert total == 20
    # 0, 4.75, 9.5, 14.25, 19 of the twenty, to the nearest (an even one where two are)
    assert [(e.entry["step"], e.entry["row"]) for e in episodes] == [(9, 0), (9, 5), (10, 0), (10, 4), (10, 9)]


def test_no_episodes(run_path, read):
    assert read(RECORD, limit=0) == ([], 1)
    (run_path / "rollouts" / "9.jsonl").unlink()
    assert read_episodes(RunFolder.open(run_path), 10) == ([], 0)
    assert [colouring["key"] for colouring in colourings([])] == ["roles"]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"energy": [0.0] * 3}, "episode 2: energy has 3 entries, the response has 4 tokens"),
        ({"token_texts": []}, "episode 2: token_texts has 0 entries, the response has 4 tokens"),
        ({"token_roles": [3, 1, 0, 4]}, "episode 2: token_roles has values outside 0 to 3"),
    ],
)
def test_columns_that_contradict_each_other(read, changes, problem):
    with pytest.raises(ConfigurationError, match=problem) as error:
        read(RECORD, RECORD | changes)
    assert "9.jsonl" in str(error.value)
    assert "\n" not in str(error.value)
