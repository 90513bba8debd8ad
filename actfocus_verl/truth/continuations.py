"""Plays the episodes of a measurement, and plays on from their boundaries.

A world is a function of its board, its randomness and the actions: a fresh one is led to a boundary by the replies that
were sampled (`rollout.forking`), and what is random from there on, world and policy, has a seed of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from actfocus_verl.environments import World, make_world
from actfocus_verl.environments.splits import stable_hash
from actfocus_verl.errors import ConfigurationError
from actfocus_verl.evaluation.episodes import EpisodeKey, EpisodeSettings, episode_seed
from actfocus_verl.evaluation.sampling import Sampler, SeededPolicy
from actfocus_verl.rollout import ChatCodec, Episode, ForkPoint, PlayedEpisode, ReplayMismatchError, Reply, Trajectory
from actfocus_verl.truth.segments import Boundary, Segment, episode_segments

_COMPARED: Final = {"states": "prompts", "anchors": "states", "rewards": "rewards", "final": "last states"}
"""Columns of `Sampled` that a replay must give again, and what they are called in errors."""


@dataclass(frozen=True)
class Sampled:
    """What is kept of an episode of K turns: the replies, and what tells whether a replay leads where it had been.

    replies (K): token ids and finish reason of each. states, anchors, rewards (K): see `Trajectory`. final: a hash of
    the state after the last turn.
    """

    replies: list[tuple[list[int], str]]
    states: list[int]
    anchors: list[int]
    rewards: list[float]
    final: int

    @classmethod
    def of(cls, trajectory: Trajectory) -> Sampled:
        return cls(
            replies=[(list(reply.token_ids), reply.finish_reason) for reply in trajectory.replies],
            states=trajectory.states,
            anchors=trajectory.anchors,
            rewards=trajectory.turn_rewards,
            final=stable_hash(trajectory.final_state),
        )

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Sampled:
        """Raises KeyError, TypeError or ValueError for another object."""
        replies = [([int(token) for token in ids], str(reason)) for ids, reason in entry["replies"]]
        states, anchors, rewards = (list(entry[name]) for name in ("states", "anchors", "rewards"))
        return cls(replies, states, anchors, rewards, int(entry["final"]))


@dataclass(frozen=True)
class Replayed:
    """An episode that was replayed to its end; segments: what its boundaries are cut by. stratum: of its board."""

    key: EpisodeKey
    played: PlayedEpisode
    segments: Sequence[Segment]
    stratum: int = 0


class Continuations:
    """Episodes of one policy and their continuations, each the same whenever it is asked for.

    settings: of the episodes; `seed` is that of the continuations as well. count: continuations of a boundary.
    """

    def __init__(self, settings: EpisodeSettings, codec: ChatCodec, count: int) -> None:
        self._settings = settings
        self._codec = codec
        self._count = count
        self._strata: dict[int, int] = {}

    def require_reseed(self) -> None:
        """Raise ConfigurationError where the world does not say how its randomness is drawn anew."""
        world = self._world(0, 0)
        if type(world).reseed is World.reseed:
            remedy = "Give it a method reseed(episode_seed), one that does nothing where nothing is random"
            problem = "does not say how its randomness is drawn anew, so luck cannot be told from choice"
            raise ConfigurationError("env", self._settings.env, problem, remedy)

    async def play(self, key: EpisodeKey, sampler: Sampler) -> Sampled:
        """Play an episode to its end: the one of `evaluate` with the same settings."""
        seed = episode_seed(self._settings.seed, key)
        episode = self._episode(key, seed)
        return Sampled.of(await episode.play(SeededPolicy(sampler, episode, seed)))

    def replay(self, key: EpisodeKey, sampled: Sampled) -> Replayed:
        """The episode played again by its replies.

        Raises ConfigurationError, naming the world, where that leads elsewhere.
        """
        seed = episode_seed(self._settings.seed, key)
        episode = self._episode(key, seed, give_feedback=True)
        if key.board not in self._strata:
            self._strata[key.board] = episode.world.stratum()
        context: list[int] | None = episode.start()
        for ids, reason in sampled.replies:
            if context is None:
                raise self._mismatch("the replayed episode ended early")
            context = episode.receive(Reply(ids, finish_reason=reason))
        if context is not None:
            raise self._mismatch("the replayed episode goes on")
        trajectory = episode.trajectory()
        again = Sampled.of(trajectory)
        for name, called in _COMPARED.items():
            if getattr(again, name) != getattr(sampled, name):
                raise self._mismatch(f"its {called} differ")
        segments = episode_segments(self._codec, trajectory.replies)
        return Replayed(key, PlayedEpisode(trajectory, ((0, seed),)), segments, self._strata[key.board])

    async def returns(self, episode: Replayed, boundary: int, sampler: Sampler) -> list[float]:
        """The returns of the continuations from before segment `boundary`, in the order of their seeds.

        In the order in which they end they would be sorted by length.
        Raises ConfigurationError, naming the world, where it does not replay.
        """
        return await self._returns(episode, episode.segments[boundary].start, str(boundary), sampler)

    async def returns_within(self, episode: Replayed, boundary: int, tokens: int, sampler: Sampler) -> list[float]:
        """The same from within segment `boundary`, where so many tokens of its reply stand."""
        place = Boundary(episode.segments[boundary].start.turn, tokens, complete=False)
        return await self._returns(episode, place, f"{boundary}/token/{tokens}", sampler)

    async def _returns(self, episode: Replayed, place: Boundary, called: str, sampler: Sampler) -> list[float]:
        """called: what tells its seeds from those of the episode's other places."""
        name = f"truth/{self._settings.seed}/{episode.key.board}/{episode.key.repeat}/{called}"
        seeds = [stable_hash(f"{name}/{number}") for number in range(self._count)]
        return list(await asyncio.gather(*(self._return(episode, place, seed, sampler) for seed in seeds)))

    async def _return(self, episode: Replayed, place: Boundary, seed: int, sampler: Sampler) -> float:
        try:
            fork = ForkPoint(episode.played, place.turn)
            copy, context = fork.replay(lambda chosen: self._episode(episode.key, chosen), seed)
        except ReplayMismatchError as error:
            raise self._mismatch(str(error)) from error
        policy = SeededPolicy(sampler, copy, seed)
        reply = episode.played.trajectory.replies[place.turn]
        if not place.complete:
            stands = reply.token_ids[: place.tokens]
            room = copy.world.limits.max_turn_tokens - len(stands)
            rest = await policy.generate([*context, *stands], max_new_tokens=room)
            reply = Reply([*stands, *rest.token_ids], finish_reason=rest.finish_reason)
        return (await copy.play_on(policy, copy.receive(reply))).episode_return

    def _episode(self, key: EpisodeKey, seed: int, *, give_feedback: bool = False) -> Episode:
        return Episode(
            self._world(key.board, seed),
            self._codec,
            max_context_tokens=self._settings.max_context_tokens,
            max_response_tokens=self._settings.max_response_tokens,
            give_feedback=give_feedback,
        )

    def _world(self, board: int, seed: int) -> World:
        settings = self._settings
        return make_world(
            settings.env,
            preset=settings.preset,
            split=settings.split,
            index=board,
            episode_seed=seed,
            **settings.overrides,
        )

    def _mismatch(self, difference: str) -> ConfigurationError:
        remedy = "Let all that is random in the world come from episode_seed and reseed"
        return ConfigurationError("env", self._settings.env, f"does not replay: {difference}", remedy)
