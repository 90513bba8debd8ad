"""uniform, actfocus with each signal, action_only: the arithmetic, the edge cases, the errors."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from actfocus_verl.credit.registry import build_weighting
from actfocus_verl.credit.tokens import TokenRole
from actfocus_verl.credit.weighting import ACTFOCUS_SIGNALS, actfocus, uniform
from actfocus_verl.errors import ConfigurationError

E, R, A, F = (int(role) for role in TokenRole)
NAN, INF = math.nan, math.inf


def sigmoid(x):
    return 1.0 / (1.0 + math.exp(-x))


def test_uniform_is_one_on_every_sampled_token():
    weights = uniform(torch.tensor([[E, R, A], [F, E, R]]))
    assert weights.dtype is torch.float32
    assert weights.tolist() == [[0, 1, 1], [1, 0, 1]]


def test_actfocus_by_hand():
    # Action energies -1, -3, -2, -2: mean -2, population variance (1 + 1 + 0 + 0) / 4 = 0.5, so with eps = 0.5
    # sigma = sqrt(0.5 + 0.5) = 1 and z = 1, -1, 0, 0: weights 1 + 0.5 * sigmoid(z).
    roles = torch.tensor([[F, R, A, A, E], [R, A, F, A, E]])
    signal = torch.tensor([[-9.0, -8.0, -1.0, -3.0, -7.0], [-6.0, -2.0, -5.0, -2.0, -4.0]])
    expected = torch.tensor(
        [
            [0.1, 0.1, 1 + 0.5 * sigmoid(1.0), 1 + 0.5 * sigmoid(-1.0), 0.0],
            [0.1, 1.25, 0.1, 1.25, 0.0],
        ]
    )
    weights = actfocus(signal, roles, eps=0.5)
    assert weights.dtype is torch.float32
    torch.testing.assert_close(weights, expected)


def test_format_weight_moves_tags_only():
    roles = torch.tensor([[F, R, E, F]])
    signal = torch.zeros(1, 4)
    torch.testing.assert_close(actfocus(signal, roles, format_weight=0.7), torch.tensor([[0.7, 0.1, 0.0, 0.7]]))
    torch.testing.assert_close(actfocus(signal, roles, format_weight=0.0), torch.tensor([[0.0, 0.1, 0.0, 0.0]]))
    assert torch.equal(actfocus(signal, roles), actfocus(signal, roles, format_weight=0.1))


def random_batch(seed, rows=7, tokens=23):
    generator = torch.Generator().manual_seed(seed)
    roles = torch.randint(0, 4, (rows, tokens), generator=generator)
    return torch.randn(rows, tokens, generator=generator) * 3 - 36, roles


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"alpha": 0.0},
        {"beta": 0.0},
        {"alpha": 0.37, "beta": 2.0, "format_weight": 0.9},
        {"eps": 0.25},
    ],
)
def test_against_a_loop_in_float64(oracle, seed, parameters):
    signal, roles = random_batch(seed)
    expected = oracle.actfocus(signal.double().tolist(), roles.tolist(), **parameters)
    torch.testing.assert_close(actfocus(signal, roles, **parameters), torch.tensor(expected), rtol=1e-6, atol=1e-7)


def test_the_order_of_rows_and_tokens_does_not_matter():
    signal, roles = random_batch(11)
    rows, columns = torch.randperm(7), torch.randperm(23)
    shuffled = actfocus(signal[rows][:, columns], roles[rows][:, columns])
    torch.testing.assert_close(shuffled, actfocus(signal, roles)[rows][:, columns], rtol=1e-6, atol=0)


@settings(max_examples=50, deadline=None)
@given(
    energies=st.lists(st.floats(-60, -5, width=32), min_size=1, max_size=30),
    alpha=st.floats(0, 1),
    beta=st.floats(0, 3),
)
def test_action_weights_stay_between_one_and_one_plus_beta_and_rise_with_energy(energies, alpha, beta):
    signal = torch.tensor(energies)
    weights = actfocus(signal, torch.full_like(signal, A, dtype=torch.int64), alpha=alpha, beta=beta)
    assert float(weights.min()) >= 1.0
    assert float(weights.max()) <= 1.0 + beta + 1e-6
    assert bool((weights[signal.argsort()].diff() >= 0).all())


def test_shift_of_all_energies_changes_nothing():
    signal, roles = random_batch(3)
    torch.testing.assert_close(actfocus(signal + 8.0, roles), actfocus(signal, roles), rtol=1e-5, atol=0)


# --- signals


def random_signals(seed):
    """Every column that a signal is read from, all different, and the roles."""
    columns = {name: random_batch(seed + 50 + place)[0] for place, name in enumerate(sorted(SIGNAL_COLUMNS))}
    return columns | {"token_roles": random_batch(seed)[1]}


SIGNAL_COLUMNS = {column for columns in ACTFOCUS_SIGNALS.values() for column in columns}


def test_signals_by_hand():
    # nll is 0.1, 2, 1; the shift is -0.1 + 0.6 = 0.5, -2 + 0.5 = -1.5, 0.
    old, ref = [[-0.1, -2.0, -1.0]], [[-0.6, -0.5, -1.0]]
    columns = {
        "token_roles": torch.tensor([[A, A, A]]),
        "old_log_probs": torch.tensor(old),
        "ref_log_prob": torch.tensor(ref),
    }
    for signal, scores in {"nll": [0.1, 2.0, 1.0], "log_prob_shift": [0.5, -1.5, 0.0]}.items():
        mean = sum(scores) / 3
        sigma = math.sqrt(sum((score - mean) ** 2 for score in scores) / 3 + 1e-8)
        expected = [1 + 0.5 * sigmoid((score - mean) / sigma) for score in scores]
        weights = build_weighting({"name": "actfocus", "signal": signal})(columns)
        torch.testing.assert_close(weights, torch.tensor([expected]))


@pytest.mark.parametrize("signal", ACTFOCUS_SIGNALS)
def test_each_signal_against_a_loop_over_its_own_columns(oracle, signal):
    columns = random_signals(1)
    lists = {name: column.double().tolist() for name, column in columns.items()}
    score = {
        "energy": lambda row, t: lists["energy"][row][t],
        "entropy": lambda row, t: lists["reference_entropy"][row][t],
        "nll": lambda row, t: -lists["old_log_probs"][row][t],
        "log_prob_shift": lambda row, t: lists["old_log_probs"][row][t] - lists["ref_log_prob"][row][t],
        "gauge_free_energy": lambda row, t: lists["gauge_free_energy"][row][t],
    }[signal]
    scores = [[score(row, t) for t in range(23)] for row in range(7)]
    expected = oracle.actfocus(scores, columns["token_roles"].tolist(), alpha=0.2, beta=0.7)
    weighting = build_weighting({"name": "actfocus", "signal": signal, "alpha": 0.2, "beta": 0.7})
    needed = {name: columns[name] for name in (*weighting.required_columns, "token_roles")}
    torch.testing.assert_close(weighting(needed), torch.tensor(expected), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("signal", ACTFOCUS_SIGNALS)
def test_junk_outside_action_tokens_reaches_nothing_with_any_signal(signal):
    columns = random_signals(2)
    action = columns["token_roles"] == A
    weighting = build_weighting({"name": "actfocus", "signal": signal})
    expected = weighting(columns)
    for junk in (NAN, INF):
        dirty = {name: torch.where(action, column, junk) for name, column in columns.items() if name != "token_roles"}
        assert torch.equal(weighting(dirty | {"token_roles": columns["token_roles"]}), expected)


@pytest.mark.parametrize("signal", ACTFOCUS_SIGNALS)
def test_beta_zero_is_the_same_with_every_signal(signal):
    roles = random_batch(3)[1]
    weighting = build_weighting({"name": "actfocus", "signal": signal, "beta": 0})
    assert torch.equal(weighting({"token_roles": roles}), actfocus(None, roles, beta=0.0))


def test_action_only_is_actfocus_without_alpha_and_beta():
    roles = random_batch(4)[1]
    weights = build_weighting({"name": "action_only"})({"token_roles": roles})
    assert torch.equal(weights, (roles == A).float())
    assert torch.equal(weights, actfocus(None, roles, alpha=0.0, beta=0.0))


# --- edge cases


def test_no_action_token():
    roles = torch.tensor([[R, F, E]])
    torch.testing.assert_close(actfocus(torch.full((1, 3), NAN), roles), torch.tensor([[0.1, 0.1, 0.0]]))
    assert actfocus(torch.zeros(1, 3), roles, alpha=0.0).tolist() == [[0, 0, 0]]


@pytest.mark.parametrize("eps", [1e-30, 1e-8, 1.0])
def test_one_action_token_weighs_one_plus_half_beta(eps):
    assert actfocus(torch.tensor([[-35.2, -36.1]]), torch.tensor([[R, A]]), beta=0.5, eps=eps)[0, 1] == 1.25


@pytest.mark.parametrize("eps", [1e-30, 1e-8, 1.0])
@pytest.mark.parametrize("value", [0.0, -35.7123, 1e30])
def test_equal_energies_weigh_one_plus_half_beta(value, eps):
    weights = actfocus(torch.full((3, 7), value), torch.full((3, 7), A), beta=0.5, eps=eps)
    assert torch.equal(weights, torch.full((3, 7), 1.25))


@pytest.mark.parametrize("junk", [NAN, INF, -INF])
def test_junk_outside_action_tokens_reaches_nothing(junk):
    signal, roles = random_batch(5)
    dirty = torch.where(roles == A, signal, junk)
    assert torch.equal(actfocus(dirty, roles), actfocus(signal, roles))


def test_alpha_zero_is_action_only():
    signal, roles = random_batch(6)
    weights = actfocus(signal, roles, alpha=0.0)
    assert bool((weights[roles != A] == 0).all())
    assert bool((weights[roles == A] > 1).all())


def test_beta_zero_reads_no_signal():
    signal, roles = random_batch(7)
    expected = actfocus(signal, roles, beta=0.0)
    assert bool((expected[roles == A] == 1).all())
    assert torch.equal(actfocus(None, roles, beta=0.0), expected)
    assert torch.equal(actfocus(torch.full_like(signal, NAN), roles, beta=0.0), expected)


def test_neutral_setting_is_uniform_to_the_bit():
    signal, roles = random_batch(8)
    assert torch.equal(actfocus(signal, roles, alpha=1.0, beta=0.0), uniform(roles))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_signals_of_other_precision(oracle, dtype):
    signal, roles = random_batch(9)
    signal = signal.to(dtype)
    weights = actfocus(signal, roles)
    assert weights.dtype is torch.float32
    assert torch.equal(weights, actfocus(signal.float(), roles)) or dtype is torch.float64
    torch.testing.assert_close(weights, torch.tensor(oracle.actfocus(signal.tolist(), roles.tolist())))


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int32, torch.int64])
def test_roles_of_any_integer_type(dtype):
    signal, roles = random_batch(10)
    assert torch.equal(actfocus(signal, roles.to(dtype)), actfocus(signal, roles))
    assert torch.equal(uniform(roles.to(dtype)), uniform(roles))


def test_weights_are_constants():
    signal, roles = random_batch(12)
    assert not actfocus(signal.requires_grad_(), roles).requires_grad


def test_empty_batch():
    assert actfocus(torch.empty(0, 4), torch.empty(0, 4, dtype=torch.int64)).shape == (0, 4)


# --- errors


@pytest.mark.parametrize("junk", [NAN, INF, -INF])
def test_junk_at_action_tokens_is_an_error_that_counts_it(junk):
    signal, roles = torch.zeros(3, 4), torch.tensor([[A, A, R, E], [A, A, A, A], [R, A, F, E]])
    signal[0, 0] = signal[0, 1] = signal[2, 1] = junk
    with pytest.raises(ValueError, match="at ACTION tokens: 3 tokens in 2 rows"):
        actfocus(signal, roles)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"alpha": 1.5}, r"alpha=1.5: must be a number between 0 and 1"),
        ({"alpha": -0.1}, r"alpha=-0.1: must be a number between 0 and 1"),
        ({"alpha": NAN}, r"alpha=nan: must be a number between 0 and 1"),
        ({"alpha": "0.1"}, r"alpha='0.1': must be a number between 0 and 1"),
        ({"alpha": True}, r"alpha=True: must be a number between 0 and 1"),
        ({"alpha": None}, r"alpha=None: must be a number between 0 and 1"),
        ({"beta": -0.5}, r"beta=-0.5: must be a finite number >= 0"),
        ({"beta": INF}, r"beta=inf: must be a finite number >= 0"),
        ({"format_weight": -1}, r"format_weight=-1: must be a finite number >= 0"),
        ({"eps": 0.0}, r"eps=0.0: must be a finite number > 0"),
        ({"eps": -1e-8}, r"eps=-1e-08: must be a finite number > 0"),
    ],
)
def test_parameters_out_of_range(parameters, message):
    with pytest.raises(ConfigurationError, match=message):
        actfocus(torch.zeros(1, 2), torch.tensor([[R, A]]), **parameters)


def test_missing_signal():
    with pytest.raises(ConfigurationError, match=r"beta=0\.5: weights action tokens by a signal, and none was given"):
        actfocus(None, torch.tensor([[A]]))


def test_shapes_that_differ_are_both_named():
    with pytest.raises(ValueError, match=r"signal has shape \(2, 3\) and token_roles has shape \(2, 4\)"):
        actfocus(torch.zeros(2, 3), torch.zeros(2, 4, dtype=torch.int64))


@pytest.mark.parametrize("weighting", [uniform, lambda roles: actfocus(torch.zeros(roles.shape), roles)])
def test_unusable_roles(weighting):
    with pytest.raises(ValueError, match=r"token_roles has dtype torch.float32"):
        weighting(torch.zeros(1, 2))
    with pytest.raises(ValueError, match=r"holds values from -1 to 4, known are 0=ENVIRONMENT, 1=REASONING"):
        weighting(torch.tensor([[-1, 4]]))
