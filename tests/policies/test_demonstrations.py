"""Scripted conversations are what an episode would show, and their ids are what an episode would hold."""

import asyncio

import pytest

from actfocus_verl.environments import make_world
from actfocus_verl.policies import TinyPolicyConfig
from actfocus_verl.policies.demonstrations import conversation
from actfocus_verl.policies.tokenizer import train_tokenizer
from actfocus_verl.policies.training import supervised_example
from actfocus_verl.rollout import ChatCodec, Episode, Reply


@pytest.fixture(scope="module", params=["loose", "coupled"])
def config(request):
    return TinyPolicyConfig(coupling=request.param)


@pytest.fixture(scope="module")
def tokenizer(config):
    return train_tokenizer([message["content"] for i in range(50) for message in conversation(config, i)], 600)


class Recitation:
    """A policy that gives prepared replies."""

    def __init__(self, tokenizer, end_of_turn, replies):
        self.replies = iter([[*tokenizer.encode(reply), end_of_turn] for reply in replies])

    async def generate(self, prompt_ids, *, max_new_tokens):
        return Reply(next(self.replies))


@pytest.mark.parametrize("index", [0, 1, 5, 6005])
def test_ids_and_labels_are_those_of_an_episode_with_the_same_replies(config, tokenizer, index):
    messages = conversation(config, index)
    codec = ChatCodec(tokenizer)
    example = supervised_example(codec, tokenizer, messages)

    replies = [message["content"] for message in messages if message["role"] == "assistant"]
    world = make_world("frozen_lake", split="train", index=index % 6000, episode_seed=index)
    policy = Recitation(tokenizer, codec.end_of_turn_id, replies)
    trajectory = asyncio.run(Episode(world, codec, max_context_tokens=4096).play(policy))

    assert trajectory.turns == trajectory.valid_turns == len(replies)
    assert example["input_ids"] == trajectory.prompt_ids + trajectory.response_ids
    columns = zip(trajectory.response_ids, trajectory.response_mask, strict=True)
    expected = [token if mask else -100 for token, mask in columns]
    assert example["labels"] == [-100] * len(trajectory.prompt_ids) + expected
    with_pages = supervised_example(codec, tokenizer, messages, pages=True)
    assert with_pages["labels"] == with_pages["input_ids"] == example["input_ids"]


def test_a_reply_that_the_prompt_opens_is_taught_from_behind_the_tag():
    config = TinyPolicyConfig(preset="ragen")
    messages = conversation(config, 0)
    tokenizer = train_tokenizer([message["content"] for i in range(50) for message in conversation(config, i)], 600)
    codec = ChatCodec(tokenizer, "<think>")
    example = supervised_example(codec, tokenizer, messages)
    replies = [message["content"] for message in messages if message["role"] == "assistant"]
    assert all(reply.startswith("<think>") for reply in replies)

    world = make_world("frozen_lake", preset="ragen", split="train", index=0, episode_seed=0)
    policy = Recitation(tokenizer, codec.end_of_turn_id, [reply.removeprefix("<think>") for reply in replies])
    trajectory = asyncio.run(Episode(world, codec, max_context_tokens=4096).play(policy))
    assert trajectory.turns == trajectory.valid_turns == len(replies)
    assert example["input_ids"] == trajectory.prompt_ids + trajectory.response_ids
    columns = zip(trajectory.response_ids, trajectory.response_mask, strict=True)
    labels = [token if mask else -100 for token, mask in columns]
    assert example["labels"] == [-100] * len(trajectory.prompt_ids) + labels
    assert codec.offsets(trajectory.prompt_ids)[0].endswith("<think>")


def test_roles_alternate_and_end_with_a_reply(config):
    roles = [message["role"] for message in conversation(config, 3)]
    assert roles[0] == "system"
    assert roles[1::2] == ["user"] * (len(roles) // 2)
    assert roles[2::2] == ["assistant"] * (len(roles) // 2)


def test_only_coupled_reasoning_names_the_move(config):
    replies = [m["content"] for i in range(20) for m in conversation(config, i) if m["role"] == "assistant"]
    for reply in replies:
        reasoning, answer = reply.split("</think>")
        first_move = answer.split("<answer>")[1].split()[0]
        assert (f"So I choose {first_move}" in reasoning) == (config.coupling == "coupled")


def test_about_half_of_the_mixed_replies_name_the_move():
    config = TinyPolicyConfig(coupling="mixed")
    replies = [m["content"] for i in range(40) for m in conversation(config, i) if m["role"] == "assistant"]
    named = sum("So I choose" in reply for reply in replies)
    assert 0.35 < named / len(replies) < 0.65  # four standard deviations of about 150 replies
    assert config.resolved().skill == 0.4


def test_the_seed_decides_the_moves_and_the_episode_number_the_board():
    # several episodes: two seeds may make the same few moves in one
    one, same, other = ([conversation(TinyPolicyConfig(seed=seed), each) for each in range(4)] for seed in (1, 1, 2))
    assert one == same != other
    assert [messages[:2] for messages in one] == [messages[:2] for messages in other]  # system prompt and first board
    assert len({messages[1]["content"] for messages in one}) == 4
