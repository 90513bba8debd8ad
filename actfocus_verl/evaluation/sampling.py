"""What an episode asks of whatever samples its replies."""

from __future__ import annotations

from typing import Protocol

from actfocus_verl.environments.splits import stable_hash
from actfocus_verl.rollout import Reply


class EvaluationError(RuntimeError):
    """The engine or the server could not go on; the message is one line and says why."""


class Interrupted(BaseException):
    """A signal asked the evaluation to stop. Not KeyboardInterrupt: vLLM's start catches that, and then hangs."""


class Sampler(Protocol):
    """Samples one reply; serves many episodes at once."""

    async def sample(self, prompt_ids: list[int], *, max_new_tokens: int, seed: int) -> Reply:
        """Continue `prompt_ids` by at most `max_new_tokens` ids; equal seeds draw equal random numbers."""


class SeededPolicy:
    """One episode's policy: every reply of it has a seed of its own, made from the episode's."""

    def __init__(self, sampler: Sampler, episode_seed: int) -> None:
        self._sampler = sampler
        self._seed = episode_seed
        self._turn = 0

    async def generate(self, prompt_ids: list[int], *, max_new_tokens: int) -> Reply:
        """Raises EvaluationError for a reply that was broken off: it says nothing about the policy."""
        seed = stable_hash(f"sampling/{self._seed}/{self._turn}", bits=31)
        self._turn += 1
        reply = await self._sampler.sample(prompt_ids, max_new_tokens=max_new_tokens, seed=seed)
        if reply.finish_reason not in ("stop", "length"):
            raise EvaluationError(f"a reply was broken off (finish reason {reply.finish_reason!r})")
        return reply
