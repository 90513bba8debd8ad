"""Two real steps through verl, Ray and vLLM, for each algorithm."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from actfocus_verl.reporting.run_folder import RunFolder
from tests.e2e.runs import Run

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

LOG_PROB_GAP = 1e-3
"""nat a token: the bound on the mean gap between vLLM's and the actor's log-probs."""


def finished(run: Run) -> RunFolder:
    assert run.wait() == 0, run.terminal[-4000:]
    assert run.survivors() == []
    return RunFolder.open(run.folder)


def test_grpo_with_actfocus_trains_and_writes_its_folder(start: Callable[..., Run]) -> None:
    run = start(
        "grpo",
        "algorithm=grpo",
        "credit=actfocus",
        # The rule holds at step 2, so that step 3 is the last, which is evaluated.
        "trainer.total_training_steps=50",
        "early_stop.success_below=1.0",
        "early_stop.evaluations=2",
        "trainer.val_before_train=true",
        "trainer.test_freq=2",
        # High enough that vLLM serving the weights of a step ago would show.
        "actor_rollout_ref.actor.optim.lr=1e-3",
    )
    folder = finished(run)

    assert [line["step"] for line in folder.metrics] == [1, 2, 3]
    assert [(entry.step, entry.episodes) for entry in folder.evaluations] == [(0, 16), (2, 16), (3, 16)]
    assert "success was below 1 in 2 evaluations in a row" in run.terminal
    assert (folder.info["exit_reason"], folder.info["versions"]["verl"]) == ("finished", "0.9.1")
    stages = ["checking the configuration", "starting Ray", "loading the models", "starting vLLM"]
    assert list(folder.info["start_seconds"]) == stages
    for line in folder.metrics:
        # After each weight sync, vLLM's log-probs are the actor's.
        assert abs(line["rollout_corr/kl"]) < LOG_PROB_GAP
        assert line["training/rollout_probs_diff_max"] < LOG_PROB_GAP
        assert 0 < line["credit/action_token_share"] < 0.4
        assert line["credit/mean_weight/action"] > 4 * line["credit/mean_weight/reasoning"]
    # Of the policy as it was built: a step at this learning rate may well cost it the reply's format.
    assert folder.metrics[0]["episode/valid_action_rate"] > 0.9
    assert any(line["actor/grad_norm"] > 0 for line in folder.metrics)

    rollout = json.loads((run.folder / "rollouts" / "1.jsonl").read_text().splitlines()[0])
    tokens = len(rollout["responses"])
    columns = ("token_texts", "token_roles", "token_weights", "energy", "turn_ids")
    assert {len(rollout[name]) for name in columns} == {tokens}
    sampled = zip(rollout["token_texts"], rollout["turn_ids"], strict=True)
    assert "".join(text for text, turn in sampled if turn >= 0) == "".join(turn["reply"] for turn in rollout["texts"])
    assert rollout["final_state"]
    assert rollout["stratum"] > 0  # by which `diagnose` tells the boards' difficulty from the tokens' energy
    weighted = [
        role for role, weight in zip(rollout["token_roles"], rollout["token_weights"], strict=True) if weight > 0
    ]
    assert set(weighted) == {1, 2, 3}  # reasoning, action, format; nothing of the environment


@pytest.mark.nightly
def test_ppo_with_actfocus_on_two_ranks_with_filtered_groups(start: Callable[..., Run]) -> None:
    folder = finished(
        start(
            "ppo",
            "algorithm=ppo",
            "credit=actfocus",
            "filter=reward_variance",
            "filter.ratio=0.5",
            "trainer.n_gpus_per_node=2",
        )
    )
    assert [line["step"] for line in folder.metrics] == [1, 2]
    for line in folder.metrics:
        assert (line["filter/kept_groups"], line["filter/dropped_groups"]) == (2, 2)
        assert line["critic/vf_loss"] >= 0
        assert abs(line["rollout_corr/kl"]) < LOG_PROB_GAP
