"""The entropies of first answers, their moving averages, the weights and the sentence: by hand, and against loops."""

import json
import math

import pytest
import torch

from actfocus_verl.credit.influence import (
    ALPHA,
    ANSWER_ENTROPY,
    GIVEN_REASONING,
    REPEATED,
    MovingInfluence,
    answer_entropies,
    check_influence,
    influence,
    relative_relevance,
    verdict,
)
from actfocus_verl.credit.tokens import TokenRole
from actfocus_verl.errors import ConfigurationError
from tests.helpers import slow_weightings

E, R, A, F = (int(role) for role in TokenRole)
NAN = math.nan

# Two prompts of four episodes. A reply is: reasoning, one or two action tokens, the tag; then a second turn.
ROLES = [R, A, A, F, E, R, A]
TURNS = [0, 0, 0, 0, -1, 1, 1]
ANSWERS = [(5, 6), (5, 6), (5, 7), (8, 6), (9, 9), (9, 9), (9, 9), (9, 9)]


def batch(answers=ANSWERS, of_first=0.25, of_second=0.5):
    rows = len(answers)
    responses = torch.tensor([[1, first, second, 2, 3, 4, row] for row, (first, second) in enumerate(answers)])
    entropy = torch.tensor([[NAN, of_first, of_second, NAN, NAN, NAN, NAN]]).repeat(rows, 1)
    return {
        "token_roles": torch.tensor([ROLES] * rows),
        "turn_ids": torch.tensor([TURNS] * rows),
        "responses": responses,
        "entropy": entropy,
    }


GROUPS = torch.tensor([0, 0, 0, 0, 3, 3, 3, 3])


def test_two_prompts_by_hand():
    found = answer_entropies(batch(), GROUPS)
    # Prompt 1: shares 1/2, 1/4, 1/4: 1/2 ln 2 + 2/4 ln 4 = 3/2 ln 2, and (3 - 1) / (2 * 4). Prompt 2: 0.
    assert found.answer == pytest.approx((1.5 * math.log(2) + 0.25) / 2, rel=1e-12)
    assert found.given_reasoning == 0.75  # entropies of the two action tokens of turn 0, in every reply
    assert found.repeated == (0.5 + 1.0) / 2


def test_random_batches_against_a_loop():
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        roles = torch.randint(1, 4, (24, 9), generator=generator)
        columns = {
            "token_roles": roles,
            "turn_ids": (torch.arange(9) > 4).long().expand_as(roles),
            "responses": torch.randint(0, 2, roles.shape, generator=generator),
            "entropy": torch.rand(roles.shape, generator=generator),
        }
        groups = torch.randint(0, 4, (24,), generator=generator)
        found = answer_entropies(columns, groups)
        names = ("entropy", "token_roles", "turn_ids", "responses")
        expected = slow_weightings.influence(*(columns[name].tolist() for name in names), groups.tolist())
        assert (found.answer, found.given_reasoning) == pytest.approx(expected[:2], rel=1e-9)


def test_masked_tokens_replayed_turns_single_episodes_and_the_order_of_rows_do_not_count():
    expected = answer_entropies(batch(), GROUPS)
    dirty = {name: torch.cat((column, column[:2])) for name, column in batch().items()}
    mask = (dirty["token_roles"] != E).long()
    dirty["token_roles"][:, 4] = A  # masked, in turn 0, with its own id and entropy
    dirty["turn_ids"][:, 4] = 0
    dirty["turn_ids"][8, :4] = -1  # the first turn of a forked episode is another's
    mask[8, :4] = 0
    groups = torch.tensor([*GROUPS, 0, 7])  # the last is alone
    order = torch.randperm(10, generator=torch.Generator().manual_seed(1))
    dirty["response_mask"] = mask
    found = answer_entropies({name: column[order] for name, column in dirty.items()}, groups[order])
    assert found == expected


def test_a_reply_without_an_action_has_the_empty_answer():
    columns = batch()
    columns["token_roles"][4:6, 1:3] = F  # two of the second prompt's four do not parse
    found = answer_entropies(columns, GROUPS)
    assert found.answer == pytest.approx((1.5 * math.log(2) + 0.25 + math.log(2) + 0.125) / 2, rel=1e-12)
    assert found.given_reasoning == (0.75 + 0.375) / 2


def test_without_reasoning_or_without_two_answers_there_is_nothing_to_compare():
    columns = batch()
    assert answer_entropies(columns, torch.arange(8)) is None
    columns["token_roles"][:, 0] = F
    assert answer_entropies(columns, GROUPS) is None


def test_an_entropy_that_is_not_finite_is_no_measurement():
    columns = batch()
    columns["entropy"][3, 2] = math.inf
    found = answer_entropies(columns, GROUPS)
    assert math.isnan(found.given_reasoning)
    moving = MovingInfluence()
    moving.add_step(found.metrics())
    moving.add_step({ANSWER_ENTROPY: 1.0, GIVEN_REASONING: None, REPEATED: 0.5})  # as the file has it
    assert moving.value is None


def step(answer, given_reasoning, repeated=0.5):
    return {ANSWER_ENTROPY: answer, GIVEN_REASONING: given_reasoning, REPEATED: repeated}


def test_the_moving_averages_by_hand():
    moving = MovingInfluence()
    assert moving.value is None
    moving.add_step(step(2.0, 0.5))
    assert moving.value == 0.75
    moving.add_step({})
    moving.add_step(step(9.0, 9.0, repeated=0.0))  # answers that all differ say nothing about their entropy
    assert moving.value == 0.75
    moving.add_step(step(1.0, 1.0))
    # bias-corrected: (.9 * 2 + 1) / 1.9 and (.9 * .5 + 1) / 1.9
    assert moving.value == pytest.approx(1 - 1.45 / 2.8, rel=1e-12)


def test_an_influence_is_never_negative_and_unknown_where_every_answer_is_the_same():
    moving = MovingInfluence()
    moving.add_step(step(0.0, 0.0, repeated=1.0))
    assert moving.value is None
    moving.add_step(step(1.6, 2.4))  # few answers underestimate the entropy
    assert moving.value == 0.0


def test_the_state_follows_from_the_log():
    steps = [step(1 / (number + 3), number / 7) for number in range(9)]
    undisturbed, resumed = MovingInfluence(), MovingInfluence()
    for metrics in steps:
        undisturbed.add_step(metrics)
    for metrics in steps:
        resumed.add_step(json.loads(json.dumps(metrics)))
    assert resumed.value == undisturbed.value


def test_weights_by_hand():
    roles = torch.tensor([[R, A, F, E], [R, F, A, R], [R, R, A, E]])
    weights = influence(torch.tensor([0.5, 0.0, 7.0]), roles, floor=0.125, format_weight=0.25)
    expected = [[0.5, 1.0, 0.25, 0.0], [0.125, 0.25, 1.0, 0.125], [1.0, 1.0, 1.0, 0.0]]
    assert weights.tolist() == expected


def test_the_relevance_is_relative_to_the_turns_reasoning_by_hand():
    roles = torch.tensor([[R, R, A, E, R, R, F], [R, R, F, E, R, A, R]])
    turns = torch.tensor([[0, 0, 0, -1, 1, 1, 1], [0, 0, 0, -1, 1, 1, 1]])
    relevance = torch.tensor([[1.0, 4.0, NAN, NAN, 0.5, 0.25, 9.0], [0.0, 0.0, 9.0, NAN, 3.0, NAN, 3.0]])
    rho = relative_relevance(relevance, roles, turns)
    assert rho.tolist() == [[0.25, 1, 0, 0, 1, 0.5, 0], [0, 0, 0, 0, 1, 0, 1]]
    weights = influence(torch.tensor([0.5, 1.0]), roles, rho, floor=0.1875)
    assert weights.tolist() == [[0.1875, 0.5, 1, 0, 0.5, 0.25, 1], [0.1875, 0.1875, 1, 0, 1, 1, 1]]


def test_bad_input_is_one_line():
    roles = torch.tensor([[R, A]])
    with pytest.raises(ValueError, match="relevance is NaN or infinite at REASONING tokens: 1 tokens in 1 rows"):
        relative_relevance(torch.tensor([[NAN, 1.0]]), roles, torch.zeros(1, 2, dtype=torch.int64))
    with pytest.raises(ConfigurationError, match=r"level='turn': is not a known value"):
        check_influence(level="turn", floor=0.1, format_weight=1.0)
    with pytest.raises(ValueError, match="influence is NaN; check the logits"):
        influence(torch.tensor([NAN]), roles)
    with pytest.raises(ConfigurationError, match=r"floor=1.5: must be a number between 0 and 1"):
        influence(torch.tensor([1.0]), roles, floor=1.5)
    with pytest.raises(ConfigurationError, match=r"format_weight=-1: must be a finite number >= 0"):
        influence(torch.tensor([1.0]), roles, format_weight=-1)


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        (
            step(1.5, 0.09) | {ALPHA: 0.94},
            "the reasoning decides 94% of the first answer (its entropy is 1.50 nats",
        ),
        (step(1.7, 1.6) | {ALPHA: 0.06}, "the action tokens decide 94% of the first answer"),
        (step(1.7, 0.8) | {ALPHA: 0.5}, "the reasoning decides 50% of the first answer, the action tokens the rest"),
        (step(2.5, 9.0, repeated=0.0), "is unknown: no first answer to a prompt occurs twice"),
        (step(0.0, 0.0, repeated=1.0), "all first answers to a prompt are equal"),
    ],
)
def test_the_sentence(metrics, said):
    assert said in verdict(metrics)


@pytest.mark.parametrize("metrics", [{}, step(1.0, None), step(1.0, NAN)])
def test_without_a_measurement_there_is_no_sentence(metrics):
    assert verdict(metrics) is None
