"""Forked rollouts as verl's worker starts them, and CARL over them in a step of the trainer. No Ray, no vLLM."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import math
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from transformers import PreTrainedTokenizerFast
from verl.experimental.agent_loop.agent_loop import DictConfigWrap, _agent_loop_registry
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync
from verl.workers.rollout.replica import TokenOutput

from actfocus_verl.environments.frozen_lake import FrozenLake
from actfocus_verl.integration import forked_loop
from actfocus_verl.integration.columns import NO_NUMBER
from actfocus_verl.integration.forked_loop import ForkedAgentLoop, fork_metrics
from actfocus_verl.integration.loop_output import TokenColumnsOutput
from tests.helpers.queue import LocalQueue
from tests.helpers.tokenizer import build_tokenizer
from tests.helpers.trainer import MakeTrainer, Trainer

Outputs = list[TokenColumnsOutput]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer()


class DiceServer:
    """Moves anywhere, at times nowhere, which costs; each time with another thought, and after another while."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, *, fails_at: int | None = None, seed: int = 4) -> None:
        self.tokenizer, self.fails_at = tokenizer, fails_at
        self.rng, self.calls = np.random.default_rng(seed), 0

    async def generate(self, request_id: str, *, prompt_ids: list[int], sampling_params: dict[str, Any]) -> TokenOutput:
        self.calls += 1
        if self.calls == self.fails_at:
            raise ConnectionError("the server went away")
        thought, move = self.rng.integers(10**6), self.rng.choice(["Left", "Right", "Up", "Down", "Fly"])
        ids = self.tokenizer.encode(f"<think>{thought}</think><answer>{move}</answer><|im_end|>")
        await asyncio.sleep(float(self.rng.random()) / 1000)
        log_probs = (-self.rng.random(len(ids))).tolist()
        return TokenOutput(token_ids=ids, log_probs=log_probs, stop_reason="completed", extra_fields={})


def play(server: Any, tokenizer: PreTrainedTokenizerFast, *, n: int, roots: int = 1, wave: int = 1, **row: Any) -> Any:
    """The rows of one prompt side by side in one event loop, like verl's `_run_prompt`; errors are returned."""
    config = OmegaConf.create(
        {
            "env": {"name": "frozen_lake", "preset": "clean", "seed": 1, "train_size": 8, "evaluation_size": 8},
            "rollout": {"name": "forked", "roots": roots, "wave": wave},
            "actor_rollout_ref": {"rollout": {"n": n, "prompt_length": 1500, "response_length": 2500}},
        }
    )
    row = {"split": "train", "index": 3, "global_steps": 1, "uid": "u", "raw_prompt": []} | row

    async def together() -> Any:
        loops = [
            ForkedAgentLoop(
                trainer_config=DictConfigWrap(config),
                server_manager=server,
                tokenizer=tokenizer,
                processor=None,
                dataset_cls=None,
                data_config=DictConfigWrap(OmegaConf.create({})),
            )
            for _ in range(n)
        ]
        runs = [loop.run({}, session_id=session, **row) for session, loop in enumerate(loops)]
        return await asyncio.gather(*runs, return_exceptions=True)

    return asyncio.run(together())


def test_it_is_registered_by_name() -> None:
    target = f"{ForkedAgentLoop.__module__}.{ForkedAgentLoop.__qualname__}"
    assert _agent_loop_registry["actfocus_forked"] == {"_target_": target}


@pytest.mark.parametrize(("roots", "wave"), [(1, 1), (3, 2)])
def test_the_rows_of_a_prompt_are_one_tree(tokenizer: PreTrainedTokenizerFast, roots: int, wave: int) -> None:
    server = DiceServer(tokenizer)
    outputs: Outputs = play(server, tokenizer, n=9, roots=roots, wave=wave)
    assert not forked_loop._groups  # nothing is kept of a prompt that was played
    assert all(sum(output.replayed) == 0 for output in outputs[:roots])
    replayed = [sum(output.replayed) for output in outputs]
    assert max(replayed) > 0
    for session, output in enumerate(outputs):
        shared = sum(output.replayed)
        assert output.replayed == [1] * shared + [0] * (len(output.states) - shared)
        assert len(output.states) == len(output.turn_rewards) == len(output.anchors) == output.num_turns
        assert {turn for turn in output.turn_ids if turn >= 0} == set(range(shared, output.num_turns))
        assert [turn >= 0 for turn in output.turn_ids] == [mask == 1 for mask in output.response_mask]
        assert output.reward_score == pytest.approx(sum(output.turn_rewards))
        assert output.extra_fields["reward_extra_info"]["fork"] == shared
        earlier = outputs[: max(roots, session)]
        assert shared == 0 or any(
            other.states[: shared + 1] == output.states[: shared + 1] and sum(other.replayed) <= shared
            for other in earlier
        )
    turns = sum(output.num_turns for output in outputs)
    assert server.calls == turns - sum(replayed)  # a replayed turn is not sampled again


def test_a_world_without_a_number_for_a_reward_gives_rows_that_say_so(
    tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first world to be asked gives none, and the other episodes of the group are played all the same."""
    step, given = FrozenLake.step, iter([math.nan])

    def once(world: FrozenLake, action: Any) -> Any:
        result = step(world, action)
        return dataclasses.replace(result, reward=next(given, result.reward))

    monkeypatch.setattr(FrozenLake, "step", once)
    outputs: Outputs = play(DiceServer(tokenizer), tokenizer, n=4, roots=2)
    assert [math.isnan(output.reward_score) for output in outputs].count(True) == 1
    (lost,) = [output for output in outputs if math.isnan(output.reward_score)]
    assert lost.extra_fields["reward_extra_info"] == {NO_NUMBER: "nan"}
    assert not forked_loop._groups


def test_the_first_fork_starts_in_the_most_uncertain_state(tokenizer: PreTrainedTokenizerFast) -> None:
    found = set()
    for seed in range(6):
        root, fork = play(DiceServer(tokenizer, seed=seed), tokenizer, n=2)
        tokens = list(zip(root.response_logprobs, root.turn_ids, strict=True))
        entropies = [
            statistics.fmean(-log_prob for log_prob, number in tokens if number == turn)
            for turn in range(root.num_turns)
        ]
        assert sum(fork.replayed) == entropies.index(max(entropies))
        found.add(sum(fork.replayed))
    assert len(found) > 2


def test_an_episode_that_fails_does_not_hold_up_the_others(tokenizer: PreTrainedTokenizerFast) -> None:
    outputs = play(DiceServer(tokenizer, fails_at=9), tokenizer, n=6)
    assert [isinstance(output, ConnectionError) for output in outputs].count(True) == 1
    assert [isinstance(output, TokenColumnsOutput) for output in outputs].count(True) == 5
    outputs = play(DiceServer(tokenizer, fails_at=1), tokenizer, n=4)
    assert all(isinstance(output, Exception) for output in outputs)
    assert "nothing to fork from" in str(outputs[3])
    assert not forked_loop._groups


def test_a_world_that_cannot_be_replayed_is_counted(
    tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    draws = np.random.default_rng(0)
    monkeypatch.setattr(FrozenLake, "anchor", lambda world: int(draws.integers(2**62)))
    with caplog.at_level(logging.WARNING):
        outputs: Outputs = play(DiceServer(tokenizer), tokenizer, n=8)
    infos = [output.extra_fields["reward_extra_info"] for output in outputs]
    mismatches = [info["fork"] for info in infos].count(-1)
    assert mismatches > 0
    assert all(sum(output.replayed) == 0 for output in outputs)  # played from the beginning instead
    assert all(sum(output.response_mask) > 0 for output in outputs)
    assert caplog.text.count("a fork of train/3 is played from the beginning: the state of the world") == mismatches
    assert fork_metrics(infos)["rollout/replay_mismatches"] == mismatches


def test_metrics_by_hand() -> None:
    assert fork_metrics([{"fork": 0.0}, {"fork": 3.0}, {"fork": -1.0}, {"fork": 1.0}]) == {
        "rollout/forked": 0.5,
        "rollout/replayed_turns": 1.0,
        "rollout/replay_mismatches": 1.0,
    }
    assert fork_metrics([{"success": 1.0}]) == {}


# In a step of the trainer


def stored(outputs: Outputs, uid: str) -> dict[str, dict[str, Any]]:
    """The rows as verl's worker stores them."""
    rows = {}
    for session, output in enumerate(outputs):
        row = output.as_dict() | {"uid": uid}
        row["loss_mask"] = row["response_mask"]
        row["input_ids"] = torch.cat([row["prompts"], row["responses"]])
        row["position_ids"] = torch.arange(len(row["input_ids"]))
        rows[f"{uid}_{session}_0"] = row
    return rows


@pytest.fixture(scope="module")
def forests(tokenizer: PreTrainedTokenizerFast) -> dict[str, Outputs]:
    """Two prompts of three episodes."""
    return {
        uid: play(DiceServer(tokenizer), tokenizer, n=3, uid=uid, index=index) for uid, index in (("a", 3), ("b", 5))
    }


def to_advantages(trainer: Trainer, queue: LocalQueue, rows: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """A step up to its advantages; instead of a log-prob pass, the policy is the one that sampled."""
    metrics: dict[str, Any] = {}
    batch = trainer._balance_batch(queue.fill(rows), metrics=metrics)
    for row in queue.rows.values():
        row["old_log_probs"] = row["rollout_log_probs"]
    return trainer._compute_advantage(batch, metrics=metrics), metrics


def slow_carl(outputs: Outputs) -> list[list[float | None]]:
    """Advantage of each token of a prompt's rows; None where it does not train."""
    whole = [output.prompt_ids + output.response_ids for output in outputs]
    starts = [[] for _ in outputs]  # of each row, the prefixes its turns were sampled after; None where replayed
    for row, output in enumerate(outputs):
        for turn in range(output.num_turns):
            if output.replayed[turn]:
                starts[row].append(None)
            else:
                starts[row].append(tuple(whole[row][: len(output.prompt_ids) + output.turn_ids.index(turn)]))

    def reached(row: int, turn: int) -> float:
        last = turn + 1 == len(starts[row])
        return float(outputs[row].reward_score or 0.0) if last else value(starts[row][turn + 1])

    def value(prefix: Any) -> float:
        found = [(row, turn) for row, own in enumerate(starts) for turn, start in enumerate(own) if start == prefix]
        return statistics.fmean(reached(*place) for place in found)

    sampled = [start for own in starts for start in own if start is not None]
    return [
        [
            None if turn < 0 or sampled.count(starts[row][turn]) < 2 else reached(row, turn) - value(starts[row][turn])
            for turn in output.turn_ids
        ]
        for row, output in enumerate(outputs)
    ]


@pytest.mark.parametrize("credit", ["uniform", "action_only"])
def test_carl_in_a_step(make_trainer: MakeTrainer, queue: LocalQueue, forests: dict[str, Outputs], credit: str) -> None:
    rows = {key: row for uid, outputs in forests.items() for key, row in stored(outputs, uid).items()}
    order = sorted(rows, key=lambda key: key[::-1])
    trainer = make_trainer("algorithm=carl", "actor_rollout_ref.rollout.n=1", f"credit={credit}")
    batch, metrics = to_advantages(trainer, queue, {key: rows[key] for key in order})
    expected = {
        f"{uid}_{session}_0": tokens
        for uid, outputs in forests.items()
        for session, tokens in enumerate(slow_carl(outputs))
    }
    assert any(value for tokens in expected.values() for value in tokens)
    for key, tokens in expected.items():
        row = queue.rows[key]
        assert row["advantages"].tolist() == pytest.approx([value or 0.0 for value in tokens], abs=1e-5)
        trained = [int(value is not None) for value in tokens]
        assert row["response_mask"].tolist() == row["loss_mask"].tolist() == trained
        wanted = [2] if credit == "action_only" else [1, 2, 3]
        weighted = [kept and role in wanted for kept, role in zip(trained, row["token_roles"].tolist(), strict=True)]
        assert [weight > 0 for weight in row["token_weights"].tolist()] == weighted
        assert any(trained)
    weights = torch.cat([queue.rows[key]["token_weights"] for key in rows])
    kept = sum(value is not None for tokens in expected.values() for value in tokens)
    assert float(weights.sum()) == pytest.approx(kept)  # mean 1 over what trains
    assert {"response_mask", "loss_mask", "advantages", "token_weights"} <= set(batch.fields)
    draws = sum(output.num_turns - sum(output.replayed) for outputs in forests.values() for output in outputs)
    assert metrics["estimator/critical_share"] == pytest.approx(metrics["estimator/critical_draws"] / draws)
    assert metrics["estimator/steps_without_update"] == 0.0
    assert metrics["rollout/replay_mismatches"] == 0.0
    padding = [key for key, tag in zip(batch.keys, batch.tags, strict=True) if tag.get("is_padding")]
    assert len(padding) == 2
    assert all(queue.rows[key]["response_mask"].tolist() == [0] for key in padding)


def test_a_step_with_nothing_to_compare_updates_nothing(
    make_trainer: MakeTrainer,
    queue: LocalQueue,
    forests: dict[str, Outputs],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Six prompts of one episode: no state has two draws. The step after it updates again."""
    updates: list[Any] = []
    monkeypatch.setattr(PPOTrainerSync, "_update_actor", lambda self, batch, metrics: updates.append(batch) or batch)
    alone = {key: row for uid in "abcdef" for key, row in stored([forests["a"][0]], uid).items()}
    trainer = make_trainer("algorithm=carl", "credit=uniform")
    batch, metrics = to_advantages(trainer, queue, alone)
    assert trainer._update_actor(batch, metrics) is batch
    assert updates == []
    assert metrics["estimator/steps_without_update"] == 1.0
    assert all(torch.equal(queue.rows[key]["response_mask"], row["response_mask"]) for key, row in alone.items())
    assert not any(queue.rows[key]["advantages"].any() for key in alone)
    metrics |= {"training/global_step": 1}
    timing = dict.fromkeys(("gen", "step", "adv", "update_actor"), 1.0)
    trainer._rollout_moe_lb_metrics_accumulator = None
    trainer._note_played(batch, metrics)
    trainer._compute_metrics(batch, metrics, timing, global_steps=1, epoch=0)  # verl's, over all sampled tokens
    assert metrics["critic/advantages/mean"] == 0.0
    [records] = tmp_path.rglob("rollouts/1.jsonl")
    assert [json.loads(line)["replayed_turns"] for line in records.read_text().splitlines()] == [0, 0]

    rows = {key: row for uid, outputs in forests.items() for key, row in stored(outputs, uid).items()}
    batch, metrics = to_advantages(trainer, queue, rows)
    trainer._update_actor(batch, metrics)
    assert updates == [batch]


@pytest.mark.parametrize("padded", [False, True])
def test_episodes_of_one_turn_are_grpo_without_its_division(
    make_trainer: MakeTrainer, queue: LocalQueue, rows: dict[str, dict[str, Any]], padded: bool
) -> None:
    for row in rows.values():
        row["turn_ids"] = torch.where(row["token_roles"] > 0, 0, -1)
        row["response_mask"] = row["loss_mask"] = (row["token_roles"] > 0).long()
        row["rollout_log_probs"] = torch.zeros(len(row["responses"]))
        row["turn_rewards"], row["anchors"] = row["rm_scores"].sum()[None], torch.tensor([1])
        row["states"], row["replayed"] = torch.tensor([8]), torch.tensor([0])
    groups = 4 if padded else 3
    setting = f"actor_rollout_ref.actor.ppo_mini_batch_size={groups}"
    found = {}
    for algorithm in ("carl", "grpo"):
        own = ["algorithm.norm_adv_by_std_in_grpo=false", f"algorithm={algorithm}", "actor_rollout_ref.rollout.n=1"]
        batch, _ = to_advantages(make_trainer(*own, "credit=uniform", setting), queue, rows)
        assert any(tag.get("is_padding") for tag in batch.tags) == padded
        found[algorithm] = {key: queue.rows[key]["advantages"] for key in rows}
        assert all(torch.equal(queue.rows[key]["response_mask"], row["response_mask"]) for key, row in rows.items())
        queue.rows.clear()
    for key in rows:
        torch.testing.assert_close(found["carl"][key], found["grpo"][key], rtol=1e-6, atol=1e-7)
    assert max(float(row.abs().max()) for row in found["carl"].values()) > 0.5
