"""A session: one conversation of an agent with the policy, turn by turn, within its limits."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from actfocus_verl.files import json_text
from actfocus_verl.gateway.chains import Chain, Context, Entry, Mark, Said, Turn, call_key
from actfocus_verl.gateway.requests import ApiError, ChatRequest, Sampling

Json = dict[str, Any]

MAX_TURNS: Final = "max_turns"
MAX_TOKENS: Final = "max_tokens"
CONTEXT_FULL: Final = "context_full"


@dataclass(frozen=True)
class Call:
    """A tool call. arguments: as JSON text, which the policy may have got wrong."""

    name: str
    arguments: str
    id: str


@dataclass(frozen=True)
class Sampled:
    """Sampled ids of a reply, with its end token where that was sampled; log_probs: one each, or None."""

    token_ids: list[int]
    log_probs: list[float] | None = None


class Tokens(Protocol):
    """Between messages and token ids, by the model's chat template and tool parser. It may raise ApiError."""

    async def start(self, messages: list[Json], tools: list[Json]) -> list[int]:
        """Ids of a conversation's beginning and the generation prompt."""

    async def extend(
        self, ids: list[int], previous: list[Json], messages: list[Json], tools: list[Json]
    ) -> tuple[int, list[int]]:
        """What continues `ids`, whose messages are `previous`: tokens to remove at their end, and ids to add."""

    async def parse(self, token_ids: list[int], tools: list[Json]) -> tuple[str, list[tuple[str, str]]]:
        """A reply's text without its calls, and the calls: name and arguments as JSON text."""

    def text(self, token_ids: list[int]) -> str:
        """A reply's text without the end token."""

    def token_texts(self, token_ids: list[int]) -> list[str]:
        """The text of each token."""

    def is_closed(self, token_ids: list[int]) -> bool:
        """Whether a reply ends with the end token."""


Generate = Callable[[str, list[int], int, tuple[str, ...]], Awaitable[Sampled]]
"""(name, prompt_ids, max_tokens, stop strings) -> sampled ids. name: equal for requests with a common prefix."""


@dataclass(frozen=True)
class Limits:
    """max_turns: replies per conversation. max_tokens: sampled per conversation, None for no limit.

    context, response: tokens of one chain in all, and after its first prompt.
    """

    context: int
    response: int
    max_turns: int = 64
    max_tokens: int | None = None


@dataclass(frozen=True)
class Completion:
    """A reply as it is answered. tokens: text and log-prob of each, where they were asked for."""

    id: str
    model: str
    content: str
    calls: list[Call]
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    tokens: list[tuple[str, float]] | None = None
    created: int = field(default_factory=lambda: int(time.time()))  # noqa: TID251  (a date)


@dataclass
class _Place:
    """Where a turn goes: the chain it continues, or a new one (`slot` None) with the messages it shares."""

    slot: int | None
    chain: Chain
    removed: int
    added: list[int]


class Session:
    """Chains of one conversation. Requests of one agent may run at the same time: each samples in its own context.

    The key is the session's address, of 256 random bits.
    """

    def __init__(
        self, tokens: Tokens, generate: Generate, limits: Limits, sampling: Sampling | None = None, *, model: str
    ) -> None:
        self.key = secrets.token_urlsafe(32)
        self.sampling = sampling or Sampling()
        self.model = model
        self.seconds = 0.0
        """Time in which replies were sampled, summed over them."""
        self.reward: float | None = None
        """What the agent posted to `reward_info`."""
        self.stopped: str | None = None
        """The first limit that a request ran into."""
        self.failure: BaseException | None = None
        """What the rollout engine raised."""
        self._tokens, self._generate, self._limits = tokens, generate, limits
        self._slots: dict[int, Chain] = {}
        self._before: dict[str, tuple[int, Chain | None]] = {}
        self._created = 0
        self._running: set[asyncio.Task[Any]] = set()
        self._reserved = 0
        self.is_closed = False

    @property
    def chains(self) -> list[Chain]:
        """Chains in the order of their first replies."""
        return list(self._slots.values())

    @property
    def turns(self) -> int:
        """Replies sampled so far."""
        return sum(chain.turns for chain in self.chains)

    @property
    def sampled_tokens(self) -> int:
        return sum(sum(chain.response_mask) for chain in self.chains)

    def close(self) -> None:
        """End it: replies being sampled are given up, and leave no token."""
        self.is_closed = True
        for task in self._running:
            task.cancel()

    async def turn(self, request: ChatRequest) -> Completion:
        """Sample one reply. Raises ApiError; cancelled or failed, it leaves the session as it was."""
        if self.is_closed:
            raise ApiError("the conversation is over", status=404, code="session_closed")
        task = asyncio.ensure_future(self._turn(request))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        try:
            return await task
        except asyncio.CancelledError:
            if task.done() and not task.cancelled() and task.exception() is None:
                self.take_back(task.result())  # it ended in the same moment as its request
            if self.is_closed:
                raise ApiError("the conversation is over", status=404, code="session_closed") from None
            raise

    def delivered(self, completion: Completion) -> None:
        """A reply has reached the agent."""
        self._before.pop(completion.id, None)

    def take_back(self, completion: Completion) -> None:
        """Remove a reply that never reached the agent, unless something continues it already."""
        slot, before = self._before.pop(completion.id, (None, None))
        if slot is None or slot not in self._slots:
            return
        current = self._slots[slot]
        if current.is_busy or current.turns != (before.turns if before else 0) + 1:
            return
        if before is None:
            del self._slots[slot]
        else:
            self._slots[slot] = before

    async def _turn(self, request: ChatRequest) -> Completion:
        if self.turns + self._reserved >= self._limits.max_turns:
            raise self._stop(MAX_TURNS, f"the conversation may have {self._limits.max_turns} replies (agent.max_turns)")
        self._reserved += 1
        slot = None
        try:
            place = await self._place(request)
            slot = place.slot
            return await self._reply(request, place)
        finally:
            self._reserved -= 1
            if slot is not None:
                self._slots[slot].is_busy = False

    async def _place(self, request: ChatRequest) -> _Place:
        """Find the chain that the request continues and mark it busy, or begin a new one."""
        messages, tools = request.messages, request.tools
        key = json_text(tools, sort_keys=True)
        found = self._longest(messages, key)
        if found is None:
            return _Place(None, self._new_chain(key, []), 0, await self._tokens.start(messages, tools))
        slot, mark = found
        chain = self._slots[slot]
        ids = chain.ids[: mark.tokens]
        extension = self._tokens.extend(ids, messages[: mark.messages], messages, tools)
        if mark == chain.marks[-1] and not chain.is_busy:
            chain.is_busy = True
            try:
                return _Place(slot, chain, *await extension)
            except BaseException:
                chain.is_busy = False
                raise
        # Another request continues that reply, or has: a further row, whose prompt is what the policy saw and sampled.
        removed, added = await extension
        fork = self._new_chain(key, chain.messages[: mark.messages])
        return _Place(None, fork, 0, [*ids[: len(ids) - removed], *added])

    def _longest(self, messages: list[Json], tools: str) -> tuple[int, Mark] | None:
        """The chain with the most of the request's messages, and where; of equal ones, that of the calls' ids."""
        best: tuple[tuple[int, bool, bool, int], int, Mark] | None = None
        for slot, chain in self._slots.items():
            mark = chain.continued_by(messages, tools)
            if mark is None:
                continue
            free = mark == chain.marks[-1] and not chain.is_busy
            rank = (mark.messages, chain.same_call_ids(messages, mark), free, slot)
            if best is None or rank > best[0]:
                best = rank, slot, mark
        return None if best is None else best[1:]

    def _new_chain(self, tools: str, messages: list[Entry]) -> Chain:
        self._created += 1
        return Chain(tools, name=f"{self.key}-{self._created}", messages=list(messages))

    async def _reply(self, request: ChatRequest, place: _Place) -> Completion:
        chain = place.chain
        length = len(chain.prompt_ids) + len(chain.response_ids) - place.removed
        prompt = [*chain.ids[:length], *place.added]
        room = self._room(len(prompt), len(prompt) - len(chain.prompt_ids) if chain.marks else 0)
        most = min(room, request.max_tokens or room)
        started = time.perf_counter()
        try:
            sampled = await self._generate(chain.name, prompt, most, request.stop)
        except Exception as error:
            self.failure = self.failure or error
            raise
        finally:
            self.seconds += time.perf_counter() - started
        if not sampled.token_ids:
            raise ApiError("the reply was broken off before its first token", status=503, kind="server_error")
        if request.logprobs and sampled.log_probs is None:
            raise ApiError("logprobs are off: actor_rollout_ref.rollout.calculate_log_probs", param="logprobs")
        content, calls, whole = await self._read(sampled.token_ids, request)
        completion = self._completion(request, len(prompt), sampled, content, calls)
        said = Said(
            texts=frozenset({content.strip(), whole.strip()}),
            calls=tuple(call_key({"name": call.name, "arguments": call.arguments}) for call in calls),
            call_ids=tuple(call.id for call in calls),
        )
        known = len(chain.messages)
        new: list[Entry] = [*map(Context.of, request.messages[known:]), said]
        self._commit(completion, place, Turn(place.removed, place.added, sampled.token_ids, sampled.log_probs, new))
        return completion

    def _room(self, context: int, response: int) -> int:
        """Tokens that a reply may have. context, response: tokens of the chain before it."""
        limits = self._limits
        room = min(limits.context - context, limits.response - response)
        if room < 1:
            message = (
                f"the conversation has {context} tokens, {response} of them after its first prompt; "
                f"at most {limits.context} and {limits.response} are possible"
            )
            raise self._stop(CONTEXT_FULL, message, param="messages", code="context_length_exceeded")
        if limits.max_tokens is None:
            return room
        left = limits.max_tokens - self.sampled_tokens
        if left < 1:
            raise self._stop(MAX_TOKENS, f"the conversation may have {limits.max_tokens} sampled tokens")
        return min(room, left)

    def _stop(self, reason: str, message: str, *, param: str | None = None, code: str | None = None) -> ApiError:
        self.stopped = self.stopped or reason
        return ApiError(message, param=param, code=code or f"{reason}_exceeded")

    async def _read(self, token_ids: list[int], request: ChatRequest) -> tuple[str, list[Call], str]:
        """The content and the calls of the answer, and the whole text of the reply."""
        whole = self._tokens.text(token_ids)
        cut = min((at for at in (whole.find(stop) for stop in request.stop) if at >= 0), default=None)
        if cut is not None or not request.parses_calls:
            return whole[:cut], [], whole
        content, found = await self._tokens.parse(token_ids, request.tools)
        if not found:
            return content, [], whole
        calls = [Call(name, arguments, f"call_{secrets.token_hex(12)}") for name, arguments in found]
        return content.strip(), calls[:1] if request.one_call else calls, whole

    def _completion(
        self, request: ChatRequest, prompt_tokens: int, sampled: Sampled, content: str, calls: list[Call]
    ) -> Completion:
        ids = sampled.token_ids
        stopped = self._tokens.is_closed(ids) or any(stop in self._tokens.text(ids) for stop in request.stop)
        tokens = None
        if request.logprobs and sampled.log_probs is not None:
            tokens = list(zip(self._tokens.token_texts(ids), sampled.log_probs, strict=True))
        return Completion(
            id=f"chatcmpl-{secrets.token_hex(12)}",
            model=request.model or self.model,
            content=content,
            calls=calls,
            finish_reason="tool_calls" if calls else "stop" if stopped else "length",
            prompt_tokens=prompt_tokens,
            completion_tokens=len(ids),
            tokens=tokens,
        )

    def _commit(self, completion: Completion, place: _Place, turn: Turn) -> None:
        slot, before = place.slot, None
        if slot is None:
            slot = self._created_slot()
        else:
            before = place.chain
            before.is_busy = False
        self._slots[slot] = place.chain.with_turn(turn)
        self._before[completion.id] = (slot, before)

    def _created_slot(self) -> int:
        return max(self._slots, default=-1) + 1
