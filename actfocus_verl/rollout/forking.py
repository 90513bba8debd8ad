"""Forked rollouts (CARL's Algorithm 1, arXiv 2512.04949): episodes of a prompt that start where others were unsure.

- `PlayedEpisode` is a trajectory with the seeds its randomness was drawn from.
- `ForkPoint` is a turn of a played episode: a state another episode may start from. `replay` leads a fresh world there.
- `VisitedStates` keeps every state's entropy per visit, and chooses the next fork point by it.
- `ForkedGroup` lets the episodes of one prompt wait for those whose entropies they need.

A world is a function of its board, its randomness and the actions, so a state is reached again by playing the same
replies on the same board with the same seeds. From the fork on, what is random is drawn from the seed of the forked
episode itself: siblings that slipped in step would make the world look deterministic.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from actfocus_verl.errors import ConfigurationError
from actfocus_verl.rollout.episode import Episode
from actfocus_verl.rollout.trajectory import Reply, Trajectory

Seeds = tuple[tuple[int, int], ...]
"""(turn, episode seed) in the order of turns, the first of turn 0: randomness is drawn from that seed from there on."""


class ReplayMismatchError(RuntimeError):
    """Replaying an episode did not lead where the episode had been; the message says what differs."""


@dataclass(frozen=True)
class PlayedEpisode:
    """A finished episode. forked: it started at a chosen state."""

    trajectory: Trajectory
    seeds: Seeds
    forked: bool = False


@dataclass(frozen=True)
class ForkPoint:
    """The state that turn `turn` of a played episode was sampled in."""

    episode: PlayedEpisode
    turn: int

    @property
    def state(self) -> int:
        """Hash of its token prefix."""
        return self.episode.trajectory.states[self.turn]

    def seeds(self, episode_seed: int) -> Seeds:
        """Those of an episode that starts here, with randomness of its own from here on."""
        return (*(each for each in self.episode.seeds if each[0] < self.turn), (self.turn, episode_seed))

    def replay(self, make_episode: Callable[[int], Episode], episode_seed: int) -> tuple[Episode, list[int]]:
        """A fresh episode in this state, and its context; what is random from here on is drawn from `episode_seed`.

        make_episode: an episode of the same board from an episode seed.

        Raises:
            ReplayMismatchError: token prefix, rewards or the world's state are not those of the played episode.
        """
        seeds = dict(self.seeds(episode_seed))
        episode = make_episode(seeds[0])
        context: list[int] | None = episode.start()
        played = self.episode.trajectory
        for turn, reply in enumerate(played.replies[: self.turn]):
            if turn and turn in seeds:
                episode.world.reseed(seeds[turn])
            if context is None:
                raise ReplayMismatchError(f"the replayed episode ended before turn {turn + 1}")
            context = episode.replay(Reply(reply.token_ids, None, reply.finish_reason))
        if context is None:
            raise ReplayMismatchError(f"the replayed episode ended before turn {self.turn + 1}")
        difference = episode.difference(played)
        if difference:
            raise ReplayMismatchError(f"{difference} is another one before turn {self.turn + 1}")
        if self.turn:
            episode.world.reseed(episode_seed)
        return episode, context


@dataclass
class _Visited:
    first: ForkPoint
    visits: int = 0
    """Replies sampled here, those still being sampled included."""
    entropies: list[float] = field(default_factory=list)
    """-(1/|Y|) log pi(Y|s) of the replies Y sampled here (Eqs. 6 to 8)."""

    @property
    def score(self) -> float:
        """Mean entropy per visit, the inverse of the paper's action density (Eq. 12)."""
        return sum(self.entropies) / len(self.entropies) / self.visits


class VisitedStates:
    """The states of a group's episodes, each the token prefix of a turn."""

    def __init__(self) -> None:
        self._states: dict[int, _Visited] = {}

    def add(self, episode: PlayedEpisode) -> None:
        """Count the replies the episode sampled itself; the first one of a fork, `choose` has counted.

        Raises ConfigurationError when the policy gives no log-probs.
        """
        played = episode.trajectory
        for turn in range(played.replayed, played.turns):
            seen = self._states.setdefault(played.states[turn], _Visited(ForkPoint(episode, turn)))
            seen.visits += not (episode.forked and turn == played.replayed)
            entropy = sampled_entropy(played.replies[turn])
            if entropy is not None:
                seen.entropies.append(entropy)

    def choose(self) -> ForkPoint:
        """The state of the highest score, the one met first where several have it, as visited once more."""
        candidates = [state for state in self._states.values() if state.entropies]
        if not candidates:
            raise RuntimeError("no episode of the group sampled a token, so there is nothing to fork from")
        chosen = max(candidates, key=lambda state: state.score)
        chosen.visits += 1
        return chosen.first


def sampled_entropy(reply: Reply) -> float | None:
    """Minus the mean log-prob of the reply's tokens, in nats; None for an empty reply."""
    if not reply.token_ids:
        return None
    if reply.log_probs is None:
        raise ConfigurationError(
            "actor_rollout_ref.rollout.calculate_log_probs",
            False,
            "forked rollouts choose states by the log-probs of sampled replies, and the server gives none",
            "Set it to true",
        )
    return -sum(reply.log_probs) / len(reply.log_probs)


class ForkedGroup:
    """Episodes 0 to roots - 1 of a prompt start at its beginning; the others, `wave` at a time, are forks.

    A fork's state is chosen when every episode of earlier waves has been played. All episodes run in one event loop;
    each calls `fork_point` first and `settle` last, whatever happened in between.
    """

    def __init__(self, *, roots: int, wave: int) -> None:
        self._roots = roots
        self._wave = wave
        self._states = VisitedStates()
        self._settled: dict[int, asyncio.Future[PlayedEpisode | None]] = {}
        self._added = 0
        self._chosen: dict[int, ForkPoint] = {}

    async def fork_point(self, session: int) -> ForkPoint | None:
        """Where episode `session` starts; None: at the beginning."""
        if session < self._roots:
            return None
        first = session - (session - self._roots) % self._wave
        await asyncio.wait([self._future(earlier) for earlier in range(first)])
        if session not in self._chosen:
            self._add(first)
            for member in range(first, first + self._wave):
                self._chosen[member] = self._states.choose()
        return self._chosen.pop(session)

    def settle(self, session: int, episode: PlayedEpisode | None) -> int:
        """Tell what episode `session` became, None when it failed; return how many have settled."""
        self._future(session).set_result(episode)
        return sum(future.done() for future in self._settled.values())

    def _add(self, end: int) -> None:
        """In the order of sessions, whichever was played first."""
        for session in range(self._added, end):
            episode = self._settled[session].result()
            if episode is not None:
                self._states.add(episode)
        self._added = end

    def _future(self, session: int) -> asyncio.Future[PlayedEpisode | None]:
        if session not in self._settled:
            self._settled[session] = asyncio.get_running_loop().create_future()
        return self._settled[session]
