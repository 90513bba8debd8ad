"""normalize: mean 1 in the chosen scope, exactness, edge cases, errors."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from actfocus_verl.credit import blocks
from actfocus_verl.credit.tokens import TokenRole
from actfocus_verl.credit.weighting import actfocus, normalize, uniform
from actfocus_verl.errors import ConfigurationError

E, R, A, F = (int(role) for role in TokenRole)


def test_batch_by_hand():
    # Response weights 0.5, 1.5, 0.25, 0.75 sum to 3 over 4 tokens: factor 4/3.
    roles = torch.tensor([[R, A, E], [F, E, R]])
    weights = torch.tensor([[0.5, 1.5, 9.0], [0.25, 9.0, 0.75]])
    expected = torch.tensor([[2 / 3, 2.0, 0.0], [1 / 3, 0.0, 1.0]])
    result = normalize(weights, roles, "batch")
    assert result.dtype is torch.float32
    torch.testing.assert_close(result, expected)


def test_mini_batch_by_hand():
    # Rows 0 and 2 (id 5): 1 + 3 + 2 = 6 over 3 tokens, factor 1/2. Row 1 (id -2): 0.25 + 0.75 = 1 over 2, factor 2.
    roles = torch.tensor([[R, A], [R, F], [A, E]])
    weights = torch.tensor([[1.0, 3.0], [0.25, 0.75], [2.0, 7.0]])
    expected = torch.tensor([[0.5, 1.5], [0.5, 1.5], [1.0, 0.0]])
    torch.testing.assert_close(normalize(weights, roles, "mini_batch", torch.tensor([5, -2, 5])), expected)


def test_none_leaves_response_weights_and_zeroes_the_rest():
    roles = torch.tensor([[R, A, E], [F, E, R]])
    weights = torch.tensor([[0.5, 1.5, 9.0], [0.25, math.nan, 0.75]])
    assert normalize(weights, roles, "none").tolist() == [[0.5, 1.5, 0.0], [0.25, 0.0, 0.75]]
    with pytest.raises(ValueError, match="token weights are negative, NaN or infinite at 1 tokens in 1 rows"):
        normalize(-weights[:, :1], roles[:, :1] * torch.tensor([[1], [0]]), "none")


def test_a_batch_larger_than_a_block(oracle, monkeypatch):
    roles, weights, ids = torch.randint(0, 4, (7, 9)), torch.rand(7, 9), [0, 1, 0, 2, 2, 1, 0]
    monkeypatch.setattr(blocks, "BLOCK_ELEMENTS", 20)
    for mode, labels in (("batch", [0] * 7), ("mini_batch", ids)):
        expected = torch.tensor(oracle.normalize(weights.tolist(), roles.tolist(), labels))
        torch.testing.assert_close(normalize(weights, roles, mode, torch.tensor(ids)), expected, rtol=1e-6, atol=0)
    weights[6, 0], roles[6, 0] = math.inf, R  # in the last block
    with pytest.raises(ValueError, match="at 1 tokens in 1 rows"):
        normalize(weights, roles)


def test_columns_that_are_not_contiguous():
    roles, weights = torch.randint(0, 4, (9, 5)).T, torch.rand(9, 5).T
    before = weights.clone()
    assert torch.equal(normalize(weights, roles), normalize(weights.contiguous(), roles.contiguous()))
    assert torch.equal(weights, before)


def test_one_mini_batch_equals_batch():
    roles = torch.randint(0, 4, (6, 9))
    weights = torch.rand(6, 9)
    ids = torch.full((6,), 3)
    torch.testing.assert_close(
        normalize(weights, roles, "mini_batch", ids), normalize(weights, roles), rtol=1e-6, atol=0
    )


@st.composite
def batches(draw):
    rows, tokens = draw(st.integers(1, 6)), draw(st.integers(1, 8))

    def matrix(elements):
        return draw(st.lists(st.lists(elements, min_size=tokens, max_size=tokens), min_size=rows, max_size=rows))

    weights = matrix(st.floats(0, 100, width=32, allow_subnormal=False))
    ids = draw(st.lists(st.integers(-3, 3), min_size=rows, max_size=rows))
    return weights, matrix(st.integers(0, 3)), ids


@settings(max_examples=150, deadline=None)
@given(batch=batches())
def test_against_a_loop_and_mean_one_in_every_scope(oracle, batch):
    weights, roles, ids = batch
    tensors = torch.tensor(weights), torch.tensor(roles)
    for result, groups in (
        (normalize(*tensors), [0] * len(ids)),
        (normalize(*tensors, "mini_batch", torch.tensor(ids)), ids),
    ):
        expected = torch.tensor(oracle.normalize(weights, roles, groups))
        torch.testing.assert_close(result, expected, rtol=1e-6, atol=0)
        for label in set(groups):
            rows = torch.tensor([other == label for other in groups])
            kept = result[rows][tensors[1][rows] != E].double()
            if float(kept.sum()) > 0:
                assert float(kept.mean()) == pytest.approx(1.0, rel=1e-6)


@settings(max_examples=50, deadline=None)
@given(batch=batches(), factor=st.floats(0.01, 100))
def test_a_common_factor_cancels(batch, factor):
    weights, roles, _ = batch
    weights, roles = torch.tensor(weights), torch.tensor(roles)
    torch.testing.assert_close(normalize(weights * factor, roles), normalize(weights, roles), rtol=1e-5, atol=1e-30)


@settings(max_examples=100, deadline=None)
@given(batch=batches())
def test_neutral_weights_stay_exactly_one(batch):
    _, roles, ids = batch
    roles, ids = torch.tensor(roles), torch.tensor(ids)
    ones = (roles != E).float()
    for weights in (uniform(roles), actfocus(None, roles, alpha=1.0, beta=0.0)):
        assert torch.equal(normalize(weights, roles), ones)
        assert torch.equal(normalize(weights, roles, "mini_batch", ids), ones)


def test_neutral_weights_stay_exactly_one_in_a_large_batch():
    roles = torch.randint(0, 4, (128, 4099))
    assert torch.equal(normalize(uniform(roles), roles), (roles != E).float())


def test_weighted_mean_equals_eq_6():
    """mean over response tokens of w' * x == sum(w x) / sum(w)."""
    roles = torch.randint(0, 4, (5, 11))
    weights = actfocus(torch.randn(5, 11), roles)
    surrogate = torch.randn(5, 11).double()
    count = (roles != E).sum()
    expected = (weights * surrogate).sum() / weights.double().sum()
    torch.testing.assert_close((normalize(weights, roles) * surrogate).sum() / count, expected)


# --- edge cases


def test_all_weights_zero_stay_zero():
    roles = torch.tensor([[R, F, E], [R, A, E]])
    weights = actfocus(torch.zeros(2, 3), roles, alpha=0.0)
    assert normalize(weights[:1], roles[:1]).tolist() == [[0, 0, 0]]
    # one action token among four response tokens: it alone carries the mean
    assert normalize(weights, roles).tolist() == [[0, 0, 0], [0, 4, 0]]
    assert normalize(weights, roles, "mini_batch", torch.tensor([0, 1])).tolist() == [[0, 0, 0], [0, 2, 0]]


@pytest.mark.parametrize("mode", ["batch", "mini_batch"])
def test_no_response_token(mode):
    roles = torch.zeros(2, 3, dtype=torch.int64)
    assert normalize(torch.ones(2, 3), roles, mode, torch.tensor([0, 1])).tolist() == [[0, 0, 0]] * 2


@pytest.mark.parametrize("mode", ["batch", "mini_batch"])
@pytest.mark.parametrize("junk", [math.nan, math.inf, -1.0])
def test_junk_on_environment_tokens_reaches_nothing(mode, junk):
    roles = torch.randint(0, 4, (4, 6))
    ids = torch.tensor([0, 0, 1, 1])
    clean = torch.rand(4, 6)
    dirty = torch.where(roles == E, junk, clean)
    assert torch.equal(normalize(dirty, roles, mode, ids), normalize(clean, roles, mode, ids))


def test_the_smallest_weight_does_not_overflow():
    roles = torch.full((2, 2), R)
    torch.testing.assert_close(normalize(torch.full((2, 2), 1e-45), roles), torch.ones(2, 2))


def test_any_shape_in_batch_mode():
    roles = torch.tensor([R, A, E])
    torch.testing.assert_close(normalize(torch.tensor([1.0, 3.0, 5.0]), roles), torch.tensor([0.5, 1.5, 0.0]))


# --- errors


def test_unknown_mode_lists_the_known_ones():
    with pytest.raises(
        ConfigurationError, match=r"normalize='token': is not a known value. Choose one of: batch, mini_batch"
    ):
        normalize(torch.ones(1, 1), torch.ones(1, 1, dtype=torch.int64), "token")


def test_mini_batch_without_ids():
    with pytest.raises(ValueError, match=r"needs mini_batch_ids of shape \(B,\)"):
        normalize(torch.ones(1, 1), torch.ones(1, 1, dtype=torch.int64), "mini_batch")


def test_shapes_that_differ_are_both_named():
    roles = torch.ones(2, 4, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"weights has shape \(2, 3\) and token_roles has shape \(2, 4\)"):
        normalize(torch.ones(2, 3), roles)
    with pytest.raises(ValueError, match=r"mini_batch_ids has shape \(3,\) and token_roles has shape \(2, 4\)"):
        normalize(torch.ones(2, 4), roles, "mini_batch", torch.zeros(3, dtype=torch.int64))


@pytest.mark.parametrize("junk", [math.nan, math.inf, -1.0])
def test_unusable_weights_on_response_tokens(junk):
    weights, roles = torch.ones(3, 2), torch.tensor([[R, A], [A, E], [F, R]])
    weights[0] = weights[2, 1] = junk
    with pytest.raises(ValueError, match="negative, NaN or infinite at 3 tokens in 2 rows"):
        normalize(weights, roles)
