"""Playing the episodes of an evaluation, with a sampler that reads its replies from a list."""

from __future__ import annotations

import asyncio
import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from actfocus_verl.environments import make_world
from actfocus_verl.errors import Interrupted
from actfocus_verl.evaluation import episodes
from actfocus_verl.evaluation.episodes import (
    EpisodeKey,
    EpisodePlayer,
    EpisodeRecord,
    EpisodeSettings,
    episode_seed,
    plan,
    play_episodes,
)
from actfocus_verl.evaluation.sampling import EvaluationError, ReplyRequest, SeededPolicy
from actfocus_verl.rollout import ChatCodec, Episode, Reply, standstill
from tests.helpers.episodes import dry_lake
from tests.helpers.tokenizer import build_tokenizer

Encode = Callable[[str], list[int]]
FORMLESS = "<answer> Right </answer><|im_end|>"
NO_ACTION = "<think> go </think> <answer> Sideways </answer><|im_end|>"
RIGHT = "<think> go </think> <answer> Right </answer><|im_end|>"


FIRST = EpisodeKey(0, 0)


class ListSampler:
    """Gives its replies in turn, and keeps what it was asked."""

    def __init__(self, replies: list[list[int]], finish_reason: str = "stop") -> None:
        self.replies, self.finish_reason = replies, finish_reason
        self.asked: list[ReplyRequest] = []

    async def sample(self, request: ReplyRequest) -> Reply:
        self.asked.append(request)
        return Reply(self.replies[(len(self.asked) - 1) % len(self.replies)], finish_reason=self.finish_reason)


def play(codec: ChatCodec, sampler: ListSampler, key: EpisodeKey = FIRST, **changes: Any) -> EpisodeRecord:
    """One episode on a lake without slips."""
    settings: dict[str, Any] = {
        "env": "frozen_lake",
        "preset": "clean",
        "split": "evaluation",
        "overrides": {"success_rate": 1.0, "max_turns": 4},
        "seed": 7,
        "max_context_tokens": 4096,
    }
    return asyncio.run(EpisodePlayer(EpisodeSettings(**{**settings, **changes}), codec, sampler).play(key))


def a_board_with_ice_to_the_right() -> int:
    """Index of an evaluation board whose first three steps to the right end neither at the goal nor in a hole."""
    for index in range(64):
        world = make_world("frozen_lake", split="evaluation", index=index, success_rate=1.0)
        if not any(world.step(world.parse_action("Right")).done for _ in range(3) if not world.done):
            return index
    raise AssertionError("no such board")


def test_a_record_by_hand() -> None:
    tokenizer = build_tokenizer(vocab_size=259)  # a token is a byte, or a special token
    replies = [tokenizer.encode(text, add_special_tokens=False) for text in (RIGHT, FORMLESS, NO_ACTION, RIGHT)]
    board, sampler = a_board_with_ice_to_the_right(), ListSampler(replies)
    record = play(ChatCodec(tokenizer), sampler, EpisodeKey(board, 1), texts=True)
    world = make_world("frozen_lake", split="evaluation", index=board, success_rate=1.0, max_turns=4)
    assert (record.board_hash, record.stratum) == (world.board_hash(), world.stratum())
    assert record.optimal_return == world.optimal_return()
    # two turns that cost 0.1: one does not parse, one parses and names no action
    assert record.episode_return == pytest.approx(-0.2)
    assert (record.turns, record.parsed_turns, record.valid_turns, record.actions) == (4, 3, 2, 2)
    assert (record.success, record.stop_reason) == (False, "max_turns")
    first_prompt, last_prompt = (len(sampler.asked[turn].prompt_ids) for turn in (0, 3))
    assert record.tokens == {
        "prompt": first_prompt,
        "environment": last_prompt - first_prompt - sum(map(len, replies[:3])),
        "reasoning": 3 * len(" go ") + len(" Right "),  # without the form, an answer is reasoning
        "action": 2 * len(" Right ") + len(" Sideways "),
        "format": 3 * len("<think></think> <answer></answer>") + len("<answer></answer>") + 4,
    }
    assert [text["valid"] for text in record.texts or []] == [True, False, False, True]


def test_a_record_survives_json(codec: ChatCodec, encode: Encode) -> None:
    for texts in (True, False):
        record = play(codec, ListSampler([encode(RIGHT)]), texts=texts)
        line = json.dumps(record.to_json(), allow_nan=False)
        assert EpisodeRecord.from_json(json.loads(line)) == record
        assert ("texts" in json.loads(line)) is texts


def test_an_unknown_optimum_is_none(codec: ChatCodec, encode: Encode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actfocus_verl.environments.frozen_lake.FrozenLake.optimal_return", lambda self: math.nan)
    assert play(codec, ListSampler([encode(RIGHT)])).optimal_return is None


def test_an_episode_has_the_same_seeds_for_every_model(codec: ChatCodec, encode: Encode) -> None:
    asked = []
    for _ in range(2):
        sampler = ListSampler([encode(FORMLESS)])
        play(codec, sampler)
        asked.append(sampler.asked)
    assert asked[0] == asked[1]
    seeds = [request.seed for request in asked[0]]
    assert len(set(seeds)) == len(seeds) == 4
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_every_episode_has_a_seed_of_its_own() -> None:
    keys = plan(40, 5)
    assert len(keys) == len(set(keys)) == 200
    assert len({episode_seed(seed, key) for seed in (0, 1) for key in keys}) == 400


def test_the_randomness_is_the_recorded_seeds(codec: ChatCodec, encode: Encode) -> None:
    """A world made by hand from the record's seed slips in the same way."""
    slippery = {"success_rate": 0.34, "max_turns": 4, "max_actions_per_turn": 1}
    for repeat in range(4):
        key = EpisodeKey(2, repeat)
        record = play(codec, ListSampler([encode(RIGHT)]), key, overrides=slippery)
        world = make_world("frozen_lake", split="evaluation", index=2, episode_seed=record.episode_seed, **slippery)
        steps = 0
        while not world.done and steps < 4:
            world.step(world.parse_action("Right"))
            steps += 1
        assert (record.success, record.actions) == (world.success, steps)


def test_a_reply_that_was_broken_off_is_no_episode(codec: ChatCodec) -> None:
    for reason in ("abort", "error", "None"):
        episode = Episode(dry_lake(), codec, max_context_tokens=4096)
        policy = SeededPolicy(ListSampler([[1]], finish_reason=reason), episode, 0)
        with pytest.raises(EvaluationError, match=f"a reply was aborted .*'{reason}'"):
            asyncio.run(policy.generate([1], max_new_tokens=5))


def record_of(key: EpisodeKey) -> EpisodeRecord:
    return EpisodeRecord(key.board, key.repeat, "", 0, 0, 0.0, None, False, {}, 1, 1, 1, 1, "failure", {"prompt": 1})


def test_no_more_episodes_at_a_time_than_allowed() -> None:
    running, most, done = 0, 0, []

    async def play_one(key: EpisodeKey) -> EpisodeRecord:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.001 * (key.board % 3))
        running -= 1
        return record_of(key)

    keys = plan(20, 2)
    asyncio.run(
        play_episodes(keys, play_one, concurrency=3, record=lambda record: done.append(record.key), tool_timeout=60.0)
    )
    assert most == 3
    assert sorted(done) == keys


@pytest.mark.parametrize("error", [EvaluationError("no"), Interrupted()])
def test_an_error_ends_all_of_them(error: BaseException) -> None:
    cancelled = 0

    async def play_one(key: EpisodeKey) -> EpisodeRecord:
        nonlocal cancelled
        if key.board == 2:
            await asyncio.sleep(0.01)
            raise error
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled += 1
            raise
        return record_of(key)

    with pytest.raises(type(error)):
        asyncio.run(play_episodes(plan(5, 1), play_one, concurrency=5, record=lambda _: None, tool_timeout=60.0))
    assert cancelled == 4


@pytest.mark.parametrize("where", ["the event loop", "a thread beside it"])
def test_a_world_that_does_not_return_ends_the_process_and_what_it_started(where: str, tmp_path: Path) -> None:
    """The episode that had ended is kept; vLLM's engine, for which the child stands, does not live on."""
    step = "time.sleep(600)" if where == "the event loop" else "await beside_loop(True, time.sleep, 600)"
    script = f"""
import asyncio, subprocess, sys, time
from actfocus_verl.evaluation.episodes import plan, play_episodes
from actfocus_verl.rollout import beside_loop, standstill

async def play(key):
    if key.board == 1:
        {step}
    return key

standstill.POLL_SECONDS = 0.05
print(subprocess.Popen(["sleep", "600"]).pid, flush=True)
asyncio.run(play_episodes(plan(2, 1), play, concurrency=1, record=lambda key: print(key, flush=True), tool_timeout=0.1))
"""
    file = tmp_path / "world.py"  # a user's line, which the error names
    file.write_text(script)
    ended = subprocess.run([sys.executable, str(file)], capture_output=True, text=True, timeout=60)
    child, *done = ended.stdout.splitlines()
    assert (ended.returncode, done) == (1, ["board 0, repeat 0"])
    (error,) = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert error.startswith(
        "error: tool_timeout=0.1: an episode (board 1, repeat 0) has waited longer for its tool, world"
    )
    if where == "the event loop":
        assert f"at {file}, line {script.splitlines().index('        ' + step) + 1}, in play" in error
    assert not psutil.pid_exists(int(child)) or psutil.Process(int(child)).status() == psutil.STATUS_ZOMBIE


def test_waiting_for_the_policy_is_no_standstill(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server may be slow: what it takes is not the world's time."""
    monkeypatch.setattr(standstill, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(episodes, "_end_with_children", lambda message: pytest.fail(message))
    codec = ChatCodec(build_tokenizer())
    sampler, done = ListSampler([codec.text_ids(RIGHT)]), []

    class SlowSampler(ListSampler):
        async def sample(self, request: ReplyRequest) -> Reply:
            await asyncio.sleep(0.3)
            return await sampler.sample(request)

    settings = EpisodeSettings("frozen_lake", "clean", "evaluation", {"max_turns": 1}, 7, 4096)
    player = EpisodePlayer(settings, codec, SlowSampler([]))
    asyncio.run(play_episodes([FIRST], player.play, concurrency=1, record=done.append, tool_timeout=0.1))
    assert [record.turns for record in done] == [1]


def test_what_the_prompt_opens_is_said_to_the_sampler() -> None:
    tokenizer = build_tokenizer()
    codec = ChatCodec(tokenizer, "<think>")
    sampler = ListSampler([codec.text_ids(RIGHT.removeprefix("<think>"))])
    record = play(codec, sampler, preset="ragen", overrides={"success_rate": 1.0, "max_turns": 2})
    assert record.parsed_turns == record.turns
    for request in sampler.asked:
        assert request.opening == "<think>"
        assert codec.offsets(request.prompt_ids)[0].endswith("assistant\n<think>")
        assert request.messages[-1]["role"] == "user"
