"""Which method finds the credit: figures worked by hand, and simulated gradients of which the answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from actfocus_verl.truth.decomposition import Changes, MeasuredEpisode, board_changes
from actfocus_verl.truth.finders import (
    agreement,
    alignment,
    compared,
    estimate,
    resampled_boards,
    segment_cosine,
    turn_figures,
    turn_sums,
    turns_of,
)
from actfocus_verl.truth.gradients import gram, inner_products
from actfocus_verl.truth.segments import Kind

ONE = np.ones((3, 2))
"""The sample itself and two resamples that equal it, of two boards."""

TURN = [Kind.REASONING, Kind.ACTION, Kind.FORMAT, Kind.LUCK]


def along(*means: float, noise: float = 0.0) -> Changes:
    """An episode of whole turns with these expected returns at its boundaries."""
    turns = (len(means) - 1) // 4
    return Changes(
        TURN * turns, [turn for turn in range(turns) for _ in TURN], np.array(means), np.array([noise] * len(means))
    )


def test_a_turn_is_what_happens_between_its_start_and_the_worlds_luck() -> None:
    changes = along(0.5, 0.6, 0.9, 0.9, 0.4, 0.4, 0.3, 0.3, 1.0, noise=0.25)
    turns = turns_of([changes, changes], [7, 8])
    assert turns.board.tolist() == [7, 7, 8, 8]
    assert turns.advantage == pytest.approx([0.4, -0.1] * 2)
    assert turns.luck == pytest.approx([-0.5, 0.7] * 2)
    assert turns.noise == pytest.approx([0.5] * 4)
    assert turn_sums(np.arange(8, dtype=np.float64), changes) == [0 + 1 + 2, 4 + 5 + 6]


def test_turn_figures_by_hand() -> None:
    # One board, credit centred: -1, 0, 1; advantage centred: -0.2, -0.1, 0.3; luck centred: 0.1, 0.1, -0.2.
    changes = [along(0.0, 0.0, 0.0, 0.0, 0.3), along(0.0, 0.1, 0.1, 0.1, 0.4), along(0.0, 0.0, 0.5, 0.5, 0.5)]
    turns = turns_of(changes, [0, 0, 0])
    found = turn_figures(np.array([-1.0, 0.0, 1.0]), turns, np.ones((3, 1)))
    assert found["correlation"]["estimate"] == pytest.approx(0.5 / math.sqrt(2 * 0.14))
    assert found["slope"]["estimate"] == pytest.approx(0.5 / 0.14)
    assert found["luck"]["estimate"] == pytest.approx(-0.3 / math.sqrt(2 * 0.06))
    assert found["sure_turns"] == 2  # an advantage of 0 is not sure even without noise
    assert found["sign"]["estimate"] == pytest.approx(0.5)


def test_the_noise_of_the_measurement_does_not_lower_the_correlation() -> None:
    """The true correlation is 0.6; with the noise in it, it would be 0.6 / sqrt(3)."""
    rng = np.random.default_rng(0)
    boards = np.repeat(np.arange(400), 8)
    truth = rng.normal(size=len(boards))
    credit = 0.6 * truth + 0.8 * rng.normal(size=len(boards))
    measured = truth + rng.normal(size=len(boards), scale=math.sqrt(2))
    changes = [Changes(TURN, [0] * 4, np.array([0, 0, 0, each, each]), np.array([1.0] * 5)) for each in measured]
    found = turn_figures(credit, turns_of(changes, boards.tolist()), resampled_boards(400, resamples=200))
    assert found["correlation"]["low"] < 0.6 < found["correlation"]["high"]
    assert found["correlation"]["high"] - found["correlation"]["low"] < 0.2


def test_segment_cosine_by_hand() -> None:
    """Luck has no tokens; credit (1, 2, 0) against changes (0.1, 0.4, 0): 0.9 / sqrt(5 * 0.17)."""
    changes = along(0.0, 0.1, 0.5, 0.5, 0.9)
    sums = np.array([1.0, 2.0, 0.0, 0.0])
    found = segment_cosine([sums, sums], [changes, changes], [3, 4], ONE)
    assert found["estimate"] == pytest.approx(0.9 / math.sqrt(5 * 0.17))


def test_products_of_one_board_do_not_count() -> None:
    """Two boards: <g, G> = (g_1 G_2 + g_2 G_1) / 2, |G|^2 = G_1 G_2, E |g|^2 of a board = (|g_1|^2 + |g_2|^2) / 2."""
    gradients = np.array([[1.0, 2.0], [3.0, 0.0]], dtype=np.float32)
    reference = np.array([[1.0, 1.0], [2.0, 0.5]], dtype=np.float32)
    products = inner_products(gradients, reference)
    expected = ((2 + 1) + 3) / 2
    found = alignment(products, gram(reference, reference), 1, ONE).values
    assert found == pytest.approx(expected / math.sqrt(2.5 * (5 + 9) / 2))
    of_two = alignment(products, gram(reference, reference), 2, ONE).values  # half of |g|^2 is <g_1, g_2> = 3
    assert of_two == pytest.approx(expected / math.sqrt(2.5 * (3 / 2 + 7 / 2)))


def test_there_is_no_cosine_of_gradients_whose_lengths_are_not_above_nothing() -> None:
    """Orthogonal noise of two boards gives squared lengths below 0; two of them must not pass for one length."""
    gradients = np.array([[2.0, 1.0], [-2.0, 1.0]], dtype=np.float32)
    reference = np.array([[1.0, 0.5], [-1.0, 0.5]], dtype=np.float32)
    products, own = inner_products(gradients, reference), gram(reference, reference)
    assert own[0, 1] < 0
    assert products.own[0, 1] < 0
    assert agreement(products, own, ONE) is None
    assert np.isnan(alignment(products, own, 8, ONE).values).all()


def test_adam_divides_by_the_root_of_the_second_moment() -> None:
    """One parameter a thousand times as large as the other counts no more than it."""
    gradients = np.array([[1000.0, 1.0], [1000.0, -1.0]], dtype=np.float32)
    reference = np.eye(2, dtype=np.float32)
    products = inner_products(gradients, reference, batch=1)
    assert products.with_reference == pytest.approx(np.array([[1.0, 1.0], [1.0, -1.0]]), rel=1e-5)


@pytest.fixture
def simulated() -> dict[str, np.ndarray]:
    """Gradients of 1,500 boards in 4 dimensions, expected value (1, 0, 0, 0), with noise of trace 4, 16 and 4."""
    rng = np.random.default_rng(1)
    noise = rng.normal(size=(3, 1500, 4))
    signal = np.array([1.0, 0, 0, 0])
    return {
        "reference": (signal + noise[0]).astype(np.float32),
        "noisy": (signal + 2 * noise[1]).astype(np.float32),
        "sharp": (signal + noise[2]).astype(np.float32),
        "wrong": (-signal + noise[2]).astype(np.float32),
    }


def test_the_alignment_is_that_of_the_expected_gradients(simulated: dict[str, np.ndarray]) -> None:
    """Batches of 8: E |g|^2 = 1 + trace / 8, so efficiencies are 1 / 3 and 2 / 3; sharp is worth 2 noisy."""
    reference, drawn = simulated.pop("reference"), resampled_boards(1500, resamples=300)
    own = gram(reference, reference)
    found = compared(
        {name: alignment(inner_products(each, reference), own, 8, drawn) for name, each in simulated.items()}, "noisy"
    )
    for name, efficiency in (("noisy", 1 / 3), ("sharp", 2 / 3), ("wrong", -2 / 3)):
        interval = found[name]["efficiency"]
        assert interval["low"] < efficiency < interval["high"]
        assert interval["high"] - interval["low"] < 0.2
    assert found["sharp"]["worth"]["low"] < 2 < found["sharp"]["worth"]["high"]
    assert found["noisy"]["worth"] == {"estimate": 1.0, "low": 1.0, "high": 1.0}
    assert found["sharp"]["gain"]["low"] > 0 > found["wrong"]["gain"]["high"]
    cosine = agreement(inner_products(simulated["noisy"], reference), own, drawn)
    assert cosine is not None
    assert cosine["low"] < 1 < cosine["high"]


def test_a_ratio_to_what_may_be_nothing_is_not_given(simulated: dict[str, np.ndarray]) -> None:
    reference, drawn = simulated["reference"], resampled_boards(1500, resamples=100)
    own = gram(reference, reference)
    found = compared(
        {name: alignment(inner_products(simulated[name], reference), own, 8, drawn) for name in ("wrong", "sharp")},
        "wrong",
    )
    assert found["sharp"]["worth"] is None


def test_an_undefined_figure_is_none() -> None:
    assert estimate(np.array([math.nan, 1.0, 1.0])) is None
    assert estimate(np.array([1.0, math.nan, 2.0])) == {"estimate": 1.0, "low": 2.0, "high": 2.0}


def test_changes_of_a_board_share_the_continuations_from_its_start() -> None:
    kinds = [Kind.REASONING, Kind.LUCK]
    first = MeasuredEpisode(0, 1.0, kinds, [0, 0], np.array([[[0.0, 1.0], [1.0, 0.0]], [[1.0, 1.0], [1.0, 0.0]]]))
    second = MeasuredEpisode(0, 0.0, kinds, [0, 0], np.array([[[1.0, 1.0], [1.0, 1.0]], [[0.0, 0.0], [0.0, 0.0]]]))
    changes = board_changes([first, second])
    assert changes[0].means == pytest.approx([0.75, 0.75, 1.0])
    assert changes[1].means == pytest.approx([0.75, 0.0, 0.0])
    assert changes[0].values == pytest.approx([0.0, 0.25])
    assert changes[0].noise == pytest.approx([np.var([0, 1, 1, 0, 1, 1, 1, 1], ddof=1) / 8, 0.25 / 4, 0.0])
