"""credit_metrics: numbers by hand, masks, empty roles."""

import math

import pytest
import torch

from actfocus_verl.credit.diagnostics import credit_metrics
from actfocus_verl.credit.tokens import TokenRole

E, R, A, F = (int(role) for role in TokenRole)
NAN = math.nan

# Response tokens of the two valid rows: reasoning 0.5, 0.5; action 2, 1; format 1. N = 5, sum w = 5.
# ESS: 25 / (0.25 + 0.25 + 4 + 1 + 1) = 25 / 6.5 = 3.8461538; over N: 0.7692308.
WEIGHTS = torch.tensor([[0.5, 2.0, 1.0, 0.0], [0.5, 1.0, 0.0, 0.0], [NAN, NAN, NAN, NAN]])
ROLES = torch.tensor([[R, A, F, E], [R, A, E, E], [A, A, A, A]])
VALID = torch.tensor([True, True, False])


def test_numbers_by_hand():
    assert credit_metrics(WEIGHTS, {"token_roles": ROLES}, valid_rows=VALID) == pytest.approx(
        {
            "credit/action_token_share": 0.4,
            "credit/effective_sample_size": 0.7692308,
            "credit/mean_weight/reasoning": 0.5,
            "credit/mean_weight/action": 1.5,
            "credit/mean_weight/format": 1.0,
            "credit/gradient_mass/reasoning": 0.2,
            "credit/gradient_mass/action": 0.6,
            "credit/gradient_mass/format": 0.2,
        }
    )


def test_gradient_mass_with_advantages_by_hand():
    # w|A|: reasoning 0.5*2 + 0.5*4 = 3; action 2*2 + 1*4 = 8; format 1*2 = 2. Total 13.
    advantages = torch.tensor([[2.0, 2.0, 2.0, NAN], [-4.0, -4.0, NAN, NAN], [NAN, NAN, NAN, NAN]])
    metrics = credit_metrics(WEIGHTS, {"token_roles": ROLES}, advantages, VALID)
    assert metrics["credit/gradient_mass/reasoning"] == pytest.approx(3 / 13)
    assert metrics["credit/gradient_mass/action"] == pytest.approx(8 / 13)
    assert metrics["credit/gradient_mass/format"] == pytest.approx(2 / 13)


def test_every_signal_that_is_there_has_quantiles():
    roles = torch.tensor([[A, A, A, R, E]])
    columns = {"token_roles": roles, "reference_entropy": torch.tensor([[1.0, 2.0, 3.0, 0.5, NAN]])}
    metrics = credit_metrics(torch.ones(1, 5), columns)
    assert metrics["credit/reference_entropy/action/p50"] == 2.0
    assert metrics["credit/reference_entropy/reasoning/p90"] == 0.5
    assert not any(name.startswith(("credit/energy/", "credit/gauge")) for name in metrics)


def test_energy_quantiles_by_hand():
    # Action energies -10, ..., 0 (eleven values): p10 = -9, p50 = -5, p90 = -1. One reasoning token: all equal to it.
    # The format tokens' energies are not finite, so they have no quantile.
    energy = torch.tensor([[*(float(value) for value in range(-10, 1)), -33.5, NAN, math.inf, NAN]])
    roles = torch.tensor([[A] * 11 + [R, F, F, E]])
    metrics = credit_metrics(torch.ones(1, 15), {"token_roles": roles, "energy": energy})
    quantiles = {name: value for name, value in metrics.items() if name.startswith("credit/energy/")}
    assert quantiles == pytest.approx(
        {
            "credit/energy/action/p10": -9.0,
            "credit/energy/action/p50": -5.0,
            "credit/energy/action/p90": -1.0,
            "credit/energy/reasoning/p10": -33.5,
            "credit/energy/reasoning/p50": -33.5,
            "credit/energy/reasoning/p90": -33.5,
        }
    )


def test_equal_weights_have_a_full_sample_size():
    roles = torch.randint(0, 4, (4, 9))
    assert credit_metrics((roles != E).float() * 0.3, {"token_roles": roles})[
        "credit/effective_sample_size"
    ] == pytest.approx(1.0)


def test_masked_tokens_are_in_no_metric():
    roles, mask = torch.tensor([[R, A, A, F]]), torch.tensor([[1, 1, 0, 0]])
    weights, energy = torch.tensor([[1.0, 3.0, NAN, NAN]]), torch.tensor([[-1.0, -2.0, NAN, NAN]])
    metrics = credit_metrics(weights, {"token_roles": roles, "response_mask": mask, "energy": energy})
    assert metrics == pytest.approx(
        {
            "credit/action_token_share": 0.5,
            "credit/effective_sample_size": 0.8,  # 16 / 10 / 2
            "credit/mean_weight/reasoning": 1.0,
            "credit/mean_weight/action": 3.0,
            "credit/gradient_mass/reasoning": 0.25,
            "credit/gradient_mass/action": 0.75,
            "credit/gradient_mass/format": 0.0,
            **{f"credit/energy/reasoning/p{q}": -1.0 for q in (10, 50, 90)},
            **{f"credit/energy/action/p{q}": -2.0 for q in (10, 50, 90)},
        }
    )


@pytest.mark.parametrize("roles", [torch.zeros(2, 3, dtype=torch.int64), torch.zeros(0, 3, dtype=torch.int64)])
def test_nothing_to_report_is_zero_and_never_nan(roles):
    energy = torch.full(roles.shape, NAN)
    metrics = credit_metrics(energy, {"token_roles": roles, "energy": energy}, energy)
    assert metrics == {
        "credit/action_token_share": 0.0,
        "credit/effective_sample_size": 0.0,
        "credit/gradient_mass/reasoning": 0.0,
        "credit/gradient_mass/action": 0.0,
        "credit/gradient_mass/format": 0.0,
    }


def test_zero_weights_and_zero_advantages():
    columns = {"token_roles": torch.tensor([[R, A]])}
    zero_weights = credit_metrics(torch.zeros(1, 2), columns)
    assert zero_weights["credit/effective_sample_size"] == 0.0
    assert zero_weights["credit/gradient_mass/action"] == 0.0
    assert credit_metrics(torch.ones(1, 2), columns, torch.zeros(1, 2))["credit/gradient_mass/action"] == 0.0


def test_values_are_plain_floats():
    metrics = credit_metrics(WEIGHTS, {"token_roles": ROLES, "energy": torch.zeros(3, 4)}, torch.ones(3, 4), VALID)
    assert {type(value) for value in metrics.values()} == {float}


def test_shapes_that_differ_are_both_named():
    for weights, advantages in ((torch.ones(3, 5), None), (WEIGHTS, torch.ones(3, 5))):
        with pytest.raises(ValueError, match=r"has shape \(3, 5\) and token_roles has shape \(3, 4\)"):
            credit_metrics(weights, {"token_roles": ROLES}, advantages, VALID)
