"""What was sampled, and in which context, for agents that branch, compress, retry and hang up."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import openai
import pytest

from actfocus_verl.gateway import Endpoint, Limits
from tests.helpers.gateway import END, Script, converse, ids, require_exact

ADD = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}
USER = {"role": "user", "content": "1+2"}


def client(endpoint: Endpoint, **options: Any) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=endpoint.base_url, api_key=endpoint.api_key, max_retries=0, **options)


async def ask(endpoint: Endpoint, messages: list[Any], **fields: Any) -> Any:
    async with client(endpoint) as api:
        answer = await api.chat.completions.create(model="policy", messages=messages, **fields)
        return answer.choices[0].message


def test_a_conversation_with_a_tool_is_one_chain() -> None:
    script = Script('I ask.\n<call>add {"a": 1, "b": 2}</call>', "It is 3.")

    async def play(endpoint: Endpoint) -> str:
        first = await ask(endpoint, [USER], tools=[ADD])
        (call,) = first.tool_calls
        assert (first.content, call.function.name, call.function.arguments) == ("I ask.", "add", '{"a": 1, "b": 2}')
        told = {"role": "tool", "tool_call_id": call.id, "content": "3"}
        return (await ask(endpoint, [USER, first.model_dump(exclude_none=True), told], tools=[ADD])).content

    session, said = converse(play, script)
    assert said == "It is 3."
    (chain,) = session.chains
    require_exact([chain], script)
    between = [*ids("<tool>3"), END, *ids("<assistant>")]
    assert chain.response_ids == [*script.calls[0][2], *between, *script.calls[1][2]]  # by hand: nothing re-encoded
    assert script.calls[0][0] == script.calls[1][0]  # the engine may reuse its cache


@pytest.mark.parametrize(
    "echoed",
    [
        {"role": "assistant", "content": "  It is 3. "},
        {"role": "assistant", "content": [{"type": "text", "text": "It is 3."}]},
        {"role": "assistant", "content": "It is 3.", "refusal": None, "annotations": [], "tool_calls": None},
    ],
)
def test_a_reply_is_known_by_its_content(echoed: Any) -> None:
    script = Script("It is 3.", "Yes.")

    async def play(endpoint: Endpoint) -> None:
        await ask(endpoint, [USER])
        await ask(endpoint, [USER, echoed, {"role": "user", "content": "sure?"}])

    session, _ = converse(play, script)
    assert len(session.chains) == 1
    require_exact(session.chains, script)


def test_arguments_written_otherwise_and_other_call_ids_are_the_same_call() -> None:
    script = Script('<call>add {"a": 1,  "b": 2}</call>', "3")

    async def play(endpoint: Endpoint) -> None:
        first = await ask(endpoint, [USER], tools=[ADD])
        call = {"id": "mine", "type": "function", "function": {"name": "add", "arguments": '{"b":2,"a":1}'}}
        assert first.content is None
        said = {"role": "assistant", "content": "", "tool_calls": [call]}
        await ask(endpoint, [USER, said, {"role": "tool", "tool_call_id": "mine", "content": "3"}], tools=[ADD])

    session, _ = converse(play, script)
    assert len(session.chains) == 1
    require_exact(session.chains, script)


def test_a_sub_agent_is_a_chain_of_its_own_and_the_first_goes_on() -> None:
    script = Script("plan", "detail", "done")

    async def play(endpoint: Endpoint) -> None:
        first = await ask(endpoint, [USER])
        other = await ask(endpoint, [{"role": "system", "content": "You check."}, USER])
        said = [{"role": "assistant", "content": first.content}, {"role": "user", "content": other.content}]
        await ask(endpoint, [USER, *said])

    session, _ = converse(play, script)
    assert [chain.turns for chain in session.chains] == [2, 1]
    require_exact(session.chains, script)


def test_compressed_history_is_a_new_chain() -> None:
    script = Script("a long thought", "an answer", "the end")

    async def play(endpoint: Endpoint) -> None:
        said = {"role": "assistant", "content": (await ask(endpoint, [USER])).content}
        more = {"role": "user", "content": "go on"}
        await ask(endpoint, [USER, said, more])
        await ask(endpoint, [USER, {"role": "assistant", "content": "(summary)"}, more])

    session, _ = converse(play, script)
    assert [chain.turns for chain in session.chains] == [2, 1]
    assert "(summary)" in "".join(map(chr, session.chains[1].prompt_ids))
    require_exact(session.chains, script)


def test_other_tools_are_another_prompt() -> None:
    script = Script("a", "b")

    async def play(endpoint: Endpoint) -> None:
        said = {"role": "assistant", "content": (await ask(endpoint, [USER], tools=[ADD])).content}
        await ask(endpoint, [USER, said, USER])

    session, _ = converse(play, script)
    assert [chain.turns for chain in session.chains] == [1, 1]


def test_a_second_continuation_keeps_the_sampled_ids_in_its_prompt() -> None:
    """A retry, or a search: the reply before it is not encoded again, and is trained once."""
    script = Script("  odd   spacing ", "one", "two")

    async def play(endpoint: Endpoint) -> None:
        said = {"role": "assistant", "content": (await ask(endpoint, [USER])).content}
        for _ in range(2):
            await ask(endpoint, [USER, said, {"role": "user", "content": "next"}])

    session, _ = converse(play, script)
    assert [chain.turns for chain in session.chains] == [2, 1]
    fork = session.chains[1]
    assert fork.prompt_ids[: len(script.calls[0][1]) + len(script.calls[0][2])] == [
        *script.calls[0][1],
        *script.calls[0][2],
    ]
    assert sum(map(sum, (chain.response_mask for chain in session.chains))) == script.sampled
    require_exact(session.chains, script)


def test_parallel_requests_do_not_mix() -> None:
    async def later(prompt: str) -> str:
        await asyncio.sleep(0.002 * (len(prompt) % 7))
        return f"re:{prompt[-30:]}"

    script = Script(answer=later)

    async def branch(endpoint: Endpoint, name: str, said: Any) -> None:
        messages = [USER, said]
        for turn in range(4):
            messages.append({"role": "user", "content": f"{name}{turn}"})
            reply = await ask(endpoint, messages)
            assert f"{name}{turn}" in reply.content
            messages.append({"role": "assistant", "content": reply.content})

    async def play(endpoint: Endpoint) -> None:
        said = {"role": "assistant", "content": (await ask(endpoint, [USER])).content}
        await asyncio.gather(*(branch(endpoint, name, said) for name in "abcdef"))

    session, _ = converse(play, script)
    assert sorted(chain.turns for chain in session.chains) == [4, 4, 4, 4, 4, 5]
    require_exact(session.chains, script)


@pytest.mark.parametrize("turn", [0, 1])
def test_a_cancelled_request_leaves_no_token(turn: int) -> None:
    started = asyncio.Event()

    async def hang(prompt: str) -> str:
        if prompt.count("<user>") == turn + 1 and not started.is_set():
            started.set()
            await asyncio.sleep(60)
        return "said"

    script = Script(answer=hang)

    async def play(endpoint: Endpoint) -> None:
        messages: list[Any] = [USER]
        for _ in range(turn):
            messages += [{"role": "assistant", "content": (await ask(endpoint, messages)).content}, USER]
        request = asyncio.ensure_future(ask(endpoint, messages))
        await started.wait()
        request.cancel()
        await asyncio.wait([request])
        await asyncio.sleep(0.05)
        await ask(endpoint, messages)  # the retry goes on where the first stood

    session, _ = converse(play, script)
    assert [chain.turns for chain in session.chains] == [turn + 1]
    require_exact(session.chains, script)


def test_a_reply_that_nobody_received_is_taken_back() -> None:
    gone = asyncio.Event()

    async def wait(prompt: str) -> str:
        if not gone.is_set():
            gone.set()
            await asyncio.sleep(0.05)
        return "x" * 400

    script = Script(answer=wait)

    async def play(endpoint: Endpoint) -> int:
        host, port = endpoint.base_url.split("/")[2].split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        body = b'{"messages": [{"role": "user", "content": "a"}]}'
        path = "/" + endpoint.base_url.split("/", 3)[3]
        writer.write(
            f"POST {path}/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        await gone.wait()
        writer.transport.abort()
        await asyncio.sleep(0.15)
        await ask(endpoint, [USER])
        return 0

    session, _ = converse(play, script)
    assert session.turns == 1
    require_exact(session.chains, script)


def test_a_slow_reader_holds_up_nobody() -> None:
    script = Script(answer=lambda prompt: "y" * 1000)

    async def play(endpoint: Endpoint) -> None:
        async with aiohttp.ClientSession() as http:
            body = {"messages": [USER], "stream": True}
            async with http.post(f"{endpoint.base_url}/chat/completions", json=body) as slow:
                await asyncio.gather(*(ask(endpoint, [USER]) for _ in range(5)))
                assert (await slow.read()).endswith(b"data: [DONE]\n\n")

    session, _ = converse(play, script)
    assert session.turns == 6
    require_exact(session.chains, script)


def test_a_reply_cut_off_is_closed_before_the_next_message() -> None:
    script = Script("abcdefgh", "ok")

    async def play(endpoint: Endpoint) -> None:
        async with client(endpoint) as api:
            answer = await api.chat.completions.create(model="policy", messages=[USER], max_tokens=3)  # type: ignore[list-item]
        (choice,) = answer.choices
        assert (choice.message.content, choice.finish_reason) == ("abc", "length")
        assert answer.usage is not None
        assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (len(script.calls[0][1]), 3)
        await ask(endpoint, [USER, {"role": "assistant", "content": "abc"}, USER])

    session, _ = converse(play, script)
    (chain,) = session.chains
    assert chain.response_ids[:4] == [*ids("abc"), END]
    assert chain.response_mask[:4] == [1, 1, 1, 0]


@pytest.mark.parametrize("back", ["x = 1", "x = 1</code>"])
def test_a_stop_string_is_sampled_and_not_shown(back: str) -> None:
    """Clients that stop at a closing tag put it back themselves."""
    script = Script("x = 1</code> and more", "ok")

    async def play(endpoint: Endpoint) -> None:
        reply = await ask(endpoint, [USER], stop=["</code>"])
        assert reply.content == "x = 1"
        await ask(endpoint, [USER, {"role": "assistant", "content": back}, USER])

    session, _ = converse(play, script)
    (chain,) = session.chains
    assert script.calls[0][2] == ids("x = 1</code>")
    require_exact([chain], script)


@pytest.mark.parametrize(
    ("limits", "stopped"),
    [
        (Limits(context=40_000, response=3000, max_turns=2), "max_turns"),
        (Limits(context=40_000, response=3000, max_tokens=8), "max_tokens"),
        (Limits(context=60, response=3000), "context_full"),
        (Limits(context=40_000, response=30), "context_full"),
    ],
)
def test_limits_end_a_conversation_and_not_the_server(limits: Limits, stopped: str) -> None:
    script, refusals = Script(answer=lambda prompt: "abc"), []

    async def play(endpoint: Endpoint) -> int:
        messages: list[Any] = [USER]
        for turn in range(10):
            try:
                reply = await ask(endpoint, messages)
            except openai.BadRequestError as error:
                refusals.append(error.body)
                return turn
            messages += [{"role": "assistant", "content": reply.content}, USER]
        return -1

    session, turns = converse(play, script, limits)
    assert turns == session.turns == 2
    assert session.stopped == stopped
    assert [body["type"] for body in refusals] == ["invalid_request_error"]
    require_exact(session.chains, script)


def test_sessions_are_apart() -> None:
    script = Script(answer=lambda prompt: "a")

    async def play(endpoint: Endpoint) -> None:
        other = endpoint.base_url.replace(endpoint.api_key, "x" * len(endpoint.api_key))
        async with aiohttp.ClientSession() as http, http.get(f"{other}/models") as answer:
            assert (answer.status, (await answer.json())["error"]["code"]) == (404, "session_not_found")
        assert endpoint.base_url.startswith("http://127.0.0.1:")
        assert len(endpoint.api_key) >= 43  # 256 bits

    one, _ = converse(play, script)
    other, _ = converse(play, script)
    assert one.key != other.key
