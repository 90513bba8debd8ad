"""A gateway over a policy that speaks from a script: characters are tokens, so that every id can be told by hand."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import aiohttp

from actfocus_verl.gateway import Chain, Endpoint, Gateway, Limits, Sampled, Sampling, Session

END = 3
"""The id that ends a reply; the others are code points."""
REPLY = "<assistant>"
LIMITS = Limits(context=40_000, response=30_000)
USER = {"role": "user", "content": "1+2"}

Json = dict[str, Any]


def ids(text: str) -> list[int]:
    return [ord(character) for character in text]


class CharTokens:
    """A chat format of one character a token: `<role>content\\x03`."""

    async def start(self, messages: list[Json], tools: list[Json]) -> list[int]:
        shown = f"<tools>{json.dumps(tools)}" if tools else ""
        return ids(shown + "".join(map(self._message, messages)) + REPLY)

    async def extend(
        self, ids_: list[int], previous: list[Json], messages: list[Json], tools: list[Json]
    ) -> tuple[int, list[int]]:
        assert messages[: len(previous)] == previous
        closing = [] if ids_[-1] == END else [END]
        return 0, [*closing, *ids("".join(map(self._message, messages[len(previous) :])) + REPLY)]

    async def parse(self, token_ids: list[int], tools: list[Json]) -> tuple[str, list[tuple[str, str]]]:
        text = self.text(token_ids)
        calls = re.findall(r"<call>(\w+) (.*?)</call>", text)
        return re.sub(r"<call>.*?</call>", "", text), calls

    def text(self, token_ids: list[int]) -> str:
        return "".join(map(chr, token_ids)).removesuffix(chr(END))

    def token_texts(self, token_ids: list[int]) -> list[str]:
        return [chr(token_id) for token_id in token_ids]

    def is_closed(self, token_ids: list[int]) -> bool:
        return bool(token_ids) and token_ids[-1] == END

    def _message(self, message: Json) -> str:
        calls = json.dumps(message["tool_calls"]) if "tool_calls" in message else ""
        return f"<{message['role']}>{message['content']}{calls}{chr(END)}"


class Script:
    """A policy that says these texts in turn, or what a function makes of the prompt; token i has log-prob -i."""

    def __init__(self, *texts: str, answer: Callable[[str], str | Awaitable[str]] | None = None) -> None:
        self.texts, self.answer = list(texts), answer
        self.calls: list[tuple[str, list[int], list[int]]] = []
        """Name, prompt and what was sampled."""
        self.sampled = 0

    async def __call__(self, name: str, prompt_ids: list[int], max_tokens: int, stop: tuple[str, ...]) -> Sampled:
        await asyncio.sleep(0)
        prompt = "".join(map(chr, prompt_ids))
        text = self.answer(prompt) if self.answer is not None else self.texts.pop(0)
        if not isinstance(text, str):
            text = await text
        ends = [text.index(mark) + len(mark) for mark in stop if mark in text]
        token_ids = ids(text[: min(ends)]) if ends else [*ids(text), END]
        token_ids = token_ids[:max_tokens]
        self.calls.append((name, list(prompt_ids), token_ids))
        first, self.sampled = self.sampled, self.sampled + len(token_ids)
        return Sampled(token_ids, [-float(first + i) for i in range(len(token_ids))])


def require_exact(chains: Sequence[Chain], script: Script) -> None:
    """Every trained token was sampled, once, in the context that the policy saw, and has its own log-prob."""
    found = []
    for chain in chains:
        lengths = {len(chain.response_ids), len(chain.response_mask), len(chain.turn_ids), len(chain.log_probs or [])}
        assert len(lengths) == 1
        whole, offset = chain.ids, len(chain.prompt_ids)
        for turn in range(chain.turns):
            place = [offset + i for i, t in enumerate(chain.turn_ids) if t == turn]
            assert place == list(range(place[0], place[-1] + 1))
            assert all(chain.response_mask[i - offset] == 1 for i in place)
            log_probs = [(chain.log_probs or [])[i - offset] for i in place]
            found.append((whole[: place[0]], whole[place[0] : place[-1] + 1], log_probs))
        outside = [i for i, t in enumerate(chain.turn_ids) if t == -1]
        assert all(chain.response_mask[i] == 0 and (chain.log_probs or [])[i] == 0.0 for i in outside)
    expected, first = [], 0
    for _, prompt, sampled in script.calls:
        expected.append((prompt, sampled, [-float(first + i) for i in range(len(sampled))]))
        first += len(sampled)
    assert sorted(found) == sorted(expected)


def converse(
    play: Callable[[Endpoint], Awaitable[Any]],
    policy: Any,
    limits: Limits = LIMITS,
    sampling: Sampling | None = None,
    tokens: Any = None,
) -> tuple[Session, Any]:
    """Run an agent's coroutine against a gateway of its own."""

    async def run() -> tuple[Session, Any]:
        gateway = Gateway()
        await gateway.start()
        session = Session(tokens or CharTokens(), policy, limits, sampling, model="policy")
        try:
            with gateway.serving(session) as endpoint:
                return session, await play(endpoint)
        finally:
            await gateway.stop()

    return asyncio.run(run())


async def post(endpoint: Endpoint, body: bytes, path: str = "/chat/completions") -> tuple[int, Any]:
    """The status of a raw request, and its answer as JSON."""
    async with (
        aiohttp.ClientSession() as http,
        http.post(endpoint.base_url + path, data=body, headers={"Content-Type": "application/json"}) as answer,
    ):
        return answer.status, json.loads(await answer.read())
