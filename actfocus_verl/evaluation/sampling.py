"""Sampling requests of an episode, and the interface of samplers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from actfocus_verl.environments import ToolWorld
from actfocus_verl.environments.splits import stable_hash
from actfocus_verl.errors import CommandFailed
from actfocus_verl.rollout import Episode, Reply, waiting_elsewhere


class EvaluationError(CommandFailed):
    """The engine or the server failed; the message is one line and says why."""


@dataclass(frozen=True)
class ReplyRequest:
    """The context of one reply, as token ids and as messages: a sampler reads one of them.

    prompt_ids: the whole context. messages: the same conversation, {"role", "content"}. max_new_tokens: of the reply.
    seed: equal seeds draw equal random numbers. opening: what the context, and not the messages, holds of the reply.
    tools: the schemas of the functions that are offered, which the context holds and the messages do not.
    """

    prompt_ids: list[int]
    messages: list[dict[str, str]]
    max_new_tokens: int
    seed: int
    opening: str = ""
    tools: Sequence[Mapping[str, Any]] = ()


class Sampler(Protocol):
    """Samples one reply; serves many episodes at once."""

    async def sample(self, request: ReplyRequest) -> Reply:
        """Continue the conversation by at most `max_new_tokens` ids."""


class SeededPolicy:
    """One episode's policy: every reply has its own seed, derived from the episode's."""

    def __init__(self, sampler: Sampler, episode: Episode, episode_seed: int) -> None:
        self._sampler = sampler
        self._episode = episode
        self._seed = episode_seed
        self._turn = 0

    async def generate(self, prompt_ids: list[int], *, max_new_tokens: int) -> Reply:
        """Raises EvaluationError for a reply that was aborted: it says nothing about the policy."""
        seed = stable_hash(f"sampling/{self._seed}/{self._turn}", bits=31)
        self._turn += 1
        world = self._episode.world
        tools = world.tools() if isinstance(world, ToolWorld) else ()
        request = ReplyRequest(
            prompt_ids, self._episode.messages, max_new_tokens, seed, opening=world.limits.opening, tools=tools
        )
        with waiting_elsewhere():
            reply = await self._sampler.sample(request)
        if reply.finish_reason not in ("stop", "length"):
            raise EvaluationError(f"a reply was aborted (finish reason {reply.finish_reason!r})")
        return reply
