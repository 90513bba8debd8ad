"""Metrics of the local updates of a step: joined by what they are, where verl joins by words in the names."""

from __future__ import annotations

import pytest
from verl.trainer.ppo.v1.utils import MetricsAggregator

from actfocus_verl.integration.local_updates import LocalUpdates

FIRST = {
    "stop/failure": 0.75,
    "stop/max_turns": 0.25,
    "episode/success_rate": 0.5,
    "filter/kept_groups": 2.0,
    "filter/group_std/max": 0.3,
    "filter/nothing_left": 1.0,
    "credit/mean_weight/format": 0.5,
    "actor/entropy": 1.0,
}
SECOND = {
    "stop/failure": 0.5,
    "stop/success": 0.5,
    "episode/success_rate": 0.0,
    "filter/kept_groups": 1.0,
    "filter/group_std/max": 0.1,
    "filter/nothing_left": 0.0,
    "actor/entropy": 3.0,
}


def test_shares_stay_shares_and_counts_add_up() -> None:
    updates, verls = LocalUpdates(), MetricsAggregator()
    for metrics, episodes in ((FIRST, 8), (SECOND, 24)):
        updates.add(metrics, episodes)
        verls.add_step_metrics(metrics, sample_count=episodes)
    theirs = verls.get_aggregated_metrics()
    assert sum(value for key, value in theirs.items() if key.startswith("stop/")) > 1  # the reason for ours

    joined = updates.joined()
    assert joined == {
        "stop/failure": pytest.approx((8 * 0.75 + 24 * 0.5) / 32),
        "stop/max_turns": pytest.approx(8 * 0.25 / 32),
        "stop/success": pytest.approx(24 * 0.5 / 32),
        "episode/success_rate": pytest.approx(8 * 0.5 / 32),
        "filter/kept_groups": 3.0,
        "filter/group_std/max": 0.3,
        "filter/nothing_left": 0.0,
        "credit/mean_weight/format": 0.5,  # of the only update with such a token
    }
    assert (theirs | joined)["actor/entropy"] == pytest.approx((8 * 1 + 24 * 3) / 32)  # verl's own stay


def test_each_update_has_its_line() -> None:
    updates = LocalUpdates()
    updates.add(FIRST, 8)
    updates.add(SECOND, 24)
    first, second = updates.lines()
    assert (first["local_update"], first["episodes"], first["stop/max_turns"]) == (0, 8, 0.25)
    assert (second["local_update"], second["episodes"]) == (1, 24)
    assert "actor/entropy" not in first
