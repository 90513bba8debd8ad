"""Malformed requests: each is served or refused in OpenAI's format, and none ends anything."""

from __future__ import annotations

import json
import random
from typing import Any

import aiohttp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actfocus_verl.gateway import Endpoint, Limits
from tests.helpers.gateway import USER, Script, converse, post, require_exact

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
FIELD_NAMES = [
    "model",
    "tools",
    "tool_choice",
    "max_tokens",
    "stop",
    "stream",
    "n",
    "seed",
    "logprobs",
    "response_format",
    "x",
]
FIELDS = st.sampled_from(FIELD_NAMES)
ROLES = st.sampled_from(["user", "assistant", "system", "tool", "developer", "function", ""])
MESSAGES = st.lists(
    st.fixed_dictionaries({}, optional={"role": ROLES | JSON, "content": JSON, "tool_calls": JSON, "name": JSON}),
    max_size=4,
)
BODIES = st.one_of(
    st.binary(max_size=60),
    JSON.map(lambda value: json.dumps(value).encode()),
    st.builds(
        lambda messages, fields: json.dumps({"messages": messages, **fields}).encode(),
        MESSAGES | JSON,
        st.dictionaries(FIELDS, JSON, max_size=4),
    ),
    st.builds(
        lambda items, fields: json.dumps({"input": items, **fields}).encode(),
        MESSAGES | JSON,
        st.dictionaries(FIELDS | st.just("previous_response_id"), JSON, max_size=3),
    ),
)
WORST = [
    b"",
    b"[" * 100_000,
    b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
    b'{"messages": [{"role": "user", "content": 1e999}]}',
    b'{"messages": ' + b"9" * 5000 + b"}",
    b"\xff\xfe",
    b'{"messages": [{"role": "user", "content": "a"}], "\\u0000": 1}',
    b'{"messages": [' + b'{"role": "user"},' * 5000 + b'{"role": "user"}]}',
    b"x" * (33 * 2**20),
]


def require_openais(status: int, body: Any) -> None:
    """Served, or refused in OpenAI's format; never an error of the server's."""
    assert status == 200 or 400 <= status < 500, body
    if status != 200:
        assert set(body) == {"error"}
        assert set(body["error"]) == {"message", "type", "param", "code"}
        assert isinstance(body["error"]["message"], str)


def barrage(bodies: list[bytes]) -> None:
    """Send them all to both endpoints of one gateway; it then still serves."""

    async def play(endpoint: Endpoint) -> None:
        headers = {"Content-Type": "application/json"}
        async with aiohttp.ClientSession() as http:
            for body in bodies:
                for path in ("/chat/completions", "/responses"):
                    async with http.post(endpoint.base_url + path, data=body, headers=headers) as answer:
                        text = await answer.read()
                        if not text.startswith((b"data:", b"event:")):
                            require_openais(answer.status, json.loads(text))
        assert (await post(endpoint, json.dumps({"messages": [USER]}).encode()))[0] == 200

    script = Script(answer=lambda prompt: "a")
    session, _ = converse(play, script, Limits(context=10**9, response=10**9, max_turns=10**9))
    assert session.failure is None
    require_exact(session.chains, script)


def test_the_worst_requests() -> None:
    barrage(WORST)


@given(bodies=st.lists(BODIES, min_size=15, max_size=15))
@settings(max_examples=20, deadline=None)
def test_malformed_requests(bodies: list[bytes]) -> None:
    barrage(bodies)


def drawn(rng: random.Random, depth: int = 0) -> Any:
    """Some JSON, now and then what parsers stumble over."""
    kind = rng.randrange(6 if depth > 3 else 9)
    if kind < 4:
        return rng.choice(
            [None, True, -1, 0, 2**70, 1e308, float("nan"), float("inf"), "", "a", "\ud800", "\x00é🦙", "x" * 9999]
        )
    if kind < 6:
        return rng.choice(["user", "assistant", "system", "tool", "function", "text", "auto", "required", "policy"])
    if kind < 7:
        return [drawn(rng, depth + 1) for _ in range(rng.randrange(4))]
    names = (
        "role",
        "content",
        "tool_calls",
        "type",
        "text",
        "function",
        "name",
        "arguments",
        "id",
        "call_id",
        "\ud800",
    )
    return {rng.choice(names): drawn(rng, depth + 1) for _ in range(rng.randrange(5))}


def malformed(rng: random.Random) -> bytes:
    """A body that is wrong in some way, or rarely right: drawn fields, cut or damaged bytes, a huge one."""
    messages: Any = rng.choice(
        [[USER], [USER], drawn(rng), [drawn(rng)], [{"role": drawn(rng), "content": drawn(rng)}]]
    )
    body: Any = {rng.choice(["messages", "input", "messages"]): messages}
    for _ in range(rng.randrange(4)):
        body[rng.choice([*FIELD_NAMES, "previous_response_id", "instructions", "unknown"])] = drawn(rng)
    raw = json.dumps(body if rng.random() < 0.9 else drawn(rng), ensure_ascii=rng.random() < 0.7).encode(
        errors="replace"
    )
    if rng.random() < 0.2:
        raw = raw[: rng.randrange(len(raw) + 1)]
    if rng.random() < 0.1:
        raw = bytes(rng.randrange(256) for _ in range(9)) + raw
    return raw * 20_000 if rng.random() < 0.002 else raw


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(10))
def test_ten_thousand_malformed_requests(seed: int) -> None:
    """A thousand for each seed, half of them to either endpoint."""
    rng = random.Random(seed)
    barrage([malformed(rng) for _ in range(500)])
