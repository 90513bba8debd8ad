"""The episodes of an evaluation: listing them, playing many at once, and the record of each.

Episode (board, repeat) has the same board, randomness and sampling seed for every model, so two models are compared in
pairs.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Final, NamedTuple, TypeVar

import psutil

from actfocus_verl.credit.tokens import TokenRole
from actfocus_verl.environments import World, is_slow, make_world
from actfocus_verl.environments.splits import stable_hash
from actfocus_verl.evaluation.sampling import Sampler, SeededPolicy
from actfocus_verl.launch.shutdown import end_processes
from actfocus_verl.rollout import ChatCodec, Episode, StandstillWatch, Trajectory, beside_loop, end_process

Key = TypeVar("Key")
Played = TypeVar("Played")

ROLLOUT_COLUMNS: Final = ("prompt_ids", "responses", "response_mask", "token_roles")
"""Token ids and roles of an episode, named as in a run's `rollouts/<step>.jsonl`."""


class EpisodeKey(NamedTuple):
    """An episode's place: its board's index in the split, and which of the rollouts on that board it is."""

    board: int
    repeat: int

    def __str__(self) -> str:
        return f"board {self.board}, repeat {self.repeat}"


def plan(boards: int, repeats: int) -> list[EpisodeKey]:
    """Every episode of an evaluation; those of one board are neighbours, for they share a prompt."""
    return [EpisodeKey(board, repeat) for board in range(boards) for repeat in range(repeats)]


def episode_seed(seed: int, key: EpisodeKey) -> int:
    """The random seed of an episode and its sampling, in [0, 2**63)."""
    return stable_hash(f"evaluation/{seed}/{key.board}/{key.repeat}")


@dataclass(frozen=True)
class EpisodeRecord:
    """One line of `episodes.jsonl`.

    board: index in the split. repeat: which rollout on it. optimal_return: None if unknown. turns: replies.
    parsed_turns: replies of the required form. valid_turns: of these, the ones that held valid actions only, and at
    least one. tokens: in the first prompt (`prompt`) and in the response by role. texts: (state, reply, valid) a turn.
    rollout: `ROLLOUT_COLUMNS` of the episode, by the names that a run's rollouts give them.
    """

    board: int
    repeat: int
    board_hash: str
    stratum: int
    episode_seed: int
    episode_return: float
    optimal_return: float | None
    success: bool
    outcome: dict[str, float | None]
    turns: int
    parsed_turns: int
    valid_turns: int
    actions: int
    stop_reason: str
    tokens: dict[str, int]
    texts: list[dict[str, Any]] | None = None
    rollout: dict[str, list[int]] | None = None

    @property
    def key(self) -> EpisodeKey:
        """Its place in the evaluation."""
        return EpisodeKey(self.board, self.repeat)

    def to_json(self) -> dict[str, Any]:
        """A flat JSON object; texts and rollout only where they are kept."""
        entry = {_JSON_NAMES.get(name, name): value for name, value in asdict(self).items()}
        rollout = entry.pop("rollout")
        if self.texts is None:
            del entry["texts"]
        return entry | (rollout or {})

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> EpisodeRecord:
        """The record of a JSON object. Raises KeyError when it lacks something."""
        names = [field.name for field in fields(cls) if field.name not in ("texts", "rollout")]
        kept = {name: entry[name] for name in ROLLOUT_COLUMNS if name in entry}
        return cls(
            **{name: entry[_JSON_NAMES.get(name, name)] for name in names},
            texts=entry.get("texts"),
            rollout=kept or None,
        )


_JSON_NAMES = {"episode_return": "return"}


@dataclass(frozen=True)
class EpisodeSettings:
    """Settings shared by the episodes of one evaluation.

    overrides: of the world. max_context_tokens, max_response_tokens: as `Episode` reads them.
    """

    env: str
    preset: str
    split: str
    overrides: Mapping[str, object]
    seed: int
    max_context_tokens: int
    max_response_tokens: int | None = None
    texts: bool = False
    rollouts: bool = False


class EpisodePlayer:
    """Plays the episodes of one evaluation."""

    def __init__(self, settings: EpisodeSettings, codec: ChatCodec, sampler: Sampler) -> None:
        self._settings = settings
        self._codec = codec
        self._sampler = sampler
        self._boards: dict[int, tuple[str, int, float | None]] = {}

    async def play(self, key: EpisodeKey) -> EpisodeRecord:
        """Play one episode to its end."""
        settings, seed = self._settings, episode_seed(self._settings.seed, key)
        world = await beside_loop(is_slow(settings.env), self._world, key, seed)
        board_hash, stratum, optimal_return = self._boards[key.board]
        episode = Episode(
            world,
            self._codec,
            max_context_tokens=settings.max_context_tokens,
            max_response_tokens=settings.max_response_tokens,
        )
        trajectory = await episode.play(SeededPolicy(self._sampler, episode, seed))
        return EpisodeRecord(
            board=key.board,
            repeat=key.repeat,
            board_hash=board_hash,
            stratum=stratum,
            episode_seed=seed,
            episode_return=trajectory.episode_return,
            optimal_return=optimal_return,
            success=trajectory.success,
            outcome={name: _finite(value) for name, value in trajectory.outcome.items()},
            turns=trajectory.turns,
            parsed_turns=trajectory.parsed_turns,
            valid_turns=trajectory.valid_turns,
            actions=trajectory.actions,
            stop_reason=trajectory.stop_reason.value,
            tokens=tokens_by_role(trajectory),
            texts=[asdict(text) for text in trajectory.texts] if settings.texts else None,
            rollout=rollout_columns(trajectory) if settings.rollouts else None,
        )

    def _world(self, key: EpisodeKey, seed: int) -> World:
        """A fresh world on the board, of which is then known what every episode on it reports."""
        settings = self._settings
        world = make_world(
            settings.env,
            preset=settings.preset,
            split=settings.split,
            index=key.board,
            episode_seed=seed,
            **settings.overrides,
        )
        if key.board not in self._boards:
            self._boards[key.board] = (world.board_hash(), world.stratum(), _finite(world.optimal_return()))
        return world


def tokens_by_role(trajectory: Trajectory) -> dict[str, int]:
    """Tokens of the first prompt, and of the response by role: `environment` is what stands between replies."""
    roles = trajectory.token_roles
    return {"prompt": len(trajectory.prompt_ids)} | {role.name.lower(): roles.count(int(role)) for role in TokenRole}


def rollout_columns(trajectory: Trajectory) -> dict[str, list[int]]:
    """`ROLLOUT_COLUMNS`: the first prompt's ids, and of each response token its id, mask and role."""
    columns = (trajectory.prompt_ids, trajectory.response_ids, trajectory.response_mask, trajectory.token_roles)
    return dict(zip(ROLLOUT_COLUMNS, ([int(value) for value in column] for column in columns), strict=True))


async def play_episodes(
    keys: Sequence[Key],
    play: Callable[[Key], Coroutine[Any, Any, Played]],
    *,
    concurrency: int,
    record: Callable[[Played], None],
    tool_timeout: float,
    name: Callable[[Key], str] = str,
) -> None:
    """Play what the keys stand for, at most `concurrency` at a time; `record` is called as each one ends.

    The first error, or a cancellation, ends all of them. tool_timeout: seconds that an episode may wait for its world
    between two replies. Then this process ends, with all that it started, and says where the episode stands; name: of a
    key, for these words.
    """
    waiting = iter(keys)
    watch = StandstillWatch(tool_timeout, "tool_timeout", end=_end_with_children, cancels=False, without="")

    async def work() -> None:
        for key in waiting:  # shared: each worker takes the next one
            record(await watch.play(f"an episode ({name(key)})", play(key)))

    workers = [asyncio.ensure_future(work()) for _ in range(min(concurrency, len(keys)))]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


def _end_with_children(message: str) -> None:
    """vLLM's engine is a process of its own, which nothing else would end."""
    end_processes(psutil.Process().children(recursive=True))
    end_process(message)


def _finite(value: float) -> float | None:
    """JSON has no NaN."""
    return float(value) if math.isfinite(value) else None
