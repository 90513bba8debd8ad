"""Episodes on a lake without slips, worked by hand: rewards, limits, columns and the reasons to stop."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest

from actfocus_verl.columns import SOLVED
from actfocus_verl.credit.tokens import TokenRole
from actfocus_verl.environments import Observation
from actfocus_verl.environments.frozen_lake import FrozenLake
from actfocus_verl.environments.frozen_lake.rules import Board
from actfocus_verl.errors import ConfigurationError
from actfocus_verl.rollout import ChatCodec, Episode, Reply, StopReason
from tests.helpers.episodes import ListPolicy, dry_lake, play


def say(codec: ChatCodec, *answers: str, end: str = "<|im_end|>") -> list[list[int]]:
    return [codec._encode(f"<think>hm</think><answer>{answer}</answer>{end}") for answer in answers]


def test_an_episode_to_the_goal(codec: ChatCodec):
    policy = ListPolicy(say(codec, "Right || Right", "right"))
    trajectory = play(dry_lake(), codec, policy)
    assert trajectory.stop_reason is StopReason.SUCCESS
    assert trajectory.success
    assert trajectory.turn_rewards == [0.0, 1.0]
    assert trajectory.episode_return == 1.0
    assert (trajectory.turns, trajectory.valid_turns, trajectory.actions) == (2, 2, 3)
    assert [text.state.splitlines()[1] for text in trajectory.texts] == ["P__G", "__PG"]
    assert trajectory.final_state.splitlines()[1] == "___√"
    assert trajectory.texts[1].reply == "<think>hm</think><answer>right</answer><|im_end|>"
    assert len(set(trajectory.anchors)) == 2
    assert trajectory.next_anchors == [trajectory.anchors[1], SOLVED]


def test_columns_by_hand(codec: ChatCodec):
    policy = ListPolicy(say(codec, "Right", "Right || Right"))
    trajectory = play(dry_lake(), codec, policy)
    first, second = policy.sampled
    between = len(policy.contexts[1]) - len(policy.contexts[0]) - len(first)
    lengths = (len(first), between, len(second))
    assert trajectory.prompt_ids == policy.contexts[0]
    assert trajectory.prompt_ids + trajectory.response_ids == policy.contexts[1] + second
    assert trajectory.response_mask == [1] * lengths[0] + [0] * lengths[1] + [1] * lengths[2]
    assert trajectory.turn_ids == [0] * lengths[0] + [-1] * lengths[1] + [1] * lengths[2]
    expected = [-0.5 - k for k in range(lengths[0])] + [0.0] * between + [-0.5 - k for k in range(lengths[2])]
    assert trajectory.log_probs == expected
    roles = trajectory.token_roles
    assert [role == TokenRole.ENVIRONMENT for role in roles] == [mask == 0 for mask in trajectory.response_mask]
    acted = [i for i, role in zip(trajectory.response_ids, roles, strict=True) if role == TokenRole.ACTION]
    assert "Right" in codec.offsets(acted)[0]


def test_what_the_second_turn_is_told(codec: ChatCodec):
    policy = ListPolicy(say(codec, "Down", "nonsense"))
    trajectory = play(dry_lake(), codec, policy)
    assert trajectory.next_anchors[:2] == [trajectory.anchors[1]] * 2  # nonsense moves nobody
    assert trajectory.next_anchors[-1] == trajectory.final_anchor >= 0
    told = [codec.offsets(after[len(before) :])[0] for before, after in pairwise(policy.contexts)]
    assert "Reward: 0\nTurn 2\nYou: (1, 0)" in told[0]
    assert "Actions left: 9." in told[0]
    assert told[0].endswith("<|im_end|>\n<|im_start|>assistant\n")
    assert "Reward: -0.1\nTurn 3\nYou: (1, 0)" in told[1]
    assert "nonsense" not in told[1].split("<|im_end|>", 1)[1]


def test_the_messages_are_the_context(codec: ChatCodec):
    """Through the chat template they give the same ids, whether a reply was closed or cut."""
    episode = Episode(dry_lake(), codec, max_context_tokens=4096)
    context = episode.start()
    closed, cut = say(codec, "Down"), say(codec, "Up", end="")
    for reply in (*closed, *cut):
        assert codec.initial_ids(episode.messages) == context
        context = episode.receive(Reply(reply)) or []
    assert codec.initial_ids(episode.messages) == context
    assert [message["role"] for message in episode.messages] == ["system", *2 * ["user", "assistant"], "user"]
    assert episode.messages[2]["content"] == "<think>hm</think><answer>Down</answer>"


@pytest.mark.parametrize("ending", ["<|im_end|>", "", " ", "<|endoftext|>", "<|im_end|>x"])
def test_the_turn_is_closed_exactly_once(codec: ChatCodec, ending):
    policy = ListPolicy(say(codec, "Down", end=ending))
    play(dry_lake(), codec, policy)
    text = codec.offsets(policy.contexts[1])[0]
    body = ending.removesuffix("<|im_end|>")
    assert f"</answer>{body}<|im_end|>\n<|im_start|>user\n" in text


@pytest.mark.parametrize(
    ("answer", "player", "reward", "valid"),
    [
        ("Down || Down", 8, 0.0, True),
        ("Down || Down || Down", 8, 0.0, True),  # what exceeds the limit is ignored
        ("Down || Down || fly", 8, 0.0, True),
        ("Down || fly", 4, -0.1, False),  # the valid action before an invalid one is executed
        ("fly || Down", 4, -0.1, False),  # and so is the one after it
        ("fly || swim", 0, -0.1, False),  # once a turn, not once an action
        ("fly || swim || Down", 0, -0.1, False),
        ("", 0, -0.1, False),
        (" || ", 0, -0.1, False),
        ("|| Down", 4, 0.0, True),
        ("Right || fly", 1, -0.1, False),
    ],
)
def test_rewards_of_a_turn(codec: ChatCodec, answer, player, reward, valid):
    world = dry_lake(max_turns=1)
    trajectory = play(world, codec, ListPolicy(say(codec, answer)))
    assert world.player == player
    assert trajectory.turn_rewards == [reward]
    assert trajectory.valid_turns == int(valid)
    assert trajectory.stop_reason is StopReason.MAX_TURNS


def test_the_penalty_adds_to_the_reward_of_its_turn(codec: ChatCodec):
    trajectory = play(dry_lake(Board(4, 0, 1, 0)), codec, ListPolicy(say(codec, "fly || Right")))
    assert trajectory.turn_rewards == [pytest.approx(0.9)]
    assert trajectory.success


def test_a_hole_ends_the_episode_and_the_rest_of_the_answer_is_not_played(codec: ChatCodec):
    world = dry_lake(Board(4, 0, 15, 1 << 1))
    trajectory = play(world, codec, ListPolicy(say(codec, "Right || Down")))
    assert world.player == 1
    assert trajectory.stop_reason is StopReason.FAILURE
    assert (trajectory.turns, trajectory.actions, trajectory.episode_return) == (1, 1, 0.0)


def test_limits_of_turns_and_actions(codec: ChatCodec):
    wander = say(codec, "Up || Up")
    trajectory = play(dry_lake(), codec, ListPolicy(wander))
    assert (trajectory.stop_reason, trajectory.turns, trajectory.actions) == (StopReason.MAX_ACTIONS, 5, 10)
    trajectory = play(dry_lake(), codec, ListPolicy(say(codec, "Up")))
    assert (trajectory.stop_reason, trajectory.turns, trajectory.actions) == (StopReason.MAX_TURNS, 5, 5)
    # the third action of the second turn has no budget left, and costs nothing
    world = dry_lake(max_actions_per_episode=3)
    trajectory = play(world, codec, ListPolicy(say(codec, "Down || Down")))
    assert (trajectory.stop_reason, trajectory.actions, world.player) == (StopReason.MAX_ACTIONS, 3, 12)
    assert trajectory.turn_rewards == [0.0, 0.0]


def test_the_context_fills_up_before_a_turn_that_might_not_fit(codec: ChatCodec):
    world = dry_lake(max_turn_tokens=100)
    reference = ListPolicy(say(codec, "Up"))
    play(dry_lake(max_turn_tokens=100), codec, reference)
    third = len(reference.contexts[2])
    assert len(reference.contexts) == 5
    enough = play(dry_lake(max_turn_tokens=100), codec, ListPolicy(say(codec, "Up")), max_context_tokens=third + 100)
    assert (enough.stop_reason, enough.turns) == (StopReason.CONTEXT_FULL, 3)
    short = play(world, codec, ListPolicy(say(codec, "Up")), max_context_tokens=third + 99)
    assert (short.stop_reason, short.turns) == (StopReason.CONTEXT_FULL, 2)
    assert short.response_mask[-1] == 1  # no message without a reply at the end
    assert len(short.prompt_ids) + len(short.response_ids) <= third + 99
    prompt = len(reference.contexts[0])
    bounded = play(
        dry_lake(max_turn_tokens=100), codec, ListPolicy(say(codec, "Up")), max_response_tokens=third - prompt + 99
    )
    assert (bounded.stop_reason, bounded.turns) == (StopReason.CONTEXT_FULL, 2)


def test_a_context_too_short_for_one_turn_says_the_numbers(codec: ChatCodec):
    policy = ListPolicy(say(codec, "Up"))
    play(dry_lake(), codec, policy)
    prompt = len(policy.contexts[0])
    with pytest.raises(ConfigurationError) as caught:
        play(dry_lake(), codec, policy, max_context_tokens=prompt + 399)
    for part in (f"max_context_tokens={prompt + 399}", f"{prompt} tokens", "400", f"{prompt + 400}"):
        assert part in str(caught.value)
    with pytest.raises(ConfigurationError, match="max_response_tokens=399"):
        play(dry_lake(), codec, policy, max_response_tokens=399)


def test_without_log_probs_there_is_no_column(codec: ChatCodec):
    assert play(dry_lake(), codec, ListPolicy(say(codec, "Up"), log_probs=False)).log_probs is None


def test_an_aborted_reply_ends_the_episode(codec: ChatCodec):
    episode = Episode(dry_lake(), codec, max_context_tokens=10_000)
    episode.start()
    assert episode.receive(Reply(codec._encode("<think>h"), None, "abort")) is None
    assert episode.trajectory().stop_reason is StopReason.ABORTED


def test_a_policy_that_breaks_its_contract_is_refused(codec: ChatCodec):
    episode = Episode(dry_lake(max_turn_tokens=3), codec, max_context_tokens=10_000)
    with pytest.raises(RuntimeError, match="outside of a turn"):
        episode.receive(Reply([]))
    episode.start()
    with pytest.raises(ValueError, match="4 tokens, more than max_new_tokens=3"):
        episode.receive(Reply([5, 5, 5, 5]))
    with pytest.raises(ValueError, match="1 log-probs for 2 tokens"):
        episode.receive(Reply([5, 5], [0.0]))
    with pytest.raises(RuntimeError, match="before the end"):
        episode.trajectory()
    with pytest.raises(RuntimeError, match="twice"):
        episode.start()


def test_an_episode_is_played_to_the_end_with_empty_replies(codec: ChatCodec):
    trajectory = play(dry_lake(), codec, ListPolicy([[]]))
    assert (trajectory.stop_reason, trajectory.turns) == (StopReason.MAX_TURNS, 5)
    assert trajectory.turn_rewards == [-0.1] * 5


def test_many_episodes_run_side_by_side(codec: ChatCodec):
    async def together():
        policies = [ListPolicy(say(codec, "Right")) for _ in range(8)]
        episodes = [Episode(dry_lake(), codec, max_context_tokens=10_000) for _ in policies]
        return await asyncio.gather(*(e.play(p) for e, p in zip(episodes, policies, strict=True)))

    results = asyncio.run(together())
    assert all(result == results[0] for result in results)
    assert results[0].success


def test_an_observation_is_its_text_and_its_images_are_refused(codec: ChatCodec, monkeypatch: pytest.MonkeyPatch):
    expected, render = play(dry_lake(), codec, ListPolicy(say(codec, "Right"))), FrozenLake.render
    monkeypatch.setattr(FrozenLake, "render", lambda self: Observation(render(self)))
    assert play(dry_lake(), codec, ListPolicy(say(codec, "Right"))) == expected
    monkeypatch.setattr(FrozenLake, "render", lambda self: Observation(render(self), ("picture",)))
    with pytest.raises(ConfigurationError) as caught:
        Episode(dry_lake(), codec, max_context_tokens=10_000).start()
    assert str(caught.value) == (
        "env.name='frozen_lake': shows 1 image(s), and a policy can only be shown text. "
        "Let the world's render return text alone"
    )
