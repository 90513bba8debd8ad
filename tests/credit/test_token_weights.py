"""compute_token_weights: what the trainer gets, padding rows and masks, one's own weightings, errors."""

import math

import pytest
import torch

from actfocus_verl.credit.registry import Definition, WeightingSpec, build_weighting
from actfocus_verl.credit.token_weights import compute_token_credit, compute_token_weights
from actfocus_verl.credit.tokens import TokenRole

E, R, A, F = (int(role) for role in TokenRole)
ACTFOCUS = build_weighting({"name": "actfocus"})
ACTFOCUS_MINI = build_weighting({"name": "actfocus", "normalize": "mini_batch"})
UNIFORM = build_weighting({"name": "uniform"})


def own(function, required_columns=()):
    return WeightingSpec("own", Definition(function), {}, "batch", tuple(required_columns))


def random_columns(seed=0, rows=6, tokens=10):
    generator = torch.Generator().manual_seed(seed)
    roles = torch.randint(0, 4, (rows, tokens), generator=generator)
    energy = torch.randn(rows, tokens, generator=generator) - 36
    return {"token_roles": roles, "energy": energy, "response_mask": (roles != E).long()}


def test_actfocus_by_hand():
    # Action energies -1 and -3, eps negligible against the variance 1: z = 1, -1; sigmoid 0.7310586, 0.2689414.
    # Raw weights 0.1, 1.3655293, 0.1 | 1.1344707; sum 2.7, 4 response tokens: factor 1.4814815.
    columns = {
        "token_roles": torch.tensor([[R, A, F, E], [E, A, E, E]]),
        "energy": torch.tensor([[0.0, -1.0, 0.0, 0.0], [0.0, -3.0, 0.0, 0.0]]),
    }
    expected = torch.tensor([[0.1481481, 2.0230064, 0.1481481, 0.0], [0.0, 1.6806973, 0.0, 0.0]])
    weights = compute_token_weights(columns, ACTFOCUS)
    assert weights.dtype is torch.float32
    torch.testing.assert_close(weights, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("seed", range(4))
def test_against_the_loop(oracle, seed):
    columns = random_columns(seed)
    roles, ids = columns["token_roles"].tolist(), [0, 1, 0, 2, 2, 1]
    raw = oracle.actfocus(columns["energy"].double().tolist(), roles)
    torch.testing.assert_close(
        compute_token_weights(columns, ACTFOCUS), torch.tensor(oracle.normalize(raw, roles, [0] * 6))
    )
    torch.testing.assert_close(
        compute_token_weights(columns, ACTFOCUS_MINI, mini_batch_ids=torch.tensor(ids)),
        torch.tensor(oracle.normalize(raw, roles, ids)),
    )


def test_neutral_settings_are_exactly_one():
    columns = random_columns(1)
    neutral = build_weighting({"name": "actfocus", "alpha": 1, "beta": 0})
    expected = columns["response_mask"].float()
    del columns["energy"]  # no reference pass in either case
    assert torch.equal(compute_token_weights(columns, UNIFORM), expected)
    assert torch.equal(compute_token_weights(columns, neutral), expected)


@pytest.mark.parametrize("weighting", [ACTFOCUS, ACTFOCUS_MINI, UNIFORM])
def test_permuting_rows_permutes_weights(weighting):
    columns = random_columns(2)
    ids, order = torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor([3, 1, 5, 0, 4, 2])
    shuffled = {name: column[order] for name, column in columns.items()}
    torch.testing.assert_close(
        compute_token_weights(shuffled, weighting, mini_batch_ids=ids[order]),
        compute_token_weights(columns, weighting, mini_batch_ids=ids)[order],
        rtol=1e-6,
        atol=0,
    )


# --- padding rows and masks


@pytest.mark.parametrize("weighting", [ACTFOCUS, ACTFOCUS_MINI, UNIFORM])
@pytest.mark.parametrize("junk", [math.nan, math.inf, 1e9])
def test_padding_rows_are_in_no_statistic(weighting, junk):
    columns = random_columns(3)
    ids = torch.tensor([0, 0, 1, 1, 2, 2])
    padding = {
        "token_roles": torch.full((2, 10), A),  # as if copied from a real row
        "energy": torch.full((2, 10), junk),
        "response_mask": torch.ones(2, 10, dtype=torch.int64),
    }
    padded = {name: torch.cat((padding[name][:1], column, padding[name][1:])) for name, column in columns.items()}
    valid = torch.tensor([False] + [True] * 6 + [False])
    padded_ids = torch.tensor([0, *ids.tolist(), 99])
    weights = compute_token_weights(padded, weighting, valid_rows=valid, mini_batch_ids=padded_ids)
    assert torch.equal(weights[1:-1], compute_token_weights(columns, weighting, mini_batch_ids=ids))
    assert not weights[0].any()
    assert not weights[-1].any()


def test_all_rows_are_padding():
    columns = random_columns(4)
    weights = compute_token_weights(columns, ACTFOCUS, valid_rows=torch.zeros(6, dtype=torch.bool))
    assert torch.equal(weights, torch.zeros(6, 10))


def test_masked_tokens_count_as_environment():
    columns = random_columns(5)
    masked = columns["token_roles"].clone()
    masked[:, 7:] = E
    expected = compute_token_weights(columns | {"token_roles": masked, "response_mask": (masked != E).long()}, ACTFOCUS)
    columns["response_mask"][:, 7:] = 0
    columns["energy"][:, 7:] = math.nan
    assert torch.equal(compute_token_weights(columns, ACTFOCUS), expected)


def test_junk_on_masked_tokens_reaches_nothing():
    columns = random_columns(6)
    dirty = columns | {"energy": torch.where(columns["token_roles"] == A, columns["energy"], math.nan)}
    assert torch.equal(compute_token_weights(dirty, ACTFOCUS), compute_token_weights(columns, ACTFOCUS))


def test_columns_are_left_as_they_were():
    columns = random_columns(7)
    before = {name: column.clone() for name, column in columns.items()}
    compute_token_weights(columns, ACTFOCUS, valid_rows=torch.tensor([True] * 5 + [False]))
    assert all(torch.equal(columns[name], column) for name, column in before.items())
    assert set(columns) == set(before)


def test_no_action_token_and_alpha_zero_gives_no_gradient():
    columns = {"token_roles": torch.tensor([[R, F, E]]), "energy": torch.full((1, 3), math.nan)}
    action_only = build_weighting({"name": "actfocus", "alpha": 0})
    assert compute_token_weights(columns, action_only).tolist() == [[0, 0, 0]]


# --- one's own


def test_own_weighting_may_leave_junk_outside_the_response():
    columns = random_columns(8)
    columns["energy"][columns["token_roles"] == E] = math.nan
    weights = compute_token_weights(columns, own(lambda c: -c["energy"], ["energy"]))
    response = columns["token_roles"] != E
    assert float(weights[response].mean()) == pytest.approx(1.0)
    assert not weights[~response].any()


def test_own_weighting_may_ask_whether_a_column_is_there():
    def by_energy(columns):
        assert columns.get("entropy") is None
        assert "energy" in columns
        assert sorted(columns) == ["energy", "response_mask", "token_roles"]
        return columns.get("energy") ** 2

    columns = random_columns(13)
    assert compute_token_weights(columns, own(by_energy)).shape == (6, 10)


def test_own_weighting_sees_no_padding_row():
    columns = random_columns(9)
    shapes = []
    weighting = own(lambda c: shapes.append(c["energy"].shape) or torch.ones_like(c["energy"]))
    compute_token_weights(columns, weighting, valid_rows=torch.tensor([True, False] * 3))
    assert shapes == [(3, 10)]


def test_own_weighting_reading_an_undeclared_column_is_told_how_to_get_it():
    columns = {"token_roles": torch.tensor([[A]])}
    with pytest.raises(
        ValueError, match=r"reads the column 'energy', the batch has token_roles; .* required_columns=\('en"
    ):
        compute_token_weights(columns, own(lambda c: c["energy"]))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda c: None, r"the result of weighting own is a NoneType; it must be a \(B, T\) tensor"),
        (lambda c: torch.ones(6), r"the result of weighting own has shape \(6,\) and token_roles has shape \(6, 10\)"),
        (lambda c: -torch.ones(6, 10), r"token weights are negative, NaN or infinite at \d+ tokens in 6 rows"),
    ],
)
def test_unusable_results_of_own_weightings(function, message):
    with pytest.raises(ValueError, match=message):
        compute_token_weights(random_columns(), own(function))


# --- a shift of the advantages


def test_without_a_shift_the_advantages_are_left_alone():
    for spec in (UNIFORM, ACTFOCUS):
        assert compute_token_credit(random_columns(10), spec).advantage_shift is None


def test_a_shift_is_zero_on_padding_rows_and_masked_tokens():
    columns = random_columns(11)
    columns["energy"][columns["token_roles"] == E] = math.nan
    valid = torch.tensor([False] + [True] * 5)
    pair = own(lambda c: (torch.ones_like(c["energy"]), c["energy"]), ["energy"])
    weights, shift = compute_token_credit(columns, pair, valid_rows=valid)
    used = (columns["token_roles"] != E) & valid.unsqueeze(1)
    assert torch.equal(weights, used.float())
    assert torch.equal(shift, torch.where(used, columns["energy"], 0.0))


@pytest.mark.parametrize("junk", [math.nan, math.inf])
def test_an_unusable_shift(junk):
    columns = random_columns(12)
    columns["token_roles"][0, 0], columns["response_mask"][0, 0], columns["energy"][0, 0] = R, 1, junk
    message = "the advantage shift of weighting own is NaN or infinite at sampled tokens: 1 tokens in 1 rows"
    with pytest.raises(ValueError, match=message):
        compute_token_credit(columns, own(lambda c: (torch.ones_like(c["energy"]), c["energy"])))
    with pytest.raises(ValueError, match=r"the advantage shift of weighting own has shape \(6,\) and token_roles has"):
        compute_token_credit(columns, own(lambda c: (torch.ones_like(c["energy"]), torch.ones(6))))


# --- errors


def test_missing_columns_are_named():
    with pytest.raises(ValueError, match=r"credit.name=actfocus needs the columns energy, the batch has token_roles"):
        compute_token_weights({"token_roles": torch.tensor([[A]])}, ACTFOCUS)
    with pytest.raises(ValueError, match=r"credit.name=uniform needs the columns token_roles, the batch has energy"):
        compute_token_weights({"energy": torch.zeros(1, 1)}, UNIFORM)


def test_mini_batch_without_ids():
    with pytest.raises(ValueError, match="needs mini_batch_ids"):
        compute_token_weights(random_columns(), ACTFOCUS_MINI)


def test_shapes_that_differ_are_both_named():
    columns = random_columns()
    with pytest.raises(ValueError, match=r"valid_rows has shape \(5,\) and token_roles has shape \(6, 10\)"):
        compute_token_weights(columns, ACTFOCUS, valid_rows=torch.ones(5, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"mini_batch_ids has shape \(5,\) and token_roles has shape \(6, 10\)"):
        compute_token_weights(columns, ACTFOCUS_MINI, mini_batch_ids=torch.zeros(5, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"signal has shape \(6, 9\) and token_roles has shape \(6, 10\)"):
        compute_token_weights(columns | {"energy": columns["energy"][:, :9]}, ACTFOCUS)
    with pytest.raises(ValueError, match=r"response_mask has shape \(6, 9\) and token_roles has shape \(6, 10\)"):
        compute_token_weights(columns | {"response_mask": columns["response_mask"][:, :9]}, ACTFOCUS)


def test_sampled_environment_tokens_are_a_contradiction():
    columns = {"token_roles": torch.tensor([[A, E], [R, E]]), "response_mask": torch.tensor([[1, 1], [1, 1]])}
    with pytest.raises(
        ValueError, match="response_mask marks 2 tokens in 2 rows as sampled, but their role is ENVIRONMENT"
    ):
        compute_token_weights(columns, UNIFORM)
