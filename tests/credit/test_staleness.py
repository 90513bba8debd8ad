"""Staleness by role, with numbers worked by hand."""

from __future__ import annotations

import pytest
import torch

from actfocus_verl.credit.staleness import staleness_metrics
from actfocus_verl.credit.tokens import TokenRole

R, A, F, E = TokenRole.REASONING, TokenRole.ACTION, TokenRole.FORMAT, TokenRole.ENVIRONMENT


def columns() -> dict[str, torch.Tensor]:
    """Two episodes of four tokens and a padding row; in the first, the last token was not sampled."""
    return {
        "token_roles": torch.tensor([[R, A, A, E], [R, R, A, F], [A, A, A, A]]),
        "response_mask": torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 1, 1]]),
        "old_log_probs": torch.tensor([[-1.0, -1.0, -2.0, 9.0], [-1.0, -2.0, -1.0, -1.0], [9.0] * 4]),
        "rollout_log_probs": torch.tensor([[-1.0, -2.0, -2.0, -9.0], [-3.0, -2.0, -1.5, -1.0], [-9.0] * 4]),
        "rollout_is_weights": torch.tensor([[1.0, 2.0, 1.0, 9.0], [2.0, 1.0, 1.6, 1.0], [9.0] * 4]),
    }


WEIGHTS = torch.tensor([[0.5, 2.0, 2.0, 7.0], [0.5, 0.5, 1.0, 0.5], [7.0] * 4])
AGES = torch.tensor([2, 0, 5])
VALID = torch.tensor([True, True, False])


def test_by_hand() -> None:
    found = staleness_metrics(WEIGHTS, columns(), AGES, VALID, threshold=2.0)
    # w r: 0.5, 4, 2 | 1, 0.5, 1.6, 0.5: sum 10.1, squares 0.25 + 16 + 4 + 1 + 0.25 + 2.56 + 0.25 = 24.31
    assert found == pytest.approx(
        {
            "staleness/effective_sample_size": 10.1**2 / 24.31 / 7,
            "staleness/age": 3 * 2 / 7,
            "staleness/weighted_age": 2 * (0.5 + 2 + 2) / 7.0,  # over the sum of all weights, 7
            "staleness/log_ratio_sq/reasoning": (0 + 4 + 0) / 3,
            "staleness/log_ratio_sq/action": (1 + 0 + 0.25) / 3,
            "staleness/log_ratio_sq/format": 0.0,
            "staleness/clipped_share/reasoning": 1 / 3,
            "staleness/clipped_share/action": 1 / 3,
            "staleness/clipped_share/format": 0.0,
        },
        rel=1e-6,
    )


def test_what_is_not_there_is_left_out() -> None:
    mine = columns()
    del mine["rollout_is_weights"], mine["rollout_log_probs"]
    mine["token_roles"] = torch.where(mine["token_roles"] == F, R, mine["token_roles"])
    found = staleness_metrics(torch.zeros_like(WEIGHTS), mine, AGES, VALID, threshold=2.0)
    assert found == {"staleness/effective_sample_size": 0.0, "staleness/age": pytest.approx(6 / 7)}
    assert not any("clipped" in key for key in staleness_metrics(WEIGHTS, columns(), AGES, VALID))


def test_without_correction_it_is_the_weights_own_sample_size() -> None:
    mine = columns()
    del mine["rollout_is_weights"]
    found = staleness_metrics(WEIGHTS, mine, AGES, VALID)
    # sum 7; squares 3 x 0.25 + 4 + 4 + 1 + 0.25 = 10
    assert found["staleness/effective_sample_size"] == pytest.approx(49 / 10 / 7)


@pytest.mark.parametrize("name", ["ages", "valid_rows", "weights", "rollout_log_probs"])
def test_shapes_that_differ_are_refused(name: str) -> None:
    values = {"weights": WEIGHTS, "ages": AGES, "valid_rows": VALID, **columns()}
    values[name] = values[name][:2]
    given = {key: value for key, value in values.items() if key not in ("weights", "ages", "valid_rows")}
    with pytest.raises(ValueError, match=name):
        staleness_metrics(values["weights"], given, values["ages"], values["valid_rows"])
