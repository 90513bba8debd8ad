"""CARL's tree: worked by hand, against a recursion, and the properties that methods.md names."""

from __future__ import annotations

import math
import statistics
from typing import Any

import pytest
import torch

from tests.helpers.slow_estimators import assert_tokens, tokens_of
from tests.helpers.slow_trees import (
    Row,
    columns_of,
    credit_of,
    draws_in,
    random_forest,
    slow_advantages,
)


def by_turn(rows: list[Row], batch: dict[str, Any] | None = None) -> dict[tuple[int, int], float]:
    """(row, turn) -> advantage, of the turns in the update set; each turn's tokens agree."""
    batch = batch or columns_of(rows)
    credit = credit_of(batch)
    found = {}
    for number, row in enumerate(rows):
        for turn in range(len(row.turns)):
            tokens = tokens_of(batch, number, turn)
            if not tokens or not bool(credit.update_set[number, tokens].any()):
                continue
            assert bool(credit.update_set[number, tokens].all())
            assert len(set(credit.advantages[number, tokens].tolist())) == 1
            found[number, turn] = float(credit.advantages[number, tokens[0]])
    return found


def test_a_tree_by_hand() -> None:
    """s --a--> A --b--> B --c--> 1       row 0
                              \\-d--> 0       row 1, forked in B
                    \\-e--> 0.4              row 2, forked in A
    V(B) = 1/2, V(A) = mean(1/2, 0.4) = 0.45: the three leaves below A do not count alike.
    """
    rows = [Row("g", tuple("abc"), 0, 1.0), Row("g", tuple("abd"), 2, 0.0), Row("g", tuple("ae"), 1, 0.4)]
    expected = {(0, 1): 0.05, (0, 2): 0.5, (1, 2): -0.5, (2, 1): -0.05}  # a is alone in s
    assert by_turn(rows) == pytest.approx(expected)
    credit = credit_of(columns_of(rows))
    assert (credit.draws, credit.critical_draws) == (5, 4)


def test_the_same_reply_sampled_twice_counts_twice_and_leads_to_one_state() -> None:
    rows = [Row("g", ("a", "b"), 0, 1.0), Row("g", ("a", "c"), 0, 0.0), Row("g", ("d",), 0, 0.2)]
    # V(a) = 1/2, V(s) = mean(V(a), V(a), 0.2) = 0.4
    expected = {(0, 0): 0.1, (1, 0): 0.1, (2, 0): -0.2, (0, 1): 0.5, (1, 1): -0.5}
    assert by_turn(rows) == pytest.approx(expected)


@pytest.mark.parametrize("alphabet", ["x", "xy", "abcdefghijklmnopqrstuvwxyz"])
def test_against_the_recursion(alphabet: str) -> None:
    forests = [random_forest(seed, alphabet=alphabet) for seed in range(40)]
    assert any(row.replayed > 1 for rows in forests for row in rows)
    for rows in forests:
        batch = columns_of(rows, padding=2)
        credit, expected = credit_of(batch), slow_advantages(rows)
        places = {place: [(place[0], t) for t in tokens_of(batch, *place)] for place in expected}
        assert_tokens(credit.advantages, {t: expected[place] for place, tokens in places.items() for t in tokens})
        assert_tokens(credit.update_set.float(), {t: 1.0 for tokens in places.values() for t in tokens})
        assert credit.critical_draws == len(expected)
        assert credit.draws == sum(len(row.turns) - row.replayed for row in rows)


def test_advantages_of_a_state_sum_to_zero() -> None:
    rows = random_forest(5, most=12)
    found = by_turn(rows)
    states = {(row.group, row.prefix(turn)) for row in rows for turn in range(len(row.turns))}
    critical = [draws for draws in (draws_in(rows, *state) for state in states) if len(draws) > 1]
    assert len(critical) > 5
    for draws in critical:
        assert sum(found[draw] for draw in draws) == pytest.approx(0.0, abs=1e-6)


def test_a_draw_without_another_one_beside_it_is_dropped() -> None:
    rows = [Row("g", tuple("abc"), 0, 1.0), Row("h", tuple("ab"), 0, 0.0)]
    credit = credit_of(columns_of(rows))
    assert not credit.update_set.any()
    assert not credit.advantages.any()
    assert (credit.draws, credit.critical_draws) == (5, 0)


def test_a_tree_of_one_level_is_grpo_without_its_division() -> None:
    values = [1.0, 0.0, 0.25, 0.5]
    rows = [Row("g", (name,), 0, value) for name, value in zip("abcd", values, strict=True)]
    mean = statistics.fmean(values)
    assert by_turn(rows) == pytest.approx({(number, 0): value - mean for number, value in enumerate(values)})


def test_independent_episodes_train_their_first_turns_only() -> None:
    rows = [Row("g", (f"first{k}", "then", "end")[: 1 + k % 3], 0, float(k)) for k in range(5)]
    assert by_turn(rows) == pytest.approx({(k, 0): k - 2.0 for k in range(5)})


def test_replayed_turns_are_trained_where_they_were_sampled() -> None:
    """Forks of one state: the parent's row trains its own reply there, each fork its own, nobody the way to it."""
    rows = [Row("g", ("a", "b"), 0, 1.0), *(Row("g", ("a", f"c{k}"), 1, 0.0) for k in range(3))]
    assert by_turn(rows) == pytest.approx({(0, 1): 0.75, (1, 1): -0.25, (2, 1): -0.25, (3, 1): -0.25})


def test_how_many_draws_train() -> None:
    """Eq. 15: with one root, N forks and no reply sampled twice, N + 1 <= |update set| <= 2 N."""
    sizes = set()
    for seed in range(60):
        rows = random_forest(seed, groups="g", most=9, alphabet="".join(map(chr, range(97, 9000))))
        if sum(row.replayed == 0 for row in rows) > 1 or len(rows) < 3:
            continue
        forks = len(rows) - 1
        trained = credit_of(columns_of(rows)).critical_draws
        assert forks + 1 <= trained <= 2 * forks
        sizes.add(trained - forks)
    assert len(sizes) > 1


def test_rows_and_groups_may_come_in_any_order() -> None:
    rows = random_forest(9)
    found = by_turn(rows)
    order = list(range(len(rows)))[::-1]
    reversed_found = by_turn([rows[number] for number in order])
    assert {(order.index(number), turn): value for (number, turn), value in found.items()} == pytest.approx(
        reversed_found, abs=1e-6
    )
    alone = [row for row in rows if row.group == "a"]
    numbers = [number for number, row in enumerate(rows) if row.group == "a"]
    expected = {(numbers.index(n), turn): value for (n, turn), value in found.items() if n in numbers}
    assert by_turn(alone) == pytest.approx(expected, abs=1e-6)


def test_equal_prefixes_of_two_groups_are_two_states() -> None:
    batch = columns_of([Row("g", ("a",), 0, 1.0), Row("h", ("b",), 0, 0.0)])
    batch["states"][:] = 7
    assert not credit_of(batch).update_set.any()


def test_a_batch_of_padding_has_nothing() -> None:
    batch = columns_of([Row("g", ("a", "b"), 0, 1.0)], padding=1)
    batch["valid"][:] = False
    credit = credit_of(batch)
    assert not credit.update_set.any()
    assert not credit.advantages.any()
    assert credit.draws == 0


def test_what_contradicts_itself_is_refused() -> None:
    rows = [Row("g", tuple("abc"), 0, 1.0), Row("g", tuple("abd"), 2, 0.0)]
    with pytest.raises(ValueError, match="a row of the group is missing"):
        credit_of(columns_of(rows[1:]))
    for turns in ([0, 1, 0], [1, 1, 1]):
        batch = columns_of(rows)
        batch["replayed"][1, :3] = torch.tensor(turns)
        with pytest.raises(ValueError, match="turns after the fork, or all turns"):
            credit_of(batch)
    batch = columns_of(rows)
    batch["replayed"][0, 0] = 1
    with pytest.raises(ValueError, match="response_mask is 1 on replayed turns"):
        credit_of(batch)
    batch = columns_of(rows)
    batch["returns"][0] = math.nan
    with pytest.raises(ValueError, match="return of an episode is NaN"):
        credit_of(batch)
