"""credit_metrics: numbers by hand, masks, empty roles. And the diagnostic: prompt groups and their correlations."""

import math

import pytest
import torch

from actfocus_verl.credit.diagnostics import PromptGroups, credit_metrics, group_metrics, prompt_groups
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


class TestPromptGroups:
    # Group 4: episodes 0 and 3, group 9: episode 2, group 7: episodes 1 and 4. Row 5 is padding that clones group 4.
    ROLES = torch.tensor([[R, A, E, F], [A, E, E, E], [R, R, A, E], [R, R, A, A], [R, R, E, E], [A, A, A, A]])
    ENERGY = torch.tensor(
        [
            [-1.0, -4.0, NAN, -7.0],
            [-8.0, NAN, math.inf, NAN],
            [-1.0, -1.0, -1.0, NAN],
            [-2.0, -3.0, -5.0, -6.0],
            [-4.0, -6.0, NAN, NAN],
            [NAN, NAN, NAN, NAN],
        ]
    )
    RETURNS = torch.tensor([1.0, 0.5, 3.0, 0.0, 0.5, NAN])
    GROUPS = torch.tensor([4, 7, 9, 4, 7, 4])
    VALID = torch.tensor([True] * 5 + [False])

    def found(self, order=None, **changes):
        order = torch.arange(6) if order is None else order
        columns = {"token_roles": self.ROLES[order]} | changes
        arguments = (column[order] for column in (self.RETURNS, self.GROUPS, self.VALID))
        return prompt_groups(self.ENERGY[order], columns, *arguments)

    def test_by_hand(self):
        groups = self.found()
        assert groups.ids.tolist() == [4, 7, 9]
        assert groups.sizes.tolist() == [2, 2, 1]
        # group 4: all (-1-4-7-2-3-5-6)/7 = -4, reasoning (-1-2-3)/3 = -2, action (-4-5-6)/3 = -5
        # group 7: all (-8-4-6)/3 = -6, reasoning -5, action -8; group 9: all, reasoning and action -1
        assert groups.means["all"].tolist() == [-4.0, -6.0, -1.0]
        assert groups.means["reasoning"].tolist() == [-2.0, -5.0, -1.0]
        assert groups.means["action"].tolist() == [-5.0, -8.0, -1.0]
        # returns 1 and 0: sqrt(0.25 + 0.25) = 0.7071; 0.5 twice: 0; one episode: none
        assert groups.return_std.tolist()[:2] == pytest.approx([0.70710678, 0.0])
        assert math.isnan(groups.return_std[2])

    def test_equal_spreads_are_equal_to_the_bit(self):
        # k and 7 - k successes of 7, in all orders of arrival
        returns = torch.tensor([[float(n < k) for n in range(7)] for k in range(8)] * 2)
        returns[8:] = returns[8:].flip(1)
        roles = torch.full((112, 1), A)
        groups = prompt_groups(
            torch.zeros(112, 1), {"token_roles": roles}, returns.flatten(), torch.arange(16).repeat_interleave(7)
        )
        assert len(set(groups.return_std.tolist())) == 4
        assert len({float(row.double().numpy().std(ddof=1)) for row in returns}) > 4  # what rounding would make of them

    def test_the_order_of_rows_does_not_matter(self):
        one, other = self.found(), self.found(torch.tensor([5, 2, 4, 0, 3, 1]))
        assert torch.equal(one.ids, other.ids)
        assert all(torch.equal(one.means[part], other.means[part]) for part in one.means)
        assert torch.equal(one.return_std[:2], other.return_std[:2])

    def test_masked_tokens_are_in_no_mean(self):
        mask = (self.ROLES != E).long()
        mask[3, 2:] = 0  # the last two action tokens of group 4
        groups = self.found(response_mask=mask)
        assert groups.means["action"].tolist() == [-4.0, -8.0, -1.0]
        assert groups.means["all"].tolist() == pytest.approx([-17 / 5, -6.0, -1.0])

    def test_a_part_without_a_token_has_no_mean(self):
        groups = self.found(token_roles=torch.where(self.ROLES == A, F, self.ROLES))
        assert groups.means["action"].isnan().tolist() == [True, True, True]
        assert groups.means["all"].tolist() == [-4.0, -6.0, -1.0]

    def test_shapes_that_differ(self):
        with pytest.raises(ValueError, match="signal has shape"):
            prompt_groups(torch.ones(6, 5), {"token_roles": self.ROLES}, self.RETURNS, self.GROUPS)
        with pytest.raises(ValueError, match="returns has shape"):
            prompt_groups(self.ENERGY, {"token_roles": self.ROLES}, self.RETURNS[:3], self.GROUPS)


def ranks(values):
    """Mean ranks by counting what is smaller and what is equal."""
    return [sum(o < v for o in values) + (sum(o == v for o in values) + 1) / 2 for v in values]


def slow_spearman(x, y):
    a, b = ranks(x), ranks(y)
    mean_a, mean_b = sum(a) / len(a), sum(b) / len(b)
    covariance = sum((i - mean_a) * (j - mean_b) for i, j in zip(a, b, strict=True))
    return covariance / math.sqrt(sum((i - mean_a) ** 2 for i in a) * sum((j - mean_b) ** 2 for j in b))


class TestGroupMetrics:
    def groups(self, energies, spreads, sizes=None):
        means = {part: torch.tensor(energies[part], dtype=torch.float64) for part in ("all", "reasoning", "action")}
        sizes = torch.tensor(sizes or [8] * len(spreads))
        return PromptGroups(torch.arange(len(spreads)), sizes, means, torch.tensor(spreads, dtype=torch.float64))

    def test_against_counted_ranks(self):
        generator = torch.Generator().manual_seed(0)
        spreads = (torch.rand(12, generator=generator) * 4).round().tolist()  # with ties
        energies = {part: torch.randn(12, generator=generator).tolist() for part in ("all", "reasoning", "action")}
        metrics = group_metrics(self.groups(energies, spreads))
        assert metrics.pop("diagnose/groups") == 12.0
        assert metrics == pytest.approx(
            {f"diagnose/spearman_{part}": slow_spearman(energies[part], spreads) for part in energies}
        )
        assert {type(value) for value in metrics.values()} == {float}

    def test_groups_without_a_mean_or_a_spread_are_left_out(self):
        energies = {
            "all": [1.0, 2.0, 3.0, 4.0, 0.0],
            "reasoning": [1.0, NAN, 3.0, 4.0, 0.0],
            "action": [NAN, NAN, 2.0, 1.0, 0.0],
        }
        metrics = group_metrics(self.groups(energies, [0.1, 0.2, 0.4, 0.3, NAN], [8, 8, 8, 8, 1]))
        # all: ranks 1 2 3 4 against 1 2 4 3: 1 - 6 * 2 / (4 * 15) = 0.8; reasoning: 1 2 3 against 1 3 2: 0.5
        # action: two groups are left, too few
        assert metrics == pytest.approx(
            {"diagnose/groups": 4.0, "diagnose/spearman_all": 0.8, "diagnose/spearman_reasoning": 0.5}
        )

    @pytest.mark.parametrize("spreads", [[0.0, 0.0, 0.0], [0.5], []])
    def test_what_is_undefined_is_left_out(self, spreads):
        energies = {part: [-float(n) for n in range(len(spreads))] for part in ("all", "reasoning", "action")}
        assert group_metrics(self.groups(energies, spreads)) == {"diagnose/groups": float(len(spreads))}
