"""entropy_quantile, aem and empg: numbers by hand, slow loops, the properties their definitions promise, errors."""

import math

import pytest
import torch

from actfocus_verl.credit import blocks
from actfocus_verl.credit.entropy_weighting import aem, empg, entropy_quantile
from actfocus_verl.credit.tokens import TokenRole
from actfocus_verl.credit.weighting import uniform
from actfocus_verl.errors import ConfigurationError

E, R, A, F = (int(role) for role in TokenRole)
NAN, INF = math.nan, math.inf
GROUPS = torch.tensor([4, 4, 9, 9, 4, 9])


def random_batch(seed, rows=6, tokens=17):
    """Episodes of up to four turns with messages of the environment between them; columns hold junk on those."""
    generator = torch.Generator().manual_seed(seed)
    roles, turn_ids = torch.zeros(rows, tokens, dtype=torch.int64), torch.full((rows, tokens), -1)
    for row in range(rows):
        start = 0
        for turn in range(int(torch.randint(1, 5, (), generator=generator))):
            end = start + int(torch.randint(1, 5, (), generator=generator))
            roles[row, start:end] = torch.randint(1, 4, roles[row, start:end].shape, generator=generator)
            turn_ids[row, start:end] = turn
            start = end + 1
    entropy = torch.rand(rows, tokens, generator=generator) * 2
    advantages = torch.randn(rows, tokens, generator=generator)
    return [torch.where(roles != E, column, NAN) for column in (advantages, entropy)] + [roles, turn_ids]


def lists(*columns):
    return [column.tolist() for column in columns]


# --- entropy_quantile


def test_entropy_quantile_by_hand():
    # Five sampled tokens with entropies 0.1, 0.9, 0.5, 0.3, 0.7. Two fifths: the ranks 1 and 2, so 0.9 and 0.7.
    roles = torch.tensor([[R, A, F], [R, E, R]])
    entropy = torch.tensor([[0.1, 0.9, 0.5], [0.3, 5.0, 0.7]])
    weights = entropy_quantile(entropy, roles, fraction=0.4)
    assert weights.dtype is torch.float32
    assert weights.tolist() == [[0, 1, 0], [0, 0, 1]]
    assert entropy_quantile(entropy, roles, fraction=0.41).tolist() == [[0, 1, 1], [0, 0, 1]]  # ceil(2.05) = 3
    assert entropy_quantile(entropy, roles, fraction=0.01).tolist() == [[0, 1, 0], [0, 0, 0]]  # at least one


def test_the_share_kept_is_the_fraction_in_spite_of_rounding():
    entropy = torch.arange(30.0).view(3, 10)
    assert (
        int(entropy_quantile(entropy, torch.full((3, 10), R), fraction=0.1).sum()) == 3
    )  # 0.1 * 30 = 3.0000000000000004


def test_ties_at_the_threshold_are_kept_together():
    entropy = torch.tensor([[1.0, 2.0, 2.0, 2.0, 0.0]])
    assert entropy_quantile(entropy, torch.full((1, 5), R), fraction=0.2).tolist() == [[0, 1, 1, 1, 0]]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("fraction", [0.05, 0.2, 0.5, 0.99, 1.0])
def test_entropy_quantile_against_a_loop(oracle, seed, fraction):
    _, entropy, roles, _ = random_batch(seed)
    expected = oracle.entropy_quantile(*lists(entropy, roles), fraction=fraction)
    assert entropy_quantile(entropy, roles, fraction=fraction).tolist() == expected


def test_the_whole_fraction_is_uniform_to_the_bit():
    _, entropy, roles, _ = random_batch(5)
    assert torch.equal(entropy_quantile(entropy, roles, fraction=1.0), uniform(roles))


def test_entropy_quantile_without_sampled_tokens():
    assert entropy_quantile(torch.full((1, 2), NAN), torch.zeros(1, 2, dtype=torch.int64)).tolist() == [[0, 0]]


# --- aem

# Group 4: turns of entropy 0.2, 0.8 (episode 0) and 1.2 (episode 1): H~ = 0, 0.6, 1. Group 9: 2.0 and 2.05, range 0.05.
HAND_ROLES = torch.tensor([[R, A, E, R], [F, A, E, E], [R, E, R, E]])
HAND_TURNS = torch.tensor([[0, 0, -1, 1], [0, 0, -1, -1], [0, -1, 1, -1]])
HAND_ENTROPY = torch.tensor([[0.1, 0.3, NAN, 0.8], [1.0, 1.4, NAN, NAN], [2.0, NAN, 2.05, NAN]])
HAND_GROUPS = torch.tensor([4, 4, 9])


def test_aem_by_hand():
    mean = (1 + math.exp(-0.6) + math.exp(-1)) / 3
    first, second, third = 1 / mean, math.exp(-0.6) / mean, math.exp(-1) / mean
    assert first == pytest.approx(1.565197, abs=1e-6)
    expected = torch.tensor([[first, first, 0, second], [third, third, 0, 0], [1, 0, 1, 0]])
    weights = aem(HAND_ENTROPY, HAND_ROLES, HAND_TURNS, HAND_GROUPS)
    assert weights.dtype is torch.float32
    torch.testing.assert_close(weights, expected)


def test_the_gate_opens_at_its_range():
    below, at = (aem(HAND_ENTROPY, HAND_ROLES, HAND_TURNS, HAND_GROUPS, gate=gate)[2] for gate in (0.06, 0.04))
    assert below.tolist() == [1, 0, 1, 0]
    torch.testing.assert_close(at[0] / at[2], torch.tensor(math.e))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("parameters", [{}, {"lam": 2.5}, {"lam": -1.0}, {"gate": 0.0}, {"gate": 0.9}])
def test_aem_against_a_loop(oracle, seed, parameters):
    _, entropy, roles, turn_ids = random_batch(seed)
    for scope, labels in (("group", GROUPS), ("batch", torch.zeros(6)), ("trajectory", torch.arange(6))):
        expected = oracle.aem(*lists(entropy, roles, turn_ids, labels), **parameters)
        found = aem(entropy, roles, turn_ids, GROUPS, scope=scope, **parameters)
        torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-6, atol=0)


def turn_means(weights, roles, turn_ids, rows):
    """The weights of the turns of some rows, each turn once."""
    seen = {}
    for row in rows:
        for weight, role, turn in zip(*lists(weights[row], roles[row], turn_ids[row]), strict=True):
            if role != E:
                assert seen.setdefault((row, turn), weight) == weight  # the same for all tokens of a turn
    return list(seen.values())


@pytest.mark.parametrize("lam", [0.3, 1.0, 4.0])
def test_the_mean_over_a_groups_turns_is_one_and_the_ratio_at_most_exp_lam(lam):
    _, entropy, roles, turn_ids = random_batch(6)
    weights = aem(entropy, roles, turn_ids, GROUPS, lam=lam)
    for rows in ([0, 1, 4], [2, 3, 5]):
        values = turn_means(weights, roles, turn_ids, rows)
        assert sum(values) / len(values) == pytest.approx(1.0, rel=1e-6)
        assert max(values) / min(values) == pytest.approx(math.exp(lam), rel=1e-5)
        assert min(values) > 0  # the sign of the advantage stays


def test_aem_sees_the_relative_size_of_entropies_only():
    _, entropy, roles, turn_ids = random_batch(7)
    weights = aem(entropy, roles, turn_ids, GROUPS)
    torch.testing.assert_close(aem(entropy + 3.0, roles, turn_ids, GROUPS), weights, rtol=1e-5, atol=0)
    torch.testing.assert_close(aem(entropy * 2.5, roles, turn_ids, GROUPS), weights, rtol=1e-5, atol=0)


@pytest.mark.parametrize("lam", [1.0, -1.0])
def test_aem_falls_with_the_entropy_of_a_turn_and_rises_with_it_when_reversed(lam):
    _, entropy, roles, turn_ids = random_batch(7)
    constant = torch.zeros_like(entropy)  # one entropy a turn, so that it can be read off any token
    for row in range(6):
        for turn in range(4):
            constant[row, turn_ids[row] == turn] = float(torch.rand(()))
    weights = aem(constant, roles, turn_ids, GROUPS, lam=lam)
    for group in (4, 9):
        tokens = (roles != E) & torch.eq(GROUPS, group).unsqueeze(1)
        by_entropy = dict(zip(*lists(constant[tokens], weights[tokens]), strict=True))
        steps = torch.tensor([by_entropy[value] for value in sorted(by_entropy)]).diff()
        assert len(steps) > 2
        assert bool((steps * lam < 0).all())


def test_another_group_does_not_matter_with_scope_group_and_does_with_scope_batch():
    _, entropy, roles, turn_ids = random_batch(8)
    changed = entropy.clone()
    changed[GROUPS == 9] *= 7
    mine = GROUPS == 4
    by_group, by_batch = (
        [aem(column, roles, turn_ids, GROUPS, scope=scope)[mine] for column in (entropy, changed)]
        for scope in ("group", "batch")
    )
    assert torch.equal(*by_group)
    assert not torch.equal(*by_batch)


def test_aem_at_lambda_zero_or_with_equal_entropies_is_uniform_to_the_bit():
    _, entropy, roles, turn_ids = random_batch(9)
    assert torch.equal(aem(entropy, roles, turn_ids, GROUPS, lam=0.0), uniform(roles))
    equal = torch.full_like(entropy, 0.7)
    assert torch.equal(aem(equal, roles, turn_ids, GROUPS, gate=0.0), uniform(roles))


def test_aem_does_not_mind_a_row_without_sampled_tokens():
    advantages, entropy, roles, turn_ids = random_batch(10)
    roles[1] = E
    weights = aem(entropy, roles, turn_ids, GROUPS)
    others = [0, 2, 3, 4, 5]
    assert not weights[1].any()
    alone = aem(entropy[others], roles[others], turn_ids[others], GROUPS[others])
    torch.testing.assert_close(weights[others], alone)
    shift = empg(advantages, entropy, roles, turn_ids)[1]
    assert bool(torch.isfinite(shift).all())


# --- empg


def test_empg_by_hand():
    # Turn entropies 0, 1 (episode 0) and 0.5 (episode 1): H~ = 0, 1, 0.5. Turn 0 of episode 0 has a bonus, of H~ = 1.
    roles, turn_ids = torch.tensor([[R, A, E, A], [R, E, E, E]]), torch.tensor([[0, 0, -1, 1], [0, -1, -1, -1]])
    entropy = torch.tensor([[0.0, 0.0, NAN, 1.0], [0.5, NAN, NAN, NAN]])
    advantages = torch.tensor([[2.0, 2.0, NAN, 2.0], [-1.0, NAN, NAN, NAN]])
    mean = (1 + math.exp(-1) + math.exp(-0.5)) / 3
    g = [1 / mean, math.exp(-1) / mean, math.exp(-0.5) / mean]
    modified = [2 * g[0] + 0.1 * math.exp(-1), 2 * g[1], -g[2]]
    center = sum(modified) / 3
    weights, shift = empg(advantages, entropy, roles, turn_ids)
    torch.testing.assert_close(weights, torch.tensor([[g[0], g[0], 0, g[1]], [g[2], 0, 0, 0]]))
    found = weights * (torch.nan_to_num(advantages) + shift)
    first, second, third = (value - center for value in modified)
    torch.testing.assert_close(found, torch.tensor([[first, first, 0, second], [third, 0, 0, 0]]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    "parameters",
    [{}, {"k": 0.0}, {"k": 3.0, "k_future": 0.5}, {"zeta": 0.0}, {"zeta": 1.5, "center": False}, {"k_future": 0.0}],
)
def test_empg_against_a_loop(oracle, seed, parameters):
    advantages, entropy, roles, turn_ids = random_batch(seed)
    scale, modified = oracle.empg(*lists(advantages, entropy, roles, turn_ids), **parameters)
    weights, shift = empg(advantages, entropy, roles, turn_ids, **parameters)
    torch.testing.assert_close(weights, torch.tensor(scale), rtol=1e-6, atol=0)
    found = weights * (torch.nan_to_num(advantages) + shift)
    torch.testing.assert_close(found, torch.tensor(modified), rtol=1e-5, atol=1e-5)


def test_empg_mean_g_is_one_and_the_output_has_mean_zero_over_turns():
    advantages, entropy, roles, turn_ids = random_batch(6)
    weights, shift = empg(advantages, entropy, roles, turn_ids)
    values = turn_means(weights, roles, turn_ids, range(6))
    assert sum(values) / len(values) == pytest.approx(1.0, rel=1e-6)
    by_turn = {}
    for row, tokens in enumerate(zip(roles, turn_ids, weights * (advantages + shift), strict=True)):
        for role, turn, value in zip(*lists(*tokens), strict=True):
            if role != E:
                by_turn.setdefault((row, turn), []).append(value)
    means = [sum(tokens) / len(tokens) for tokens in by_turn.values()]
    assert sum(means) / len(means) == pytest.approx(0.0, abs=1e-6)


def test_the_last_turn_of_an_episode_has_no_bonus():
    advantages, entropy, roles, turn_ids = random_batch(7)
    shift = empg(advantages, entropy, roles, turn_ids, center=False)[1]
    last = turn_ids == turn_ids.max(dim=1, keepdim=True).values
    assert not shift[last].any()
    assert bool((shift[(roles != E) & ~last] > 0).all())


def test_empg_is_uniform_to_the_bit_without_its_parts():
    _, entropy, roles, turn_ids = random_batch(8)
    found = empg(None, entropy, roles, turn_ids, k=0.0, zeta=0.0, center=False)
    assert torch.equal(found, uniform(roles))  # weights alone: the advantages stay as they are
    weights, shift = empg(torch.ones_like(entropy), entropy, roles, turn_ids, k=0.0, zeta=0.0)
    assert torch.equal(weights, uniform(roles))
    assert torch.equal(shift, -uniform(roles))  # batch-centred: 1 - 1


def test_a_turn_whose_tokens_are_all_masked_is_skipped_by_the_bonus():
    roles = torch.tensor([[R, R, R]])
    turn_ids = torch.tensor([[0, 1, 2]])
    entropy = torch.tensor([[0.0, 0.4, 1.0]])
    masked = torch.tensor([[R, E, R]])
    shift = empg(None, entropy, masked, turn_ids, k=0.0, center=False)[1]
    torch.testing.assert_close(shift, torch.tensor([[0.1 * math.exp(-1), 0.0, 0.0]]))
    both = empg(None, entropy, roles, turn_ids, k=0.0, center=False)[1]
    torch.testing.assert_close(both, torch.tensor([[0.1 * math.exp(-0.4), 0.1 * math.exp(-1), 0.0]]))


# --- all of them


def every(advantages, entropy, roles, turn_ids, groups):
    return [
        entropy_quantile(entropy, roles),
        aem(entropy, roles, turn_ids, groups),
        *empg(advantages, entropy, roles, turn_ids),
    ]


def test_what_stands_outside_the_response_reaches_nothing():
    advantages, entropy, roles, turn_ids = random_batch(11)
    outside = roles == E
    expected = every(advantages, entropy, roles, turn_ids, GROUPS)
    for junk, turn in ((INF, 10**6), (-INF, -7), (1e30, 0)):
        columns = [torch.where(outside, junk, column) for column in (advantages, entropy)]
        found = every(*columns, roles, torch.where(outside, turn, turn_ids), GROUPS)
        assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


def test_the_order_of_rows_does_not_matter():
    batch = [*random_batch(12), GROUPS]
    order = torch.tensor([3, 1, 5, 0, 4, 2])
    for shuffled, straight in zip(every(*(column[order] for column in batch)), every(*batch), strict=True):
        torch.testing.assert_close(shuffled, straight[order], rtol=1e-6, atol=1e-7)


def test_blocks_change_no_value(monkeypatch):
    batch = [*random_batch(13), GROUPS]
    whole = every(*batch)
    monkeypatch.setattr(blocks, "BLOCK_ELEMENTS", 20)
    assert all(torch.equal(*pair) for pair in zip(every(*batch), whole, strict=True))


def test_weights_are_constants():
    advantages, entropy, roles, turn_ids = random_batch(14)
    found = every(advantages.requires_grad_(), entropy.requires_grad_(), roles, turn_ids, GROUPS)
    assert not any(column.requires_grad for column in found)


def test_empty_batches():
    for shape in ((0, 4), (3, 0)):
        columns, integers = torch.empty(shape), torch.empty(shape, dtype=torch.int64)
        found = every(columns, columns, integers, integers, torch.zeros(shape[0], dtype=torch.int64))
        assert all(column.shape == shape for column in found)


# --- errors


@pytest.mark.parametrize("junk", [NAN, INF, -INF])
def test_junk_at_sampled_tokens_is_an_error_that_counts_it(junk):
    advantages, entropy, roles, turn_ids = random_batch(15)
    roles[0, 0] = roles[3, 0] = R
    dirty = entropy.clone()
    dirty[0, 0] = dirty[3, 0] = junk
    for call in (
        lambda: entropy_quantile(dirty, roles),
        lambda: aem(dirty, roles, turn_ids, GROUPS),
        lambda: empg(advantages, dirty, roles, turn_ids),
    ):
        with pytest.raises(ValueError, match="entropy is NaN or infinite at sampled tokens: 2 tokens in 2 rows"):
            call()
    advantages[3, 0] = junk
    with pytest.raises(ValueError, match="advantages is NaN or infinite at sampled tokens: 1 tokens in 1 rows"):
        empg(advantages, entropy, roles, turn_ids)


def test_a_sampled_token_without_a_turn():
    turn_ids = HAND_TURNS.clone()
    turn_ids[0, 1] = -1
    with pytest.raises(ValueError, match="turn_ids is negative at 1 tokens in 1 rows the policy sampled"):
        aem(HAND_ENTROPY, HAND_ROLES, turn_ids, HAND_GROUPS)
    with pytest.raises(ValueError, match=r"turn_ids has dtype torch.float32; pass the integer column"):
        aem(HAND_ENTROPY, HAND_ROLES, HAND_TURNS.float(), HAND_GROUPS)


def test_missing_inputs_and_shapes_that_differ():
    with pytest.raises(ValueError, match="scope=group compares the episodes of a prompt; give group_ids"):
        aem(HAND_ENTROPY, HAND_ROLES, HAND_TURNS)
    with pytest.raises(ValueError, match=r"group_ids has shape \(2,\) and token_roles has shape \(3, 4\)"):
        aem(HAND_ENTROPY, HAND_ROLES, HAND_TURNS, HAND_GROUPS[:2])
    with pytest.raises(ValueError, match=r"turn_ids has shape \(3, 3\) and token_roles has shape \(3, 4\)"):
        aem(HAND_ENTROPY, HAND_ROLES, HAND_TURNS[:, :3], HAND_GROUPS)
    with pytest.raises(ValueError, match=r"entropy has shape \(3, 3\) and token_roles has shape \(3, 4\)"):
        entropy_quantile(HAND_ENTROPY[:, :3], HAND_ROLES)
    with pytest.raises(ValueError, match=r"advantages has shape \(3, 3\) and token_roles has shape \(3, 4\)"):
        empg(HAND_ENTROPY[:, :3], HAND_ENTROPY, HAND_ROLES, HAND_TURNS)
    with pytest.raises(ValueError, match="give the advantages"):
        empg(None, HAND_ENTROPY, HAND_ROLES, HAND_TURNS)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: entropy_quantile(HAND_ENTROPY, HAND_ROLES, fraction=1.1),
            r"fraction=1.1: must be a number > 0 an",
        ),
        (lambda: aem(HAND_ENTROPY, HAND_ROLES, HAND_TURNS, HAND_GROUPS, scope="x"), r"scope='x': is not a known value"),
        (lambda: empg(None, HAND_ENTROPY, HAND_ROLES, HAND_TURNS, k=-1), r"k=-1: must be a number between 0 and 20"),
    ],
)
def test_parameters_out_of_range(call, message):
    with pytest.raises(ConfigurationError, match=message):
        call()
