"""Weights by what the policy thinks of its tokens in hindsight: by hand, against a loop, and bad input."""

import math

import pytest
import torch

from actfocus_verl.credit.hindsight import check_hindsight, has_faded, hindsight
from actfocus_verl.credit.registry import build_weighting
from actfocus_verl.credit.token_weights import compute_token_credit
from actfocus_verl.errors import ConfigurationError
from tests.credit.test_choices import random_columns
from tests.helpers import slow_weightings

NAN = math.nan
ROLES = torch.tensor([[1, 2, 2, 2, 2, 3, 0]])
ONE = torch.ones(1)


def test_weights_by_hand():
    """Ratios 2, 1 / 1.1, 1 and 1.1, of which the first is clipped; half of what is left counts."""
    advantages = torch.tensor([[NAN, 3.0, 0.5, 0.0, -2.0, NAN, NAN]])
    shifts = [NAN, math.log(2.0), -math.log(1.1), 5.0, -math.log(1.1), NAN, NAN]
    old = torch.full((1, 7), -7.0)
    weights = hindsight(advantages, old, old + torch.tensor([shifts]), ROLES, 0.5 * ONE)
    expected = [1.0, 1.1, 0.5 + 0.5 / 1.1, 1.0, 1.05, 1.0, 0.0]
    torch.testing.assert_close(weights, torch.tensor([expected]))


@pytest.mark.parametrize("tokens", ["action", "all"])
@pytest.mark.parametrize(("decay_steps", "step"), [(None, 7), (10, 1), (10, 7), (10, 12)])
def test_weights_against_a_loop(tokens, decay_steps, step):
    columns = random_columns(9) | {"training_step": torch.full((6,), step)}
    options = {"lam": 0.8, "clip": 0.3, "tokens": tokens, "decay_steps": decay_steps}
    spec = build_weighting({"name": "hindsight", "normalize": "none", **options})
    found = compute_token_credit(columns, spec).weights
    names = ("advantages", "old_log_probs", "hindsight_log_probs", "token_roles")
    lam = 0.8 * (1.0 if decay_steps is None else max(0.0, 1 - (step - 1) / decay_steps))
    expected = slow_weightings.hindsight(
        *(columns[name].double().tolist() for name in names), lam=lam, clip=0.3, every=tokens == "all"
    )
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-5, atol=1e-6)
    assert (len(found.unique()) == 2) == (lam == 0)
    assert has_faded(spec.params, step) == (lam == 0)


def test_numbers_of_a_public_implementation():
    """Recorded from `_build_stgca_advantages` of a public RLSD trainer built on EasyR1 (lambda 0.5, clip range 0.2)."""
    with_hint = torch.tensor([[-1.2, -0.3, -2.5, -0.9, -0.01], [-0.7, -3.1, -0.2, -1.6, -0.4]])
    without = torch.tensor([[-1.0, -0.5, -2.0, -0.95, -0.3], [-0.72, -2.9, -0.9, -1.6, -0.1]])
    advantages = torch.tensor([[1.5], [-0.5]]).expand(2, 5)
    roles = torch.tensor([[1, 1, 2, 3, 0], [1, 2, 2, 3, 3]])
    weights = hindsight(advantages, without, with_hint, roles, torch.full((2,), 0.5), tokens="all")
    recorded = [
        [1.364048, 1.65, 1.35, 1.538453, 0],
        [-0.4950497, -0.55, -0.45, -0.5, -0.55],
    ]
    torch.testing.assert_close(advantages * weights, torch.tensor(recorded), rtol=0, atol=1e-6)


def test_a_large_shift_is_clipped_and_not_infinite():
    big = torch.full((1, 7), 1e4)
    weights = hindsight(torch.ones(1, 7), torch.zeros(1, 7), big, ROLES, ONE, tokens="all")
    torch.testing.assert_close(weights, torch.tensor([[1.2] * 6 + [0.0]]))


@pytest.mark.parametrize("place", range(3))
def test_nan_at_a_token_that_is_read_is_refused(place):
    columns = [torch.zeros(1, 7) for _ in range(3)]
    columns[place][0, 2] = NAN
    name = ("advantages", "old_log_probs", "hindsight_log_probs")[place]
    with pytest.raises(ValueError, match=f"{name} is NaN or infinite at ACTION tokens: 1 tokens in 1 rows"):
        hindsight(*columns, ROLES, ONE)
    columns[place] = torch.where(ROLES == 2, 0.0, NAN)
    assert torch.equal(hindsight(*columns, ROLES, ONE), (ROLES > 0).float())


def test_what_is_read_follows_from_the_parameters():
    read = ("advantages", "old_log_probs", "hindsight_log_probs")
    for options, columns in (({}, (*read, "training_step")), ({"decay_steps": None}, read), ({"lam": 0}, ())):
        assert build_weighting({"name": "hindsight", **options}).required_columns == columns


@pytest.mark.parametrize(
    ("key", "value"), [("lam", 1.5), ("lam", -0.1), ("clip", 2), ("tokens", "format"), ("decay_steps", 0)]
)
def test_parameters_out_of_range_are_refused(key, value):
    options = {"lam": 0.5, "clip": 0.2, "tokens": "action", "decay_steps": 50}
    check_hindsight(**options)
    with pytest.raises(ConfigurationError, match=f"{key}="):
        check_hindsight(**options | {key: value})
