"""A conversation of several outputs is one episode: it counts once, whatever an agent loop cut it into."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from actfocus_verl.credit.diagnostics import group_metrics, prompt_groups
from actfocus_verl.credit.filters import Selection, build_filter
from actfocus_verl.errors import ConfigurationError
from actfocus_verl.integration.columns import conversation_ids, conversation_rows, first_outputs, last_outputs
from actfocus_verl.integration.estimators import require_single_outputs
from actfocus_verl.integration.group_filter import apply_filter, filter_metrics
from actfocus_verl.integration.run_log import first_conversations
from actfocus_verl.integration.trainer import TokenCreditTrainerSync, episode_metrics
from tests.helpers.queue import LocalQueue
from tests.helpers.trainer import SECONDS, MakeTrainer, to_advantages

Rows = dict[str, dict[str, Any]]
FILTERS = (
    {"name": "none"},
    {"name": "reward_variance", "ratio": 0.5},
    {"name": "zero_variance", "loss_scaling": "sqrt"},
    {"name": "top_p", "p": 0.7},
    {"name": "min_p"},
    {"name": "soft_reweight"},
)


@dataclass(frozen=True)
class Conversation:
    group: str
    session: int
    value: float
    roles: list[int]
    """Of its tokens, seven at least: enough for a token an output."""
    outputs: int


@dataclass(frozen=True)
class Batch:
    keys: list[str]
    returns: list[float]
    infos: list[dict[str, Any]]
    roles: list[list[int]]


@st.composite
def conversations(draw: st.DrawFn) -> list[Conversation]:
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    value = st.sampled_from([0.0, 0.1, 0.3, 0.5, 1.0, -0.1])
    roles = st.lists(st.integers(0, 3), min_size=7, max_size=12)
    return [
        Conversation(f"u_{group}", session, draw(value), draw(roles), draw(st.integers(1, 7)))
        for group, size in enumerate(sizes)
        for session in range(size)
    ]


def rows_of(found: list[Conversation], *, split: bool, order: Any = None) -> Batch:
    """What verl makes of them. An output that is not the last is given nonsense: nobody may read it."""
    rows = []
    for each in found:
        outputs = each.outputs if split else 1
        cuts = [i * len(each.roles) // outputs for i in range(outputs + 1)]
        for index in range(outputs):
            last = index == outputs - 1
            key = f"{each.group}_{each.session}_{index}"
            info = {
                "success": float(each.value > 0.4),
                "turns": 3.0,
                "valid_action_rate": 0.5,
                "stop_reason": "failure",
            }
            stale = {**info, "success": 7.0, "stop_reason": "stale"}
            roles = each.roles[cuts[index] : cuts[index + 1]]
            rows.append((key, each.value if last else -99.0, info if last else stale, roles))
    if order is not None:
        order.shuffle(rows)
    return Batch(*map(list, zip(*rows, strict=True)))


def measured(batch: Batch) -> tuple[list[tuple[set[str], Selection, dict[str, float]]], dict[str, float], Any, int]:
    filtered = []
    for config in FILTERS:
        positions, selection = apply_filter(batch.keys, batch.returns, build_filter(config))
        kept = {batch.keys[position].rsplit("_", 2)[0] for position in positions}
        assert len(positions) == sum(key.rsplit("_", 2)[0] in kept for key in batch.keys)  # every row of a kept group
        filtered.append((kept, selection, filter_metrics(selection)))
    nested = torch.nested.as_nested_tensor([torch.tensor(row) for row in batch.roles], layout=torch.jagged)
    metrics = episode_metrics([{"reward_extra_info": batch.infos[i]} for i in conversation_rows(batch.keys)], nested)
    padded = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in batch.roles], batch_first=True)
    returns = torch.tensor(batch.returns)[last_outputs(batch.keys)]
    signal = padded.double() * 1.5 - 4
    groups = prompt_groups(
        signal,
        {"token_roles": padded},
        returns,
        torch.tensor([int(key.split("_")[1]) for key in batch.keys]),
        conversation_ids=conversation_ids(batch.keys),
    )
    return filtered, metrics, groups, len(conversation_rows(batch.keys))


@given(found=conversations(), order=st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_cutting_and_shuffling_change_nothing(found: list[Conversation], order: Any) -> None:
    whole = measured(rows_of(found, split=False))
    cut = measured(rows_of(found, split=True, order=order))
    assert cut[0] == whole[0]  # to the bit
    assert cut[1] == pytest.approx(whole[1])
    assert cut[3] == whole[3] == len(found)
    one, other = cut[2], whole[2]
    assert (one.ids.tolist(), one.sizes.tolist()) == (other.ids.tolist(), other.sizes.tolist())
    torch.testing.assert_close(one.return_std, other.return_std, rtol=0, atol=0, equal_nan=True)
    for part, means in one.means.items():
        torch.testing.assert_close(means, other.means[part], equal_nan=True)
    assert group_metrics(one).keys() == group_metrics(other).keys()


@given(found=conversations(), order=st.randoms(use_true_random=False), count=st.integers(1, 9))
@settings(max_examples=40, deadline=None)
def test_the_log_takes_whole_conversations_in_their_order(found: list[Conversation], order: Any, count: int) -> None:
    batch = rows_of(found, split=True, order=order)
    wanted = [f"{each.group}_{each.session}_{index}" for each in found[:count] for index in range(each.outputs)]
    assert first_conversations(batch.keys, count) == wanted


def test_the_sessions_of_the_log_are_in_order_of_number() -> None:
    keys = [f"a_{session}_0" for session in range(12)]
    assert first_conversations(keys[::-1], 11) == keys[:11]


def test_by_hand() -> None:
    # conversations: a 1 (of seven outputs) and 0, b 0.8 and 0: deviations sqrt(1/2) and 0.8 sqrt(1/2)
    keys = [*(f"a_0_{i}" for i in range(7)), "a_1_0", "b_0_0", "b_1_0"]
    returns = [1.0] * 7 + [0.0, 0.8, 0.0]
    positions, selection = apply_filter(keys, returns, build_filter({"name": "reward_variance", "ratio": 0.5}))
    assert [keys[position] for position in positions] == keys[:8]
    assert selection.deviations == pytest.approx({"a": 0.70711, "b": 0.56569}, abs=1e-5)


def test_the_last_output_is_that_of_the_highest_number() -> None:
    keys = ["a_0_10", "a_0_9", "b_0_0", "a_0_2"]
    assert last_outputs(keys) == [0, 0, 2, 0]
    assert conversation_rows(keys) == [0, 2]
    assert first_outputs(keys) == [2, 3]
    assert conversation_ids(keys).tolist() == [0, 0, 1, 0]


def test_lost_episodes_are_not_hidden_by_outputs() -> None:
    trainer = object.__new__(TokenCreditTrainerSync)
    trainer.parameter_sync_step, trainer.global_steps = 1, 7
    trainer.run_log = SimpleNamespace(last_failure=lambda: "a tool did not answer")
    trainer.config = SimpleNamespace(
        data=SimpleNamespace(train_batch_size=2), actor_rollout_ref=SimpleNamespace(rollout=SimpleNamespace(n=2))
    )
    trainer._require_all_episodes(SimpleNamespace(keys=["a_0_0", "a_0_1", "a_1_0", "b_0_0", "b_1_0"]))
    with pytest.raises(RuntimeError, match=r"2 of 4 episodes of step 7.*a tool did not answer"):
        trainer._require_all_episodes(SimpleNamespace(keys=["a_0_0", "a_0_1", "a_1_0", "a_1_1"]))


@pytest.mark.parametrize(
    "name",
    ["turn_grpo", "gigpo", "graphgpo", "turn_ppo", "vetta", "bilevel_gae", "igpo", "a2tgpo", "carl", "rloo", "remax"],
)
def test_estimators_that_take_rows_for_episodes_say_so(name: str) -> None:
    require_single_outputs(name, ["a_0_0", "a_1_0"])
    with pytest.raises(ConfigurationError, match=f"adv_estimator='{name}': takes each output .* for an episode"):
        require_single_outputs(name, ["a_0_0", "a_1_0", "a_0_1"])


@pytest.mark.parametrize("name", ["grpo", "gae", "a_user_s_own"])
def test_the_others_do_not(name: str) -> None:
    require_single_outputs(name, ["a_0_0", "a_1_0", "a_0_1"])


class TestInTheTrainer:
    @pytest.fixture
    def rows(self, rows: Rows) -> Rows:
        """The winner of group a took three outputs. Each has the conversation's return, as verl writes it."""
        for index in (1, 2):
            key = f"a_0_{index}"
            rows[key] = dict(rows["b_2_0" if index == 1 else "b_1_0"], uid="a")
            scores = torch.zeros_like(rows[key]["rm_scores"])
            scores[-1] = 1.0
            rows[key] |= {"rm_scores": scores, "extra_fields": rows["a_0_0"]["extra_fields"]}
        return rows

    def test_a_step_by_hand(self, make_trainer: MakeTrainer, queue: LocalQueue, rows: Rows, tmp_path: Path) -> None:
        trainer = make_trainer("credit=actfocus", "filter=soft_reweight", "run.diagnose=true", "run.rollouts_a_step=2")
        batch, metrics = to_advantages(trainer, queue.fill(rows))
        # conversations of a: 1, 0, 0: mean 1/3, deviation sqrt(1/3): 1.1547; over the five rows it would be 0.73
        for key in ("a_0_0", "a_0_1", "a_0_2"):
            sampled = queue.rows[key]["response_mask"].bool()
            assert queue.rows[key]["advantages"][sampled].tolist() == pytest.approx(
                [1.1547] * int(sampled.sum()), abs=1e-4
            )
        assert metrics["filter/group_std/max"] == pytest.approx(3**-0.5)
        assert metrics["episode/success_rate"] == pytest.approx(1 / 6)
        assert metrics["diagnose/groups"] == 2.0
        trainer._note_played(batch, metrics)
        trainer._compute_metrics(batch, metrics, SECONDS, global_steps=1, epoch=0)
        lines = [json.loads(text) for text in (tmp_path / "rollouts" / "1.jsonl").read_text().splitlines()]
        assert [(line["group"], line["session"], line["output"], line["return"]) for line in lines] == [
            ("a", 0, 0, 1.0),
            ("a", 0, 1, 1.0),
            ("a", 0, 2, 1.0),
            ("a", 1, 0, 0.0),
        ]

    def test_a_turn_based_estimator_ends_the_step(
        self, make_trainer: MakeTrainer, queue: LocalQueue, rows: Rows
    ) -> None:
        with pytest.raises(ConfigurationError, match="'gigpo': takes each output"):
            make_trainer("algorithm=gigpo")._balance_batch(queue.fill(rows), metrics={})

    def test_a_row_that_trains_nothing_counts_in_its_group(
        self, make_trainer: MakeTrainer, queue: LocalQueue, rows: Rows
    ) -> None:
        """`agent.unfinished=mask`: one loser of group a has an all-zero mask. Its return is compared, none is NaN."""
        masked = rows["a_1_0"]
        masked["response_mask"] = torch.zeros_like(masked["response_mask"])
        masked["token_roles"] = torch.zeros_like(masked["token_roles"])
        masked["turn_ids"] = torch.full_like(masked["turn_ids"], -1)
        masked["loss_mask"] = masked["response_mask"]
        trainer = make_trainer("credit=actfocus", "filter=soft_reweight", "run.diagnose=true")
        _, metrics = to_advantages(trainer, queue.fill(rows))
        sampled = queue.rows["a_0_0"]["response_mask"].bool()
        # returns of a: 1, 0, 0, as if all of them trained
        assert queue.rows["a_0_0"]["advantages"][sampled].tolist() == pytest.approx(
            [1.1547] * int(sampled.sum()), abs=1e-4
        )
        assert metrics["filter/group_std/max"] == pytest.approx(3**-0.5)
        for name in ("advantages", "token_weights"):
            assert not bool(queue.rows["a_1_0"][name].any())
            assert all(bool(torch.isfinite(row[name]).all()) for row in queue.rows.values())
        finite = [key for key, value in metrics.items() if isinstance(value, float) and value != value]
        assert finite == []
