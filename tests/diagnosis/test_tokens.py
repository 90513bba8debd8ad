"""Token shares by hand, and the gradient mass of every weighting against loops over Python floats."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actfocus_verl.credit.registry import known_weightings
from actfocus_verl.diagnosis.influence import influence_figures
from actfocus_verl.diagnosis.samples import read_samples
from actfocus_verl.diagnosis.tokens import AS_TRAINED, flat_tokens, role_means, role_shares, token_figures
from actfocus_verl.reporting.run_folder import RunFolder
from actfocus_verl.reporting.statistics import cluster_interval
from tests.diagnosis.conftest import records, write_rollouts
from tests.helpers import slow_weightings

NAMES = {1: "reasoning", 2: "action", 3: "format"}


def columns(step: int) -> dict[str, list[list[float]]]:
    return {name: [episode[name] for episode in records(step)] for name in records(step)[0]}


def raw_weights(name: str, step: int) -> tuple[list[list[float]], list[list[float]]]:
    """Weights of a step's tokens with the weighting's defaults, and the advantages they multiply, by loops."""
    given = columns(step)
    roles, turns, advantages = given["token_roles"], given["turn_ids"], given["advantages"]
    if name == "uniform":
        return [[float(role != 0) for role in row] for row in roles], advantages
    if name == "action_only":
        return [[float(role == 2) for role in row] for row in roles], advantages
    if name == "actfocus":
        return slow_weightings.actfocus(given["energy"], roles), advantages
    if name == "entropy_quantile":
        return slow_weightings.entropy_quantile(given["entropy"], roles, fraction=0.2), advantages
    if name == "aem":
        return slow_weightings.aem(given["entropy"], roles, turns, given["group"]), advantages
    if name == "influence":
        share = slow_weightings.influence(given["entropy"], roles, turns, given["responses"], given["group"])[2]
        return slow_weightings.influence_weights(share, roles), advantages
    weights, modified = slow_weightings.empg(advantages, given["entropy"], roles, turns)
    return weights, [
        [m / w if w else 0.0 for m, w in zip(*rows, strict=True)] for rows in zip(modified, weights, strict=True)
    ]


def slow_mass(name: str) -> dict[str, float]:
    """The share of each role in sum w |A| over the tokens of all steps."""
    sums = dict.fromkeys(NAMES.values(), 0.0)
    for step in (2, 4):
        roles = columns(step)["token_roles"]
        if name == AS_TRAINED:
            weights, advantages = columns(step)["token_weights"], columns(step)["advantages"]
        else:
            weights, advantages = raw_weights(name, step)
            weights = slow_weightings.normalize(weights, roles, [0] * len(roles))
        for w_row, a_row, r_row in zip(weights, advantages, roles, strict=True):
            for weight, advantage, role in zip(w_row, a_row, r_row, strict=True):
                if role:
                    sums[NAMES[role]] += weight * abs(advantage)
    total = math.fsum(sums.values())
    return {name: value / total for name, value in sums.items()}


KEPT = [AS_TRAINED, *(name for name in known_weightings() if name != "hindsight")]
"""Without the pass for hindsight, as in other runs."""


@pytest.mark.parametrize("name", KEPT)
def test_gradient_mass_against_a_loop(run: Path, name: str) -> None:
    tokens = flat_tokens(read_samples(RunFolder.open(run)))
    assert sorted(tokens.mass) == sorted(KEPT)
    assert tokens.left_out == {}
    found = role_shares(tokens.mass[name], tokens.role, tokens.cluster)
    assert {role: figures["share"] for role, figures in found.items()} == pytest.approx(slow_mass(name), rel=1e-5)
    for figures in found.values():
        if figures["low"] is not None:
            assert figures["low"] <= figures["share"] <= figures["high"]


def test_weightings_without_their_columns_are_named(run: Path) -> None:
    for step in (2, 4):
        without = [{name: value for name, value in episode.items() if name != "entropy"} for episode in records(step)]
        write_rollouts(run, step, without)
    tokens = flat_tokens(read_samples(RunFolder.open(run)))
    why = "the run kept no entropy"
    assert tokens.left_out == {"aem": why, "empg": why, "entropy_quantile": why, "influence": why}
    assert set(tokens.mass) == {"action_only", "actfocus", AS_TRAINED, "uniform"}


def test_what_decides_the_answers_of_the_kept_episodes(run: Path) -> None:
    names = ("entropy", "token_roles", "turn_ids", "responses", "group")
    steps = [slow_weightings.influence(*(columns(step)[name] for name in names)) for step in (2, 4)]
    answer, given = (sum(step[number] for step in steps) / 2 for number in (0, 1))
    figures = influence_figures(read_samples(RunFolder.open(run)))
    assert figures is not None
    assert 0 < figures["repeated_answers"] < 1
    found = [figures[name] for name in ("answer_entropy", "answer_entropy_given_reasoning", "alpha")]
    assert found == pytest.approx([answer, given, max(0.0, 1 - given / answer)], rel=1e-5)
    assert f"its entropy is {answer:.2f} nats" in figures["sentence"]
    one_each = [{**episode, "group": str(number)} for number, episode in enumerate(records(2))]
    for step in (2, 4):
        write_rollouts(run, step, one_each)
    assert influence_figures(read_samples(RunFolder.open(run))) is None


def test_without_advantages_there_is_no_mass(run: Path) -> None:
    episodes: list[dict[str, Any]] = records(2)
    del episodes[0]["advantages"]
    write_rollouts(run, 2, episodes)
    assert flat_tokens(read_samples(RunFolder.open(run))).mass == {}


def test_every_response_token_is_there_once(run: Path) -> None:
    tokens = flat_tokens(read_samples(RunFolder.open(run)))
    expected = [
        (sample, row, position, role, number)
        for sample, step in enumerate((2, 4))
        for row, episode in enumerate(records(step))
        for number in [4 * sample + int(episode["group"][1])]
        for position, role in enumerate(episode["token_roles"])
        if role
    ]
    found = zip(tokens.sample, tokens.row, tokens.position, tokens.role, tokens.cluster, strict=True)
    assert [tuple(int(value) for value in token) for token in found] == expected


# Group 0 has reasoning 1 + 2, action 1; group 1 reasoning 2, action 4; group 2 has nothing.
AMOUNTS = np.array([1.0, 2.0, 1.0, 2.0, 4.0, 0.0])
ROLES = np.array([1, 1, 2, 1, 2, 3])
CLUSTERS = np.array([0, 0, 0, 1, 1, 2])


def test_shares_by_hand() -> None:
    found = role_shares(AMOUNTS, ROLES, CLUSTERS)
    assert {role: figures["share"] for role, figures in found.items()} == {"reasoning": 0.5, "action": 0.5, "format": 0}
    low, high = cluster_interval([1.0, 4.0], [4.0, 6.0])
    assert (found["action"]["low"], found["action"]["high"]) == (low, high)
    assert (found["format"]["low"], found["format"]["high"]) == (None, None)


def test_means_by_hand() -> None:
    found = role_means(AMOUNTS, ROLES, CLUSTERS)
    assert [found[role]["mean"] for role in NAMES.values()] == pytest.approx([5 / 3, 2.5, 0.0])
    low, high = cluster_interval([3.0, 2.0], [2.0, 1.0])
    assert (found["reasoning"]["low"], found["reasoning"]["high"]) == (low, high)


def test_nothing_at_all() -> None:
    nothing = np.zeros(3)
    assert role_shares(nothing, ROLES[:3], CLUSTERS[:3])["action"] == {"share": None, "low": None, "high": None}
    assert role_means(AMOUNTS, np.ones(6, dtype=np.int64), CLUSTERS)["action"]["mean"] is None


def test_token_shares_by_hand(run: Path) -> None:
    write_rollouts(run, 2, records(2)[:3])  # one group; counted from its roles
    episodes = records(2)[:3] + records(4)
    roles = [role for episode in episodes for role in episode["token_roles"] if role]
    found = token_figures(flat_tokens(read_samples(RunFolder.open(run))))
    assert found["an_episode"]["mean"] == pytest.approx(len(roles) / len(episodes))
    for role, name in NAMES.items():
        assert found["share"][name]["share"] == pytest.approx(roles.count(role) / len(roles))
    assert found["an_episode"]["low"] < found["an_episode"]["mean"] < found["an_episode"]["high"]
