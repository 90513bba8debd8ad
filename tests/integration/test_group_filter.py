"""The filter on verl's rows and in a step of the trainer. The filters themselves: tests/credit/test_filters.py."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from actfocus_verl.credit.filters import build_filter
from actfocus_verl.errors import ConfigurationError
from actfocus_verl.integration.group_filter import apply_filter, filter_metrics, row_factors
from tests.helpers.queue import LocalQueue
from tests.helpers.trainer import MakeTrainer, to_advantages

# Standard deviations (n - 1): a 0, b sqrt(1/3) = 0.577, c 0.1 * sqrt(1/3) = 0.058, d sqrt(4/3) = 1.155
RETURNS = {"a": [1, 1, 1], "b": [1, 0, 0], "c": [0.1, 0, 0], "d": [0, 2, 0]}
KEYS = [f"{group}_{session}_0" for group in RETURNS for session in range(3)]
VALUES = [value for values in RETURNS.values() for value in values]


def kept(keys: list[str], values: list[float], ratio: float) -> list[str]:
    positions, _ = apply_filter(keys, values, build_filter({"name": "reward_variance", "ratio": ratio}))
    return [keys[position] for position in positions]


def test_every_row_of_a_kept_group_stays_in_its_place() -> None:
    assert kept(KEYS, VALUES, 0.5) == ["b_0_0", "b_1_0", "b_2_0", "d_0_0", "d_1_0", "d_2_0"]


def test_a_prompt_s_id_may_have_underscores() -> None:
    keys = ["u_1_0_0", "u_1_1_0", "u_2_0_0", "u_2_1_0"]
    assert kept(keys, [0, 1, 0, 0], 0.5) == ["u_1_0_0", "u_1_1_0"]


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_arrival_does_not_matter(seed: int) -> None:
    rows = list(zip(KEYS, [1, 0, 0] * 4, strict=True))  # ties everywhere
    random.Random(seed).shuffle(rows)
    keys, values = map(list, zip(*rows, strict=True))
    assert sorted(kept(keys, values, 0.5)) == sorted(kept(KEYS, [1, 0, 0] * 4, 0.5))


def test_none_keeps_everything() -> None:
    positions, selection = apply_filter(KEYS, VALUES, build_filter({"name": "none"}))
    assert positions == list(range(12))
    assert row_factors(KEYS, selection.factors).tolist() == [[1.0]] * 12


def test_metrics_by_hand() -> None:
    _, selection = apply_filter(KEYS, VALUES, build_filter({"name": "min_p", "p": 0.5, "loss_scaling": "linear"}))
    assert filter_metrics(selection) == pytest.approx(
        {
            "filter/kept_groups": 2,
            "filter/dropped_groups": 2,
            "filter/nothing_left": 0,
            "filter/factor/mean": 0.5,
            "filter/group_std/mean": (0.57735 + 0.057735 + 1.154701) / 4,
            "filter/group_std/max": 1.154701,
            "filter/zero_std_groups": 1,
        },
        abs=1e-5,
    )


def test_metrics_count_a_step_of_which_nothing_is_left() -> None:
    _, selection = apply_filter(KEYS, [1.0] * 12, build_filter({"name": "zero_variance"}))
    metrics = filter_metrics(selection)
    assert (metrics["filter/nothing_left"], metrics["filter/factor/mean"]) == (1.0, 0.0)
    assert (metrics["filter/kept_groups"], metrics["filter/dropped_groups"]) == (1.0, 3.0)


def test_padding_rows_have_the_factor_one() -> None:
    factors = row_factors(["b_0_0", "pad0_0_0", "a_1_0"], {"a": 0.25, "b": 0.5})
    assert factors.tolist() == [[0.5], [1.0], [0.25]]


def test_the_trainer_refuses_groups_of_one_in_a_command_of_verl_s_own(make_trainer: MakeTrainer) -> None:
    """Its fixture has one episode a group, as far as the configuration says."""
    for name in ("reward_variance", "min_p", "soft_reweight"):
        with pytest.raises(ConfigurationError, match=f"filter.name='{name}': actor_rollout_ref.rollout.n=1"):
            make_trainer(f"filter={name}")._setup()


class TestInTheTrainer:
    """Group a has returns 1, 0, 0 and the deviation sqrt(1/3); group b 0.5, 0.5, 0.4: a tenth of it."""

    @pytest.fixture
    def weights(self, make_trainer: MakeTrainer, queue: LocalQueue, rows: dict[str, Any]) -> Any:
        def of(*overrides: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
            batch = queue.fill(rows)
            _, metrics = to_advantages(make_trainer("credit=actfocus", *overrides), batch)
            return {key: queue.rows[key]["token_weights"].clone() for key in rows if key in queue.rows}, metrics

        return of

    def test_a_factor_survives_the_normalisation(self, weights: Any) -> None:
        plain, _ = weights("filter=none")
        soft, metrics = weights("filter=soft_reweight")
        assert sorted(soft) == sorted(plain)
        for key, row in plain.items():
            torch.testing.assert_close(soft[key], row * (1.0 if key[0] == "a" else 0.1), rtol=1e-6, atol=0)
        assert metrics["filter/factor/mean"] == pytest.approx(0.55)

    def test_loss_scaling_scales_what_is_left(self, weights: Any) -> None:
        plain, _ = weights("filter=min_p")
        scaled, metrics = weights("filter=min_p", "filter.loss_scaling=sqrt")
        assert sorted(scaled) == sorted(plain) == ["a_0_0", "a_1_0", "a_2_0"]
        for key, row in plain.items():
            torch.testing.assert_close(scaled[key], row * 0.5**0.5, rtol=1e-6, atol=0)
        assert (metrics["filter/kept_groups"], metrics["filter/dropped_groups"]) == (1.0, 1.0)

    @pytest.mark.parametrize("name", ["zero_variance", "top_p filter.p=1"])
    def test_keeping_every_group_changes_no_bit(self, weights: Any, name: str) -> None:
        plain, _ = weights("filter=none")
        filtered, _ = weights(*f"filter={name}".split())
        assert sorted(filtered) == sorted(plain)
        assert all(torch.equal(filtered[key], row) for key, row in plain.items())

    def test_a_step_of_which_nothing_is_left_has_no_policy_gradient(self, weights: Any, rows: dict[str, Any]) -> None:
        for row in rows.values():
            row["rm_scores"] = torch.zeros_like(row["rm_scores"])
        left, metrics = weights("filter=zero_variance")
        assert sorted(left) == ["a_0_0", "a_1_0", "a_2_0"]
        assert all(not row.any() for row in left.values())
        assert metrics["filter/nothing_left"] == 1.0
