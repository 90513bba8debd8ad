"""Our columns beside verl's own in an agent loop's output."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from verl.experimental.agent_loop.agent_loop import AgentLoopMetrics

from actfocus_verl.integration.loop_output import TokenColumnsOutput


def output(**changes: Any) -> TokenColumnsOutput:
    values = {
        "prompt_ids": [5, 6],
        "response_ids": [7, 8, 9],
        "response_mask": [1, 0, 1],
        "response_logprobs": [-0.5, 0.0, -1.5],
        "reward_score": 0.25,
        "num_turns": 2,
        "metrics": AgentLoopMetrics(generate_sequences=0.1),
        "extra_fields": {"texts": ["a"]},
        "token_roles": [2, 0, 3],
        "turn_ids": [0, -1, 1],
        "turn_rewards": [0.5, -0.25],
        "anchors": [2**62 + 1, 3],
        "states": [4, 2**62 + 5],
        "replayed": [1, 0],
    }
    return TokenColumnsOutput(**(values | changes))


def test_columns_travel_as_tensors_beside_verls() -> None:
    columns = output().as_dict()

    expected = {
        "token_roles": torch.tensor([2, 0, 3]),
        "turn_ids": torch.tensor([0, -1, 1]),
        "turn_rewards": torch.tensor([0.5, -0.25]),
        "anchors": torch.tensor([2**62 + 1, 3]),
        "states": torch.tensor([4, 2**62 + 5]),
        "replayed": torch.tensor([1, 0]),
        "prompts": torch.tensor([5, 6]),
        "responses": torch.tensor([7, 8, 9]),
        "response_mask": torch.tensor([1, 0, 1]),
        "rollout_log_probs": torch.tensor([-0.5, 0.0, -1.5]),
        "rm_scores": torch.tensor([0.0, 0.0, 0.25]),  # verl puts the scalar reward on the last token
    }
    for name, column in expected.items():
        assert columns[name].dtype == column.dtype
        assert torch.equal(columns[name], column)
    assert columns["extra_fields"] == {"texts": ["a"]}


@pytest.mark.parametrize("name", ["token_roles", "turn_ids"])
def test_a_token_column_of_another_length_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} has 2 entries, the response has 3 tokens"):
        output(**{name: [0, 0]}).as_dict()


def test_a_loop_gives_the_columns_it_has() -> None:
    columns = output(turn_ids=None, turn_rewards=None, anchors=None).as_dict()
    assert columns["token_roles"].tolist() == [2, 0, 3]
    assert not {"turn_ids", "turn_rewards", "anchors"} & set(columns)
