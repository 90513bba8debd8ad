"""Forks: a replay leads exactly where the episode was, its randomness parts there, the most unsure state is chosen."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from actfocus_verl.credit.tokens import TokenRole
from actfocus_verl.environments import World, make_world, scripted_player
from actfocus_verl.environments.frozen_lake.rules import Board
from actfocus_verl.errors import ConfigurationError
from actfocus_verl.rollout import (
    ChatCodec,
    Episode,
    ForkedGroup,
    ForkPoint,
    PlayedEpisode,
    ReplayMismatchError,
    Reply,
    StopReason,
    Trajectory,
    TurnText,
)
from actfocus_verl.rollout.forking import VisitedStates, sampled_entropy
from tests.helpers.episodes import ListPolicy, dry_lake

WORLDS: dict[str, dict[str, Any]] = {
    "frozen_lake": {"success_rate": 0.6, "max_turns": 6},
    "sokoban": {},
    "sudoku": {},
    "webshop": {"products": 240},
}
MakeEpisode = Callable[[int], Episode]


class ScriptedPolicy:
    """The world's own bad player, with a thought that no other reply has."""

    def __init__(self, episode: Episode, codec: ChatCodec, seed: int) -> None:
        self._world, self._codec = episode.world, codec
        self._player = scripted_player(self._world.name)
        self._rng = np.random.default_rng(seed)

    async def generate(self, prompt_ids: list[int], *, max_new_tokens: int) -> Reply:
        text = self._player.reply(self._world, self._rng, skill=0.3)
        text = text.replace("<think>", f"<think> {self._rng.integers(10**6)}")
        ids = self._codec._encode(f"{text}<|im_end|>")[:max_new_tokens]
        return Reply(ids, [-float(self._rng.random()) for _ in ids])


def episodes(name: str, codec: ChatCodec, index: int = 0, **changes: Any) -> MakeEpisode:
    """From an episode seed to a fresh episode on board `index`."""

    def make(seed: int) -> Episode:
        settings = {**WORLDS[name], "max_turn_tokens": 2000, **changes}
        world = make_world(name, split="train", index=index, episode_seed=seed, **settings)
        return Episode(world, codec, max_context_tokens=10**6)

    return make


def played(make: MakeEpisode, codec: ChatCodec, seed: int) -> PlayedEpisode:
    """An episode from the beginning."""
    episode = make(seed)
    return PlayedEpisode(asyncio.run(episode.play(ScriptedPolicy(episode, codec, seed))), ((0, seed),))


def long_episode(make: MakeEpisode, codec: ChatCodec, turns: int) -> PlayedEpisode:
    """The first episode of at least so many turns."""
    return next(
        origin for origin in (played(make, codec, seed) for seed in range(90)) if origin.trajectory.turns >= turns
    )


def forked(
    point: ForkPoint, make: MakeEpisode, codec: ChatCodec, seed: int
) -> tuple[PlayedEpisode, Episode, list[int]]:
    episode, context = point.replay(make, seed)
    found = list(context)
    trajectory = asyncio.run(episode.play_on(ScriptedPolicy(episode, codec, seed), context))
    return PlayedEpisode(trajectory, point.seeds(seed), forked=True), episode, found


def context_of(origin: PlayedEpisode, turn: int) -> list[int]:
    """The ids before the reply of a turn."""
    whole = origin.trajectory.prompt_ids + origin.trajectory.response_ids
    if turn >= origin.trajectory.replayed:
        return whole[: len(origin.trajectory.prompt_ids) + origin.trajectory.turn_ids.index(turn)]
    raise AssertionError("a replayed turn has no turn ids")


@pytest.mark.parametrize("name", WORLDS)
def test_a_replay_is_exact(name: str, codec: ChatCodec) -> None:
    """At every turn of an episode, of its forks, and of a fork of a fork."""
    make = episodes(name, codec)
    origin = long_episode(make, codec, 3)
    forks = 0
    for generation in range(3):
        trajectory = origin.trajectory
        for turn in range(trajectory.replayed, trajectory.turns):
            episode, context = ForkPoint(origin, turn).replay(make, 1000 + turn)
            assert context == context_of(origin, turn)
            assert episode.world.anchor() == trajectory.anchors[turn]
            assert episode.world.render() == trajectory.texts[turn].state
            assert episode._turns.rewards == trajectory.turn_rewards[:turn]
            forks += turn > 0
        point = ForkPoint(origin, min(trajectory.replayed + 1, trajectory.turns - 1))
        origin, _, _ = forked(point, make, codec, 100 + generation)
    assert forks > 3


def test_a_forked_row_is_context_up_to_the_fork_and_its_own_from_there(codec: ChatCodec) -> None:
    make = episodes("sokoban", codec)
    origin = long_episode(make, codec, 3)
    fork, _, context = forked(ForkPoint(origin, 2), make, codec, 1)
    before, after = origin.trajectory, fork.trajectory
    assert after.prompt_ids == before.prompt_ids
    shared = len(context) - len(after.prompt_ids)
    assert after.response_ids[:shared] == before.response_ids[:shared]
    assert after.response_mask[:shared] == [0] * shared
    assert after.turn_ids[:shared] == [-1] * shared
    assert after.token_roles[:shared] == [int(TokenRole.ENVIRONMENT)] * shared
    assert after.log_probs is not None
    assert after.log_probs[:shared] == [0.0] * shared
    assert (after.response_mask[shared], after.turn_ids[shared]) == (1, 2)
    assert after.states[:3] == before.states[:3]
    assert after.states[3:] != before.states[3:]
    assert (before.replayed, after.replayed) == (0, 2)
    assert after.turn_rewards[:2] == before.turn_rewards[:2]
    assert len(after.turn_rewards) == after.turns == max(after.turn_ids) + 1


def test_randomness_parts_at_the_fork(codec: ChatCodec) -> None:
    """Sixty siblings move right once more: what slips before the fork is shared, what slips after it is not."""
    board = Board(size=4, start=5, goal=15, holes=0)
    say = [codec._encode("<think>x</think><answer>Right</answer><|im_end|>")]

    def make(seed: int) -> Episode:
        world = dry_lake(board, success_rate=0.4, max_turns=3)
        world.reseed(seed)
        return Episode(world, codec, max_context_tokens=10**6)

    origin = PlayedEpisode(asyncio.run(make(3).play(ListPolicy(say))), ((0, 3),))
    ends = set()
    for seed in range(60):
        episode, context = ForkPoint(origin, 1).replay(make, seed)
        assert episode.world.anchor() == origin.trajectory.anchors[1]
        trajectory = asyncio.run(episode.play_on(ListPolicy(say), context))
        ends.add(trajectory.anchors[2] if trajectory.turns > 2 else -1)
    assert len(ends) == 3  # right, and the two sides


def test_a_fork_at_the_beginning_is_a_plain_episode(codec: ChatCodec) -> None:
    make = episodes("frozen_lake", codec)
    origin = played(make, codec, 0)
    fork, _, _ = forked(ForkPoint(origin, 0), make, codec, 7)
    assert fork.trajectory == played(make, codec, 7).trajectory
    assert fork.seeds == ((0, 7),)


def test_a_world_that_leads_elsewhere_is_noticed(codec: ChatCodec) -> None:
    origin = long_episode(episodes("frozen_lake", codec), codec, 4)
    point = ForkPoint(origin, 3)
    with pytest.raises(ReplayMismatchError, match="the token prefix is another one before turn 4"):
        point.replay(episodes("frozen_lake", codec, index=1), 0)
    other_seeds = ForkPoint(replace(origin, seeds=((0, 10**6),)), 3)
    with pytest.raises(ReplayMismatchError):
        other_seeds.replay(episodes("frozen_lake", codec), 0)
    with pytest.raises(ReplayMismatchError, match="ended before turn 3"):
        point.replay(episodes("frozen_lake", codec, max_turns=2), 0)


def test_a_difference_that_the_tokens_do_not_show_is_noticed(codec: ChatCodec) -> None:
    origin = long_episode(episodes("sokoban", codec), codec, 2)
    changed = replace(origin, trajectory=replace(origin.trajectory, anchors=[1] * origin.trajectory.turns))
    with pytest.raises(ReplayMismatchError, match="the state of the world is another one before turn 2"):
        ForkPoint(changed, 1).replay(episodes("sokoban", codec), 0)
    rewards = [0.5, *origin.trajectory.turn_rewards[1:]]
    changed = replace(origin, trajectory=replace(origin.trajectory, turn_rewards=rewards))
    with pytest.raises(ReplayMismatchError, match="a reward is another one before turn 2"):
        ForkPoint(changed, 1).replay(episodes("sokoban", codec), 0)


def test_only_the_first_turns_can_be_replayed(codec: ChatCodec) -> None:
    episode = episodes("sokoban", codec)(0)
    episode.start()
    reply = Reply(codec._encode("<think>x</think><answer>Up</answer><|im_end|>"))
    episode.receive(reply)
    with pytest.raises(RuntimeError, match="replay after a turn of its own"):
        episode.replay(reply)


# Which state is forked


def episode_of(states: list[int], entropies: list[float], *, replayed: int = 0, is_fork: bool = False) -> PlayedEpisode:
    """An episode that visited states, with replies of two tokens of these mean entropies."""
    count = len(states)
    trajectory = Trajectory(
        prompt_ids=[1], response_ids=[], response_mask=[], log_probs=[], token_roles=[], turn_ids=[],
        turn_rewards=[0.0] * count, anchors=[0] * count, states=states, replayed=replayed,
        replies=[Reply([5, 5], [-2 * entropy, 0.0]) for entropy in entropies], stop_reason=StopReason.MAX_TURNS,
        success=False, outcome={}, actions=count, parsed_turns=count, valid_turns=count,
        texts=[TurnText("", "", True)] * count, final_state="",
    )  # fmt: skip
    return PlayedEpisode(trajectory, ((0, 0),), forked=is_fork)


def test_entropy_per_visit_by_hand() -> None:
    seen = VisitedStates()
    seen.add(episode_of([1, 2, 3], [0.6, 1.0, 0.8]))
    first = seen.choose()
    assert (first.state, first.turn) == (2, 1)  # 0.6, 1.0, 0.8
    # 2 is visited a second time, and its second reply was certain: mean 0.6, over 2 visits 0.3; 4 has 0.7
    seen.add(episode_of([1, 2, 4], [0.0, 0.2, 0.7], replayed=1, is_fork=True))
    assert seen.choose().state == 3  # 0.8, which sinks to 0.4 by being chosen
    assert seen.choose().state == 4  # 0.7, sinks to 0.35
    assert seen.choose().state == 1  # 0.6, sinks to 0.3: a replayed turn is no visit
    assert seen.choose().state == 3
    assert seen.choose().state == 4
    assert seen.choose().state == 1  # 0.3, like 2: the one met first


def test_every_reply_sampled_in_a_state_is_a_visit() -> None:
    seen = VisitedStates()
    for _ in range(3):  # three roots: 1.2 / 3 = 0.4
        seen.add(episode_of([1, 2], [1.2, 0.0]))
    seen.add(episode_of([1, 5], [1.2, 0.41]))
    assert seen.choose().state == 5
    seen.add(episode_of([1], [9.2]))  # mean 14 / 5 = 2.8, over 5 visits 0.56
    assert seen.choose().state == 1


def test_an_empty_reply_says_nothing() -> None:
    assert sampled_entropy(Reply([], [])) is None
    assert sampled_entropy(Reply([1, 2], [-1.0, -3.0])) == 2.0
    seen = VisitedStates()
    with pytest.raises(RuntimeError, match="nothing to fork from"):
        seen.choose()
    with pytest.raises(ConfigurationError, match="calculate_log_probs=False: forked rollouts choose states by"):
        sampled_entropy(Reply([1], None))


def test_forks_wait_for_the_waves_before_them() -> None:
    """Two roots, waves of two: the order in which episodes are asked for and chosen."""
    started: list[int] = []
    found: dict[int, int | None] = {}

    async def session(group: ForkedGroup, number: int, delay: float) -> int:
        point = await group.fork_point(number)
        started.append(number)
        found[number] = None if point is None else point.state
        await asyncio.sleep(delay)
        if point is None:
            return group.settle(number, episode_of([1, 10 + number], [0.1, number + 1.0]))
        return group.settle(number, None if number == 3 else episode_of([point.state], [0.0], is_fork=True))

    async def together() -> list[int]:
        group = ForkedGroup(roots=2, wave=2)
        delays = [0.02, 0.0, 0.01, 0.0, 0.0]
        return await asyncio.gather(*(session(group, number, delay) for number, delay in enumerate(delays)))

    settled = asyncio.run(together())
    assert started == [0, 1, 2, 3, 4]
    # mean entropy per visit: 1: 0.1 / 2, 10: 1.0, 11: 2.0. First 11, which sinks to 1.0; then 10, which was met before
    # it and sinks to 0.5. Session 2 samples in 11 with entropy 0, so 11 sinks to 0.5, too; session 3 fails.
    assert found == {0: None, 1: None, 2: 11, 3: 10, 4: 10}
    assert sorted(settled) == [1, 2, 3, 4, 5]


def test_a_group_without_an_episode_has_no_forks() -> None:
    async def together() -> None:
        group = ForkedGroup(roots=1, wave=1)
        group.settle(0, None)
        await group.fork_point(1)

    with pytest.raises(RuntimeError, match="nothing to fork from"):
        asyncio.run(together())


def test_a_world_that_does_not_say_how_its_randomness_is_drawn_is_refused() -> None:
    class Silent(World):
        name = "silent"

    with pytest.raises(ConfigurationError, match=r"world silent does not say .*reseed\(episode_seed\)"):
        World.reseed(Silent, 0)  # type: ignore[arg-type]
