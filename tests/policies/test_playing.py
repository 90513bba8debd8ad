"""Lock-step play is the same as playing alone, and the statistics are what one counts by hand."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from actfocus_verl.environments import make_world
from actfocus_verl.policies import play_batch, play_statistics
from actfocus_verl.rollout import Reply, StopReason, Trajectory, TurnText


@pytest.fixture(scope="module")
def policy(micro_folder):
    return AutoModelForCausalLM.from_pretrained(micro_folder), AutoTokenizer.from_pretrained(micro_folder)


def worlds(indices, max_turn_tokens=12):
    return [
        make_world("frozen_lake", split="evaluation", index=index, max_turn_tokens=max_turn_tokens, max_turns=2)
        for index in indices
    ]


def test_greedy_play_in_a_batch_is_play_alone(policy):
    """Left padding must not reach a result: episodes of several lengths, in one batch and one by one."""
    together = play_batch(*policy, worlds([0, 3, 8]), temperature=0.0)
    alone = [play_batch(*policy, [world], temperature=0.0)[0] for world in worlds([0, 3, 8])]
    assert len({len(trajectory.prompt_ids) for trajectory in together}) > 1
    assert together == alone


def test_greedy_play_takes_the_likeliest_tokens(policy):
    model, tokenizer = policy
    trajectory = play_batch(model, tokenizer, worlds([1]), temperature=0.0)[0]
    ids = trajectory.prompt_ids + trajectory.response_ids
    with torch.inference_mode():
        likeliest = model(torch.tensor([ids])).logits[0].argmax(-1).tolist()
    for position, mask in enumerate(trajectory.response_mask, start=len(trajectory.prompt_ids)):
        assert not mask or ids[position] == likeliest[position - 1]


def test_the_seed_decides_what_is_sampled(policy):
    one, same, other = (play_batch(*policy, worlds([0, 1]), seed=seed) for seed in (1, 1, 2))
    assert one == same != other


def test_the_random_state_is_left_alone(policy):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    play_batch(*policy, worlds([0]), seed=3)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_reply_is_no_longer_than_the_limit(policy):
    trajectories = play_batch(*policy, worlds([0, 1, 2, 3], max_turn_tokens=7))
    assert max(t.turn_ids.count(turn) for t in trajectories for turn in range(t.turns)) == 7


def test_the_observer_sees_the_world_before_the_reply_acts(policy):
    seen = []
    trajectory = play_batch(*policy, worlds([2]), observe=lambda world, reply: seen.append((world.render(), reply)))[0]
    assert seen == [(text.state, text.reply) for text in trajectory.texts]


def trajectory(*, success, roles, turn_ids, valid):
    return Trajectory(
        prompt_ids=[1] * 10, response_ids=[1] * len(roles), response_mask=[int(turn >= 0) for turn in turn_ids],
        log_probs=None, token_roles=roles, turn_ids=turn_ids, turn_rewards=[0.0] * (len(valid) - 1) + [float(success)],
        anchors=[0] * len(valid), states=[0] * len(valid), replies=[Reply([])] * len(valid), replayed=0,
        stop_reason=StopReason.SUCCESS if success else StopReason.MAX_TURNS, success=success, outcome={},
        actions=3, parsed_turns=len(valid), valid_turns=sum(valid), texts=[TurnText("", "", v) for v in valid],
        final_state="",
    )  # fmt: skip


def test_statistics_by_hand():
    statistics = play_statistics(
        [
            # 4 sampled tokens (roles 1 1 2 3), 2 of the environment, 2 sampled (1 3); both turns valid
            trajectory(success=True, roles=[1, 1, 2, 3, 0, 0, 1, 3], turn_ids=[0, 0, 0, 0, -1, -1, 1, 1], valid=[1, 1]),
            # 2 sampled tokens (1 1); the turn is malformed
            trajectory(success=False, roles=[1, 1], turn_ids=[0, 0], valid=[0]),
        ]
    )
    assert (statistics.episodes, statistics.successes, statistics.success_rate) == (2, 1, 0.5)
    # Wilson for 1 of 2, z = 1.959964: centre 0.5, half-width z / (1 + z^2/2) * sqrt(1/8 + z^2/16) = 0.4054692
    assert statistics.interval == pytest.approx((0.0945308, 0.9054692), abs=1e-6)
    assert statistics.well_formed_rate == pytest.approx(2 / 3)
    assert statistics.reasoning_share == pytest.approx(5 / 8)
    assert (statistics.turns, statistics.actions, statistics.mean_return) == (1.5, 3.0, 0.5)
    assert (statistics.prompt_tokens, statistics.response_tokens, statistics.sampled_tokens) == (10.0, 5.0, 4.0)
    assert (statistics.longest_episode, statistics.longest_reply) == (18, 4)
    assert statistics.stop_reasons == {"max_turns": 1, "success": 1}
