"""The placebo: every role keeps its weights, and the tokens that have them are left to the seed."""

import math

import pytest
import torch

from actfocus_verl.credit.placebo import shuffle_within_roles
from actfocus_verl.credit.registry import Definition, WeightingSpec, build_weighting
from actfocus_verl.credit.token_weights import compute_token_credit
from actfocus_verl.credit.tokens import RESPONSE_ROLES, TokenRole

E, R, A, F = (int(role) for role in TokenRole)
PLACEBO = build_weighting({"name": "actfocus", "placebo": True})
PLAIN = build_weighting({"name": "actfocus"})


def random_columns(seed=0, rows=8, tokens=40):
    generator = torch.Generator().manual_seed(seed)
    roles = torch.randint(0, 4, (rows, tokens), generator=generator)
    energy = torch.randn(rows, tokens, generator=generator) - 36
    return {"token_roles": roles, "energy": energy, "response_mask": (roles != E).long()}


def test_each_role_keeps_its_values_and_other_tokens_keep_their_place():
    columns = random_columns()
    values, roles = columns["energy"], columns["token_roles"]
    before = values.clone()
    shuffled = shuffle_within_roles(values, roles, (0, 1))
    assert torch.equal(values, before)
    assert torch.equal(shuffled[roles == E], values[roles == E])
    for role in RESPONSE_ROLES:
        mine = roles == role
        assert torch.equal(shuffled[mine].sort().values, values[mine].sort().values)
        assert float((shuffled[mine] != values[mine]).float().mean()) > 0.8


def test_the_seed_alone_decides():
    values, roles = random_columns()["energy"], random_columns()["token_roles"]
    torch.manual_seed(1)
    first = shuffle_within_roles(values, roles, (3, 7))
    torch.manual_seed(2)
    assert torch.equal(shuffle_within_roles(values, roles, (3, 7)), first)
    for other in ((3, 8), (4, 7), (7, 3)):  # another step, another run, and not merely their sum
        assert not torch.equal(shuffle_within_roles(values, roles, other), first)


def test_every_token_may_get_every_weight():
    """Over 600 seeds each of the 6 orders of three tokens comes about 100 times: a deviation of 50 is 5.5 sigma."""
    roles, values = torch.tensor([[A, E, A], [R, A, E]]), torch.tensor([[1.0, 0, 2], [9, 3, 0]])
    seen = {}
    for seed in range(600):
        shuffled = shuffle_within_roles(values, roles, (seed,))
        order = tuple(shuffled[roles == A].tolist())
        seen[order] = seen.get(order, 0) + 1
    assert len(seen) == 6
    assert all(abs(count - 100) < 50 for count in seen.values())


def test_weights_are_those_of_the_method_in_another_place():
    columns = random_columns(1)
    roles = columns["token_roles"]
    plain, placebo = (compute_token_credit(columns, spec, placebo_seed=(5,)).weights for spec in (PLAIN, PLACEBO))
    assert not torch.equal(plain, placebo)
    for role in (E, R, A, F):
        assert torch.equal(plain[roles == role].sort().values, placebo[roles == role].sort().values)


@pytest.mark.parametrize("junk", [math.nan, math.inf])
def test_padding_rows_and_masked_tokens_take_no_part(junk):
    columns = random_columns(2)
    expected = compute_token_credit(columns, PLACEBO).weights
    padding = {
        "token_roles": torch.full((1, 40), A),
        "energy": torch.full((1, 40), junk),
        "response_mask": torch.ones(1, 40, dtype=torch.int64),
    }
    padded = {name: torch.cat((padding[name], column, padding[name])) for name, column in columns.items()}
    valid = torch.tensor([False] + [True] * 8 + [False])
    found = compute_token_credit(padded, PLACEBO, valid_rows=valid).weights
    assert torch.equal(found[1:-1], expected)
    assert not found[0].any()

    # masking the last tokens is the same as their not being there
    masked = columns | {"response_mask": columns["response_mask"].clone(), "energy": columns["energy"].clone()}
    masked["response_mask"][:, 30:], masked["energy"][:, 30:] = 0, junk
    short = {name: column[:, :30] for name, column in columns.items()}
    found = compute_token_credit(masked, PLACEBO).weights
    assert torch.equal(found[:, :30], compute_token_credit(short, PLACEBO).weights)
    assert not found[:, 30:].any()


def test_a_mini_batch_is_normalised_after_the_shuffle():
    columns = random_columns(3)
    spec = build_weighting({"name": "actfocus", "placebo": True, "normalize": "mini_batch"})
    ids = torch.tensor([0, 0, 0, 1, 1, 1, 1, 1])
    weights = compute_token_credit(columns, spec, mini_batch_ids=ids).weights
    for label in (0, 1):
        rows = ids == label
        assert float(weights[rows][columns["token_roles"][rows] != E].mean()) == pytest.approx(1.0, rel=1e-6)


def test_a_shift_goes_where_its_weight_goes():
    columns = random_columns(4)
    pair = WeightingSpec("own", Definition(lambda c: (c["energy"] + 50, c["energy"])), {}, "none", (), placebo=True)
    weights, shift = compute_token_credit(columns, pair)
    response = columns["token_roles"] != E
    torch.testing.assert_close(weights[response] - 50, shift[response], rtol=0, atol=1e-4)
    assert not torch.equal(shift[response], columns["energy"][response])
    assert not shift[~response].any()


def test_equal_weights_know_no_placebo():
    columns = random_columns(5)
    spec = build_weighting({"name": "uniform", "placebo": True})
    assert torch.equal(compute_token_credit(columns, spec).weights, columns["response_mask"].float())
