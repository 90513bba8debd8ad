"""The token-weighted loss on verl's own `ppo_loss`: neutral to the bit, Eq. 6 by hand, and what it leaves alone."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from verl.trainer.ppo.core_algos import get_policy_loss_fn
from verl.workers.utils.losses import ppo_loss

from actfocus_verl.credit.tokens import TokenRole
from actfocus_verl.credit.weighting import actfocus, normalize, uniform
from actfocus_verl.integration.loss import LOSS_MODE, token_weighted_policy_loss, token_weighted_ppo_loss
from tests.helpers.losses import actor_config, loss_inputs

Row = dict[str, torch.Tensor]
MODES = ("token-mean", "seq-mean-token-sum", "seq-mean-token-mean")


@pytest.fixture
def rows() -> list[Row]:
    """Sequences of 5, 9 and 1 tokens: ratios on both sides of the clip, advantages of both signs, masked tokens."""
    generator = torch.Generator().manual_seed(3)
    rows = []
    for length in (5, 9, 1):
        mask = (torch.rand(length, generator=generator) < 0.8).long()
        mask[0] = 1
        old = -torch.rand(length, generator=generator) * 3
        rows.append(
            {
                "response_mask": mask,
                "old_log_probs": old,
                "log_probs": old + 0.5 * torch.randn(length, generator=generator),
                "ref_log_prob": old + 0.5 * torch.randn(length, generator=generator),
                "entropy": torch.rand(length, generator=generator),
                "advantages": torch.randn(length, generator=generator),
                "token_roles": torch.randint(1, 4, (length,), generator=generator) * mask,
            }
        )
    return rows


def weights_of(rows: list[Row], raw: Any) -> list[torch.Tensor]:
    """Weights normalised over the batch, from `raw(token_roles)` of the padded batch."""
    roles = torch.nn.utils.rnn.pad_sequence([row["token_roles"] for row in rows], batch_first=True)
    weights = normalize(raw(roles), roles)
    return [weights[index, : len(row["token_roles"])] for index, row in enumerate(rows)]


def with_weights(rows: list[Row], weights: list[torch.Tensor]) -> list[Row]:
    return [row | {"token_weights": weight} for row, weight in zip(rows, weights, strict=True)]


def arbitrary_weights(rows: list[Row]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    return [2 * torch.rand(len(row["response_mask"]), generator=generator) for row in rows]


def run(loss: Any, rows: list[Row], **settings: Any) -> tuple[torch.Tensor, list[torch.Tensor], dict[str, Any]]:
    """Loss, its gradients with respect to each row's log-probs, and metrics."""
    leaves = [row["log_probs"].clone().requires_grad_() for row in rows]
    outputs, data = loss_inputs([row | {"log_probs": leaf} for row, leaf in zip(rows, leaves, strict=True)])
    mode = LOSS_MODE if loss is token_weighted_ppo_loss else "vanilla"
    value, metrics = loss(config=actor_config(mode, **settings), model_output=outputs, data=data)
    value.backward()
    return value.detach(), [leaf.grad for leaf in leaves], metrics


def test_it_is_registered_under_its_loss_mode() -> None:
    assert get_policy_loss_fn("token_weighted") is token_weighted_policy_loss


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("neutral", ["actfocus", "uniform"])
def test_neutral_weights_give_the_stock_loss_to_the_bit(rows: list[Row], neutral: str, mode: str) -> None:
    weightings = {"uniform": uniform, "actfocus": lambda roles: actfocus(None, roles, alpha=1.0, beta=0.0)}
    settings = {"loss_agg_mode": mode, "use_kl_loss": True, "entropy_coeff": 0.001}
    weighted = with_weights(rows, weights_of(rows, weightings[neutral]))

    stock, stock_gradients, _ = run(ppo_loss, rows, **settings)
    ours, our_gradients, _ = run(token_weighted_ppo_loss, weighted, **settings)

    assert torch.equal(ours, stock)
    for ours_row, stock_row in zip(our_gradients, stock_gradients, strict=True):
        assert torch.equal(ours_row, stock_row)


@pytest.mark.parametrize("mode", MODES)
def test_weighting_the_surrogate_equals_weighting_the_advantages(rows: list[Row], mode: str) -> None:
    weights = arbitrary_weights(rows)
    folded = [row | {"advantages": row["advantages"] * weight} for row, weight in zip(rows, weights, strict=True)]

    stock, stock_gradients, _ = run(ppo_loss, folded, loss_agg_mode=mode)
    ours, our_gradients, _ = run(token_weighted_ppo_loss, with_weights(rows, weights), loss_agg_mode=mode)

    torch.testing.assert_close(ours, stock, rtol=0, atol=1e-6)
    for ours_row, stock_row in zip(our_gradients, stock_gradients, strict=True):
        torch.testing.assert_close(ours_row, stock_row, rtol=0, atol=1e-6)


def test_equation_6_by_hand() -> None:
    # Raw weights 0.1 0.4 0.1 | 0.2 0.2, sum 1.0 over 5 tokens. Clip range [0.8, 1.28].
    #   rho   A   min(rho A, clip(rho) A)   w     w * min
    #   1.5   1   clipped: 1.28             0.1    0.128
    #   1.0   1   1.0                       0.4    0.4
    #   0.5   1   0.5                       0.1    0.05
    #   0.9  -2   -1.8                      0.2   -0.36
    #   2.0  -2   -4.0                      0.2   -0.8
    # L = -(0.128 + 0.4 + 0.05 - 0.36 - 0.8) / 1.0 = 0.582
    # dL/dlogp = -w rho A / 1.0, 0 where clipped: 0, -0.4, -0.05, 0.36, 0.8
    ratios = [torch.tensor([1.5, 1.0, 0.5]), torch.tensor([0.9, 2.0])]
    rows = [
        {
            "response_mask": torch.ones(len(ratio), dtype=torch.int64),
            "old_log_probs": torch.full_like(ratio, -1.0),
            "log_probs": ratio.log() - 1.0,
            "advantages": torch.full_like(ratio, advantage),
            "token_roles": torch.full((len(ratio),), int(TokenRole.ACTION)),
        }
        for ratio, advantage in zip(ratios, (1.0, -2.0), strict=True)
    ]
    weights = weights_of(rows, lambda roles: torch.tensor([[0.1, 0.4, 0.1], [0.2, 0.2, 0.0]]))

    loss, gradients, _ = run(token_weighted_ppo_loss, with_weights(rows, weights))

    assert float(loss) == pytest.approx(0.582, abs=1e-6)
    torch.testing.assert_close(torch.cat(gradients), torch.tensor([0.0, -0.4, -0.05, 0.36, 0.8]), rtol=0, atol=1e-6)


def test_kl_and_entropy_terms_are_not_weighted(rows: list[Row]) -> None:
    weighted = with_weights(rows, arbitrary_weights(rows))
    terms = {"use_kl_loss": True, "kl_loss_coef": 0.5, "entropy_coeff": 0.1}

    stock, _, stock_metrics = run(ppo_loss, rows, **terms)
    ours, _, our_metrics = run(token_weighted_ppo_loss, weighted, **terms)
    bare_stock, _, _ = run(ppo_loss, rows)
    bare_ours, _, _ = run(token_weighted_ppo_loss, weighted)

    for name in ("kl_loss", "actor/entropy_loss"):
        assert our_metrics[name].aggregate() == stock_metrics[name].aggregate() != 0.0
    assert float(ours - bare_ours) == pytest.approx(float(stock - bare_stock), abs=1e-6)
    assert float(ours) != pytest.approx(float(stock), abs=1e-3)


def test_importance_weights_of_a_rollout_correction_stay_a_factor(rows: list[Row]) -> None:
    weights = arbitrary_weights(rows)
    importance = [torch.full_like(weight, 0.5) for weight in weights]
    both = [
        row | {"rollout_is_weights": each} for row, each in zip(with_weights(rows, weights), importance, strict=True)
    ]

    ours, _, _ = run(token_weighted_ppo_loss, both)
    expected, _, _ = run(token_weighted_ppo_loss, with_weights(rows, [weight * 0.5 for weight in weights]))

    assert torch.equal(ours, expected)


def test_the_batch_keeps_its_columns(rows: list[Row]) -> None:
    outputs, data = loss_inputs(with_weights(rows, arbitrary_weights(rows)))
    before = set(data.keys())
    token_weighted_ppo_loss(config=actor_config(LOSS_MODE), model_output=outputs, data=data)
    assert set(data.keys()) == before


@pytest.mark.parametrize("mode", MODES)
def test_nan_in_masked_weights_reaches_neither_loss_nor_gradient(rows: list[Row], mode: str) -> None:
    weights = arbitrary_weights(rows)
    planted = [
        torch.where(row["response_mask"].bool(), weight, math.nan) for row, weight in zip(rows, weights, strict=True)
    ]
    assert any(bool(weight.isnan().any()) for weight in planted)

    clean, clean_gradients, _ = run(token_weighted_ppo_loss, with_weights(rows, weights), loss_agg_mode=mode)
    loss, gradients, _ = run(token_weighted_ppo_loss, with_weights(rows, planted), loss_agg_mode=mode)

    assert torch.equal(loss, clean)
    for row, clean_row in zip(gradients, clean_gradients, strict=True):
        assert torch.equal(row, clean_row)


def test_a_trainer_that_brings_no_weights_is_told_so(rows: list[Row]) -> None:
    outputs, data = loss_inputs(rows)
    with pytest.raises(ValueError, match=r"loss_mode='token_weighted': no token weights.*trainer_mode=actfocus_sync"):
        ppo_loss(config=actor_config(LOSS_MODE), model_output=outputs, data=data)
