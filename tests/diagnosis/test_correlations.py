"""Prompt groups of several steps, and their correlation: by hand, by a loop, by scipy."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from scipy.stats import spearmanr

from actfocus_verl.diagnosis.correlations import Group, correlations, whole_groups
from actfocus_verl.diagnosis.samples import read_samples, whole_group_size
from actfocus_verl.reporting.run_folder import RunFolder
from tests.diagnosis.conftest import EPISODES, Record, records, write_rollouts

PARTS = {"all": (1, 2, 3), "reasoning": (1,), "action": (2,)}


def slow_groups(step: int) -> dict[str, tuple[float, dict[str, float]]]:
    """Spread of returns and mean energies of each group of a step, a token at a time."""
    found = {}
    for group in sorted({episode["group"] for episode in records(step)}):
        members = [episode for episode in records(step) if episode["group"] == group]
        means = {}
        for part, wanted in PARTS.items():
            energies = [
                energy
                for episode in members
                for energy, role in zip(episode["energy"], episode["token_roles"], strict=True)
                if role in wanted
            ]
            means[part] = statistics.fmean(energies)
        found[group] = round(statistics.stdev(episode["return"] for episode in members), 5), means
    return found


def test_groups_of_one_name_in_two_steps_are_two(run: Path) -> None:
    groups, cut = whole_groups(read_samples(RunFolder.open(run)), EPISODES)
    assert ([(group.step, group.name) for group in groups], cut) == (
        [(step, f"g{number}") for step in (2, 4) for number in range(4)],
        0,
    )
    for group in groups:
        spread, means = slow_groups(group.step)[group.name]
        assert group.return_std == pytest.approx(spread, abs=1e-5)
        assert group.energy == pytest.approx(means, rel=1e-6)  # float32


def test_groups_kept_in_part_are_left_out(run: Path) -> None:
    write_rollouts(run, 2, records(2)[:-1])
    groups, cut = whole_groups(read_samples(RunFolder.open(run), 2), EPISODES)
    assert ([group.name for group in groups], cut) == (["g0", "g1", "g2"], 1)


def test_an_episode_of_several_outputs_counts_once(run: Path) -> None:
    """The spread and the size are those of episodes; the mean energy is over all their tokens."""
    episodes = records(2)
    whole, _ = whole_groups(read_samples(RunFolder.open(run), 2), EPISODES)
    write_rollouts(run, 2, [*episodes, episodes[0], episodes[0]])  # the first one in three outputs
    samples = read_samples(RunFolder.open(run), 2)
    assert whole_group_size(RunFolder(run, {}, {}, [], []), samples) == EPISODES
    cut_up, left_out = whole_groups(samples, EPISODES)
    assert left_out == 0
    assert [group.return_std for group in cut_up] == [group.return_std for group in whole]
    assert [group.energy == other.energy for group, other in zip(cut_up, whole, strict=True)] == [
        False,
        True,
        True,
        True,
    ]


def test_groups_of_one_episode_have_no_spread(run: Path) -> None:
    write_rollouts(run, 2, records(2)[::EPISODES])
    assert whole_groups(read_samples(RunFolder.open(run), 2), 1) == ([], 0)


def test_pooled_and_by_step_against_scipy(run: Path) -> None:
    found = correlations(whole_groups(read_samples(RunFolder.open(run)), EPISODES)[0])
    assert list(found["by_step"]) == ["2", "4"]
    for steps, figures in (((2, 4), found["pooled"]), ((2,), found["by_step"]["2"]), ((4,), found["by_step"]["4"])):
        groups = [group for step in steps for group in slow_groups(step).values()]
        for part in PARTS:
            expected = spearmanr([means[part] for _, means in groups], [spread for spread, _ in groups])
            assert figures[part]["rho"] == pytest.approx(expected.statistic, abs=1e-12)
            assert figures[part]["p"] == pytest.approx(expected.pvalue, abs=1e-9)
            assert figures[part]["groups"] == 4 * len(steps)
            assert -1 <= figures[part]["low"] <= figures[part]["high"] <= 1


def group(spread: float, **energy: float | None) -> Group:
    return Group(1, "g", spread, {"all": -1.0, "reasoning": -1.0, "action": -1.0, **energy})


def test_by_hand() -> None:
    energies = zip((-33.0, -32.0, -31.0, -30.0, -29.0), (0.3, 0.1, 0.8, 0.7, 0.9), strict=True)
    figures = correlations([group(spread, action=energy) for energy, spread in energies])["pooled"]
    # ranks 1 2 3 4 5 against 2 1 4 3 5: 1 - 6 * 4 / (5 * 24)
    assert figures["action"]["rho"] == pytest.approx(0.8)
    assert figures["all"] == {"rho": None, "p": None, "low": None, "high": None, "groups": 5}


@pytest.mark.parametrize("spreads", [[0.5], [0.5, 0.7], [0.0, 0.0, 0.0, 0.0]])
def test_too_few_groups_or_no_spread(spreads: list[float]) -> None:
    groups = [group(spread, action=float(number)) for number, spread in enumerate(spreads)]
    undefined = {"rho": None, "p": None, "low": None, "high": None, "groups": len(spreads)}
    assert correlations(groups)["pooled"]["action"] == undefined


def test_a_group_without_an_action_is_left_out_of_that_part(run: Path, rewrite: Callable[..., None]) -> None:
    def without_actions(episode: Record) -> None:
        if episode["group"] == "g1":
            episode["token_roles"] = [1 if role == 2 else role for role in episode["token_roles"]]

    rewrite(2, without_actions)
    groups, _ = whole_groups(read_samples(RunFolder.open(run), 2), EPISODES)
    assert [group.energy["action"] is None for group in groups] == [False, True, False, False]
    figures = correlations(groups)["pooled"]
    assert (figures["action"]["groups"], figures["all"]["groups"]) == (3, 4)


def test_what_difficulty_explains_is_no_correlation_among_equal_boards() -> None:
    """Easy boards have high energies and a large spread, hard ones neither; among equals the order is turned round."""
    easy = [group(spread, action=energy) for energy, spread in ((5.0, 0.5), (6.0, 0.4), (7.0, 0.3))]
    hard = [group(spread, action=energy) for energy, spread in ((1.0, 0.2), (2.0, 0.1), (3.0, 0.0))]
    assert correlations([*easy, *hard])["equal_difficulty"] is None  # unknown
    assert correlations([replace(each, stratum=1) for each in easy])["equal_difficulty"] is None  # nothing to compare
    groups = [replace(each, stratum=number) for number, both in ((1, easy), (4, hard)) for each in both]
    found = correlations(groups)
    # ranks 4 5 6 1 2 3 against 6 5 4 3 2 1: 1 - 6 * 16 / (6 * 35); less their strata's means, -1 0 1 against 1 0 -1
    assert found["pooled"]["action"]["rho"] == pytest.approx(1 - 96 / 210)
    assert found["equal_difficulty"]["action"]["rho"] == pytest.approx(-1)
    assert found["equal_difficulty"]["all"]["rho"] is None
