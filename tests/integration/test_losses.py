"""Every loss of verl's registry, through verl's own `ppo_loss`: a token's gradient is its weight times that without.

Or it is refused by name. A loss that a later verl adds is in neither list, and fails here until it is proved.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from verl.trainer.ppo.core_algos import POLICY_LOSS_REGISTRY
from verl.workers.utils.losses import ppo_loss

from actfocus_verl.credit.filters import FILTERS, build_filter
from actfocus_verl.credit.registry import build_weighting
from actfocus_verl.errors import ConfigurationError
from actfocus_verl.integration.loss import (
    OUR_LOSSES,
    UNWEIGHTED_LOSSES,
    WEIGHTED_LOSSES,
    token_weighted_ppo_loss,
)
from actfocus_verl.integration.requirements import require_weighted_loss
from tests.helpers.losses import actor_config, loss_inputs
from tests.helpers.refusals import configured, refusal

Row = dict[str, torch.Tensor]
LOSS = "actor_rollout_ref.actor.policy_loss.loss_mode"
SETTINGS = {
    "dro": {"dro_beta": 0.5},
    "clip_cov": {"clip_cov_ratio": 0.2, "clip_cov_lb": -5.0},
    "kl_cov": {"kl_cov_ratio": 0.2},
}
"""What a loss needs, and what makes a selection of tokens select some of so few."""


@pytest.fixture
def rows() -> list[Row]:
    """Three episodes in float64: ratios on both sides of every clip, advantages of both signs, masked tokens."""
    generator = torch.Generator().manual_seed(5)
    rows = []
    for length in (7, 3, 12):
        mask = (torch.rand(length, generator=generator) < 0.8).long()
        mask[0] = 1
        old = -torch.rand(length, generator=generator, dtype=torch.float64) * 3 - 0.1
        rows.append(
            {
                "response_mask": mask,
                "old_log_probs": old,
                "log_probs": (old + 0.4 * torch.randn(length, generator=generator, dtype=torch.float64)).clamp(
                    max=-0.01
                ),
                "advantages": torch.randn(length, generator=generator, dtype=torch.float64),
                "turn_ids": torch.where(mask.bool(), torch.arange(length) // 3, -1),
                "token_weights": 2 * torch.rand(length, generator=generator, dtype=torch.float64),
            }
        )
    rows[0]["token_weights"][0] = 0.0
    return rows


def gradient(loss: str, rows: list[Row], aggregation: str, function: Any = token_weighted_ppo_loss) -> torch.Tensor:
    """Of the response tokens of all rows, in order."""
    torch.manual_seed(0)  # clip_cov draws its tokens
    leaves = [row["log_probs"].clone().requires_grad_() for row in rows]
    outputs, data = loss_inputs([row | {"log_probs": leaf} for row, leaf in zip(rows, leaves, strict=True)])
    config = actor_config(loss, loss_agg_mode=aggregation, policy_loss_settings=SETTINGS.get(loss, {}))
    function(config=config, model_output=outputs, data=data)[0].backward()
    return torch.cat([leaf.grad[row["response_mask"].bool()] for leaf, row in zip(leaves, rows, strict=True)])


def of_tokens(rows: list[Row], name: str) -> torch.Tensor:
    return torch.cat([row[name][row["response_mask"].bool()] for row in rows])


def with_weights_of_one(rows: list[Row]) -> list[Row]:
    return [row | {"token_weights": torch.ones_like(row["token_weights"])} for row in rows]


@pytest.mark.parametrize("aggregation", ["token-mean", "seq-mean-token-mean"])
@pytest.mark.parametrize("loss", sorted(POLICY_LOSS_REGISTRY))
def test_a_loss_weighs_token_by_token_or_is_refused(rows: list[Row], loss: str, aggregation: str) -> None:
    assert (loss in WEIGHTED_LOSSES) != (loss in UNWEIGHTED_LOSSES), f"{loss}: prove it here, or refuse it by name"
    if loss in UNWEIGHTED_LOSSES:
        return
    without = gradient(loss, with_weights_of_one(rows), aggregation)
    assert (without != 0).sum() > 5
    expected = of_tokens(rows, "token_weights") * without
    torch.testing.assert_close(gradient(loss, rows, aggregation), expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("loss", sorted(set(WEIGHTED_LOSSES) - set(OUR_LOSSES)))
def test_weights_of_one_leave_verls_losses_as_they_are(rows: list[Row], loss: str) -> None:
    ours = gradient(loss, with_weights_of_one(rows), "token-mean")
    assert torch.equal(ours, gradient(loss, rows, "token-mean", ppo_loss))


@pytest.mark.parametrize("loss", ["geo_mean", "bypass_mode"])
def test_the_refused_ones_would_not_weigh_token_by_token(rows: list[Row], loss: str) -> None:
    """The reason for the refusal, with the weights where verl's losses look for them."""
    weighted = [row | {"rollout_is_weights": row["token_weights"]} for row in rows]
    found = gradient(loss, weighted, "token-mean", ppo_loss)
    expected = of_tokens(rows, "token_weights") * gradient(loss, rows, "token-mean", ppo_loss)
    assert not torch.allclose(found, expected, rtol=0.1)


def test_sapo_has_no_divisor_of_equation_6(rows: list[Row]) -> None:
    assert torch.equal(*(gradient("sapo", rows, mode, ppo_loss) for mode in ("token-mean", "seq-mean-token-mean")))


@pytest.mark.parametrize("loss", sorted(UNWEIGHTED_LOSSES))
def test_with_uniform_weights_the_refused_ones_are_verls_own(rows: list[Row], loss: str) -> None:
    ours = gradient(loss, with_weights_of_one(rows), "token-mean")
    assert torch.equal(ours, gradient(loss, rows, "token-mean", ppo_loss))


# Enforced in both places


@pytest.mark.parametrize(
    ("loss", "reason"),
    [
        ("geo_mean", "it takes the geometric mean of an episode's weights"),
        ("bypass_mode", "it computes its own factors"),
        ("sapo", "it averages within each episode"),
    ],
)
def test_a_refused_loss_is_one_line_for_train_and_for_verls_own_command(loss: str, reason: str) -> None:
    message = refusal(f"{LOSS}={loss}")
    assert message.startswith(f"{LOSS}='{loss}': {reason}")
    assert message.endswith(
        f"and credit=actfocus gives tokens different weights. Set {LOSS}=token_weighted, or use credit=uniform"
    )


def test_a_loss_of_a_later_verl_is_refused_until_it_is_proved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(POLICY_LOSS_REGISTRY, "invented", POLICY_LOSS_REGISTRY["vanilla"])
    assert "it is not known to multiply each token's loss" in refusal(f"{LOSS}=invented")


@pytest.mark.parametrize("name", FILTERS.known())
def test_factors_of_groups_are_weights_too(name: str) -> None:
    """A filter counts as uniform when no deviations at all get another factor than 1 from it."""
    scaling = {"loss_scaling": "linear"} if name in ("top_p", "min_p", "zero_variance") else {}
    group_filter = build_filter({"name": name, **scaling})
    factors = {
        factor
        for returns in ({"a": [0, 1], "b": [0, 0.5], "c": [1, 1]}, {"a": [1, 1], "b": [1, 1], "c": [0, 0]})
        for factor in group_filter(returns).factors.values()
    }
    assert (factors == {1.0}) == (not group_filter.definition.scales)
    config, uniform = configured(f"{LOSS}=geo_mean"), build_weighting({"name": "uniform"})
    if not group_filter.definition.scales:
        require_weighted_loss(config, uniform, group_filter)
        return
    with pytest.raises(ConfigurationError, match=f"and filter={name} gives tokens different weights"):
        require_weighted_loss(config, uniform, group_filter)
