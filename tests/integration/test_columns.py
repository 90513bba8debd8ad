"""Our columns beside verl's own in an agent loop's output."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from verl.experimental.agent_loop.agent_loop import AgentLoopMetrics

from actfocus_verl.integration import loop_output
from actfocus_verl.integration.columns import NO_NUMBER
from actfocus_verl.integration.loop_output import TokenColumnsOutput
from tests.helpers.queue import LocalQueue
from tests.helpers.trainer import SECONDS, MakeTrainer, to_advantages

OF_TOKENS = ("response_ids", "response_mask", "response_logprobs", "token_roles", "turn_ids")


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


@pytest.mark.parametrize("name", ["response_mask", "response_logprobs", "token_roles", "turn_ids"])
@pytest.mark.parametrize("length", [0, 2, 4])
def test_a_column_of_tokens_of_another_length_is_refused(name: str, length: int) -> None:
    with pytest.raises(ValueError, match=f"{name} has {length} entries, the response has 3 tokens"):
        output(**{name: [0] * length}).as_dict()


@pytest.mark.parametrize("name", ["anchors", "next_anchors", "states", "replayed"])
def test_a_column_of_turns_of_another_length_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} has 3 entries, turn_rewards has 2; both need one entry per turn"):
        output(**{name: [0, 0, 0]}).as_dict()


def test_probes_of_another_length_are_refused() -> None:
    probes = {"probe_starts": [0], "probe_lengths": [2, 2], "answer_lengths": [1, 1], "probe_ids": [1, 2, 3, 4]}
    with pytest.raises(ValueError, match="probe_starts has 1 entries, turn_rewards has 2"):
        output(probes=probes).as_dict()
    assert output(probes=probes | {"probe_starts": [0, 2]}).as_dict()["probe_ids"].tolist() == [1, 2, 3, 4]


def test_every_column_of_lists_is_checked() -> None:
    """Whatever is added to the output later is one of these, or this fails."""
    lists = {name for name, field in TokenColumnsOutput.model_fields.items() if "list[" in str(field.annotation)}
    known = {"prompt_ids", "response_ids", "probes", "mm_processor_output"}
    assert lists - known == {*loop_output._OF_TOKENS, *loop_output._OF_TURNS}


class TestRowsOfAnyLoop:
    """On the driver: of verl's own output, which checks nothing, and of ours all the same."""

    COLUMNS = ("response_mask", "rollout_log_probs", "rm_scores", "token_roles", "turn_ids")

    @pytest.mark.parametrize("name", COLUMNS)
    @pytest.mark.parametrize("change", [-1, 1])
    def test_a_step_ends(
        self, make_trainer: MakeTrainer, queue: LocalQueue, rows: dict[str, Any], name: str, change: int
    ) -> None:
        for row in rows.values():
            row["rollout_log_probs"] = torch.zeros(len(row["responses"]))
        length = len(rows["b_1_0"]["responses"])
        rows["b_1_0"][name] = torch.zeros(length + change, dtype=rows["b_1_0"][name].dtype)
        message = f"{name} has {length + change} entries, the response has {length} tokens .row b_1_0"
        with pytest.raises(ValueError, match=message):
            make_trainer("credit=uniform")._balance_batch(queue.fill(rows), metrics={})


def test_a_response_without_tokens_has_a_masked_one() -> None:
    empty = {name: [] for name in OF_TOKENS}
    columns = output(**empty, turn_rewards=[0.25], anchors=[1], states=[2], replayed=[0]).as_dict()
    assert columns["responses"].tolist() == [6]  # any id of the vocabulary: it is masked
    assert columns["response_mask"].tolist() == columns["token_roles"].tolist() == [0]
    assert (columns["turn_ids"].tolist(), columns["rollout_log_probs"].tolist()) == ([-1], [0.0])
    assert columns["rm_scores"].tolist() == [0.25]
    bare = output(**empty | {"response_logprobs": None, "token_roles": None, "turn_ids": None}).as_dict()
    assert bare["response_mask"].tolist() == [0]
    assert not {"rollout_log_probs", "token_roles", "turn_ids"} & set(bare)


@pytest.mark.parametrize("score", ["7/10", [1.0]], ids=repr)
def test_a_score_that_is_no_number_is_nan_and_says_what_it_was(score: Any) -> None:
    found = output(extra_fields={"reward_extra_info": {"acc": 1.0}})
    found.reward_score = score  # pydantic looks at what is passed to it only
    columns = found.as_dict()
    assert columns["rm_scores"].isnan().tolist() == [False, False, True]
    assert columns["extra_fields"]["reward_extra_info"] == {"acc": 1.0, NO_NUMBER: repr(score)}


class TestAnEpisodeWithoutTokensInAStep:
    """Broken off before its first token: its group knows its return, and nothing of it trains."""

    @pytest.mark.parametrize("algorithm", ["grpo", "gigpo"])
    def test_by_hand(self, make_trainer: MakeTrainer, queue: LocalQueue, rows: dict[str, Any], algorithm: str) -> None:
        info = {"success": 0.0, "turns": 1.0, "valid_action_rate": 0.0, "stop_reason": "aborted"}
        empty = {name: [] for name in OF_TOKENS}
        aborted = output(
            **empty,
            reward_score=-0.5,
            turn_rewards=[-0.5],
            anchors=[1],
            states=[1],
            replayed=[0],
            extra_fields={"reward_extra_info": info},
        ).as_dict()
        row = rows["a_1_0"] | {name: column for name, column in aborted.items() if name in rows["a_1_0"]}
        row["loss_mask"] = row["response_mask"]
        row["input_ids"] = torch.cat([row["prompts"], row["responses"]])
        row["position_ids"] = torch.arange(len(row["input_ids"]))
        rows["a_1_0"] = row
        overrides = ["estimator.step_weight=0"] if algorithm == "gigpo" else []
        trainer = make_trainer(
            f"algorithm={algorithm}", "algorithm.norm_adv_by_std_in_grpo=true", "credit=actfocus", *overrides
        )
        batch, metrics = to_advantages(trainer, queue.fill(rows))
        # group a has the returns 1, -0.5, 0: mean 1/6, squares 25/36 + 16/36 + 1/36 = 42/36, deviation sqrt(21/36)
        deviation = math.sqrt(21 / 36)
        for key, value in {"a_0_0": 1.0, "a_2_0": 0.0}.items():
            sampled = queue.rows[key]["response_mask"].bool()
            found = queue.rows[key]["advantages"][sampled]
            torch.testing.assert_close(found, torch.full_like(found, (value - 1 / 6) / deviation), rtol=0, atol=1e-4)
        assert queue.rows["a_1_0"]["advantages"].tolist() == queue.rows["a_1_0"]["token_weights"].tolist() == [0.0]
        assert metrics["filter/group_std/max"] == pytest.approx(deviation)
        assert metrics["stop/aborted"] == pytest.approx(1 / 6)
        metrics = dict(metrics)
        trainer._note_played(batch, metrics)
        trainer._compute_metrics(batch, metrics, SECONDS, global_steps=1, epoch=0)
        assert metrics["critic/score/min"] == -0.5


def test_a_loop_gives_the_columns_it_has() -> None:
    columns = output(turn_ids=None, turn_rewards=None, anchors=None).as_dict()
    assert columns["token_roles"].tolist() == [2, 0, 3]
    assert not {"turn_ids", "turn_rewards", "anchors"} & set(columns)


def test_a_step_without_a_token_to_train_ends(
    make_trainer: MakeTrainer, queue: LocalQueue, rows: dict[str, Any]
) -> None:
    for row in rows.values():
        row["response_mask"] = torch.zeros_like(row["response_mask"])
    with pytest.raises(RuntimeError, match="no episode of step 1 has a token to train: every reply was empty"):
        make_trainer("credit=uniform")._balance_batch(queue.fill(rows), metrics={})
