"""The turn-level ratio and its scaled clip range: against a slow loop, verl's GSPO, and the token-weighted loss."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from verl.trainer.ppo.core_algos import get_policy_loss_fn
from verl.workers.utils.losses import ppo_loss

from actfocus_verl.errors import ConfigurationError
from actfocus_verl.integration.loss import token_weighted_ppo_loss, turn_ratio_policy_loss
from tests.helpers.losses import actor_config, loss_inputs

Row = dict[str, torch.Tensor]
LOW, HIGH = 0.02, 0.03


@pytest.fixture
def rows() -> list[Row]:
    """Rows of 3, 2 and 1 turns of one to three tokens, one token of the environment between them."""
    generator = torch.Generator().manual_seed(9)
    rows = []
    for turns in ([2, 1, 3], [3, 2], [1]):
        ids = torch.tensor([n for turn, tokens in enumerate(turns) for n in [turn] * tokens + [-1]][:-1])
        old = -torch.rand(len(ids), generator=generator) * 3
        rows.append(
            {
                "response_mask": (ids >= 0).long(),
                "turn_ids": ids,
                "old_log_probs": old,
                "log_probs": old + 0.3 * torch.randn(len(ids), generator=generator),
                "advantages": torch.randn(len(ids), generator=generator),
                "token_weights": 2 * torch.rand(len(ids), generator=generator),
                "clip_scales": 0.7 + 0.6 * torch.rand(len(turns), generator=generator)[ids.clamp(min=0)],
            }
        )
    return rows


def run(rows: list[Row], mode: str = "turn_ratio", loss: Any = token_weighted_ppo_loss, **settings: Any) -> Any:
    """Loss, its gradients with respect to each row's log-probs, and metrics."""
    leaves = [row["log_probs"].clone().requires_grad_() for row in rows]
    outputs, data = loss_inputs([row | {"log_probs": leaf} for row, leaf in zip(rows, leaves, strict=True)])
    clip = {"clip_ratio_low": LOW, "clip_ratio_high": HIGH}
    value, metrics = loss(config=actor_config(mode, **clip | settings), model_output=outputs, data=data)
    value.backward()
    return value.detach(), [leaf.grad for leaf in leaves], metrics


def without(rows: list[Row], *names: str) -> list[Row]:
    return [{name: column for name, column in row.items() if name not in names} for row in rows]


def slow_row(row: Row) -> tuple[list[float], list[float]]:
    """Of each token its term of the loss and the derivative of that by its log-prob, before averaging."""
    column = {name: values.tolist() for name, values in row.items()}
    losses, slopes = [0.0] * len(column["turn_ids"]), [0.0] * len(column["turn_ids"])
    for turn in range(max(column["turn_ids"]) + 1):
        places = [t for t, number in enumerate(column["turn_ids"]) if number == turn]
        ratio = math.exp(sum(column["log_probs"][t] - column["old_log_probs"][t] for t in places) / len(places))
        for t in places:
            advantage, weight, scale = column["advantages"][t], column["token_weights"][t], column["clip_scales"][t]
            clipped = min(max(ratio, 1 - scale * LOW), 1 + scale * HIGH)
            losses[t] = -weight * min(ratio * advantage, clipped * advantage)
            slopes[t] = -weight * advantage * ratio if ratio * advantage <= clipped * advantage else 0.0
    return losses, slopes


@pytest.mark.parametrize("mode", ["token-mean", "seq-mean-token-mean"])
def test_against_the_slow_loop(rows: list[Row], mode: str) -> None:
    value, gradients, metrics = run(rows, loss_agg_mode=mode)
    tokens = [int(row["response_mask"].sum()) for row in rows]
    share = [1 / sum(tokens) if mode == "token-mean" else 1 / (len(rows) * count) for count in tokens]
    found = [slow_row(row) for row in rows]
    expected = sum(part * sum(losses) for part, (losses, _) in zip(share, found, strict=True))
    assert float(value) == pytest.approx(expected, abs=1e-6)
    for part, gradient, (_, slopes) in zip(share, gradients, found, strict=True):
        assert gradient.tolist() == pytest.approx([part * slope for slope in slopes], abs=1e-6)
    flat = [slope for _, slopes in found for slope in slopes]
    clipped = sum(tokens) - sum(slope != 0.0 for slope in flat)
    assert clipped in range(1, sum(tokens))
    assert 0.0 < metrics["actor/pg_clipfrac"].aggregate() < 1.0
    scales = torch.cat([row["clip_scales"][row["response_mask"].bool()] for row in rows])
    assert metrics["actor/clip_scale"].aggregate() == pytest.approx(float(scales.mean()), abs=1e-6)


@pytest.mark.parametrize("mode", ["token-mean", "seq-mean-token-mean"])
def test_one_turn_and_one_range_is_verls_gspo(rows: list[Row], mode: str) -> None:
    one_turn = [
        row
        | {"turn_ids": torch.where(row["response_mask"] > 0, 0, -1), "token_weights": torch.ones(len(row["turn_ids"]))}
        for row in without(rows, "clip_scales")
    ]
    ours, our_gradients, our_metrics = run(one_turn, loss_agg_mode=mode)
    verls, gradients, metrics = run(without(one_turn, "token_weights"), "gspo", ppo_loss, loss_agg_mode=mode)
    torch.testing.assert_close(ours, verls, rtol=0, atol=1e-6)
    for ours_row, verls_row in zip(our_gradients, gradients, strict=True):
        torch.testing.assert_close(ours_row, verls_row, rtol=0, atol=1e-6)
    for name in ("actor/pg_clipfrac", "actor/ppo_kl"):
        assert our_metrics[name].aggregate() == pytest.approx(metrics[name].aggregate(), abs=1e-6)


def test_turns_of_one_token_are_the_token_weighted_loss(rows: list[Row]) -> None:
    """Without its second clip, which only verl's own loss has."""
    single = [
        row | {"turn_ids": torch.where(row["response_mask"] > 0, torch.arange(len(row["turn_ids"])), -1)}
        for row in without(rows, "clip_scales")
    ]
    ours, gradients, _ = run(single)
    tokens, token_gradients, _ = run(single, "token_weighted", clip_ratio_c=1e9)
    torch.testing.assert_close(ours, tokens, rtol=0, atol=1e-6)
    for ours_row, token_row in zip(gradients, token_gradients, strict=True):
        torch.testing.assert_close(ours_row, token_row, rtol=0, atol=1e-6)
    assert float(ours) != pytest.approx(float(run(without(rows, "clip_scales"))[0]), abs=1e-4)


def test_a_scale_of_one_is_no_scale_to_the_bit(rows: list[Row]) -> None:
    ones = [row | {"clip_scales": torch.ones_like(row["clip_scales"])} for row in rows]
    found, gradients, _ = run(ones)
    bare, bare_gradients, _ = run(without(rows, "clip_scales"))
    assert torch.equal(found, bare)
    assert all(torch.equal(one, other) for one, other in zip(gradients, bare_gradients, strict=True))
    assert not torch.equal(found, run(rows)[0])
    assert "actor/clip_scale" not in run(without(rows, "clip_scales"))[2]


def test_what_lies_outside_the_response_reaches_nothing(rows: list[Row]) -> None:
    """NaN on masked tokens, and a padding row as verl makes it: columns cloned from a longer row."""
    clean, gradients, _ = run(rows)
    planted = [
        row
        | {
            name: torch.where(row["response_mask"].bool(), row[name], math.nan)
            for name in ("token_weights", "clip_scales", "advantages")
        }
        for row in rows
    ]
    padding = {name: torch.zeros(1) for name in ("old_log_probs", "log_probs", "advantages", "token_weights")}
    padding |= {"response_mask": torch.zeros(1, dtype=torch.int64)}
    padding |= {name: rows[0][name] for name in ("turn_ids", "clip_scales")}
    found, planted_gradients, _ = run([*planted, padding])
    assert torch.equal(found, clean)
    for one, other in zip(planted_gradients[: len(rows)], gradients, strict=True):
        assert torch.equal(torch.nan_to_num(one), other)


def test_it_is_registered_and_says_what_is_missing(rows: list[Row]) -> None:
    assert get_policy_loss_fn("turn_ratio") is turn_ratio_policy_loss
    with pytest.raises(ConfigurationError, match=r"loss_mode='turn_ratio': needs the column turn_ids"):
        run(without(rows, "turn_ids"))
    with pytest.raises(ValueError, match=r"loss_mode='turn_ratio': neither token weights nor turns.*actfocus_sync"):
        run(without(rows, "token_weights"), loss=ppo_loss)
    run(rows)  # and the columns of a call are gone after it
    with pytest.raises(ValueError, match="neither token weights nor turns"):
        run(without(rows, "token_weights"), loss=ppo_loss)
