"""OpenAI's format: requests that are served and refused, and answers that OpenAI's own client reads."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import openai
import pytest

from actfocus_verl.gateway import ApiError, Endpoint, Sampling
from actfocus_verl.gateway.requests import parse_chat
from actfocus_verl.gateway.responses import parse_responses
from tests.helpers.gateway import USER, Script, converse, post, require_exact

ADD = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}
OURS = Sampling(temperature=0.7)
STRICT = Sampling(temperature=0.7, strict=True)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("said", ["hello", 'think <call>add {"a": 1}</call><call>add {"a": 2}</call>'])
def test_openais_client_reads_a_completion(said: str, stream: bool) -> None:
    script = Script(said)

    async def play(endpoint: Endpoint) -> Any:
        async with openai.AsyncOpenAI(base_url=endpoint.base_url, api_key="any", max_retries=0) as api:
            create = api.chat.completions.create
            asked: Any = {"model": "mine", "messages": [USER], "tools": [ADD], "logprobs": True}
            if not stream:
                return await create(**asked)
            parts = api.chat.completions.stream(**asked, stream_options={"include_usage": True})
            async with parts as events:
                return await events.get_final_completion()

    session, answer = converse(play, script)
    (choice,) = answer.choices
    calls = choice.message.tool_calls or []
    assert answer.model == "mine"
    assert [json.loads(call.function.arguments) for call in calls] == ([{"a": 1}, {"a": 2}] if "call" in said else [])
    assert choice.message.content == ("think" if "call" in said else said)
    assert choice.finish_reason == ("tool_calls" if calls else "stop")
    count = len(script.calls[0][2])
    assert (answer.usage.completion_tokens, answer.usage.prompt_tokens) == (count, len(script.calls[0][1]))
    assert [entry.logprob for entry in choice.logprobs.content] == [-float(i) for i in range(count)]
    require_exact(session.chains, script)


@pytest.mark.parametrize("stream", [False, True])
def test_openais_client_reads_responses(stream: bool) -> None:
    """Two turns with a call, as the Agents SDK sends them back: one chain."""
    script = Script('think <call>add {"a": 1}</call>', "It is 3.")
    tool = {"type": "function", "name": "add", "parameters": {"type": "object", "properties": {}}, "strict": False}

    async def play(endpoint: Endpoint) -> str:
        async with openai.AsyncOpenAI(base_url=endpoint.base_url, api_key="any", max_retries=0) as api:
            history: list[Any] = [{"role": "user", "content": "1+2"}]

            async def respond() -> Any:
                asked: Any = {"model": "policy", "input": history, "instructions": "Add.", "tools": [tool]}
                if not stream:
                    return await api.responses.create(**asked)
                async with api.responses.stream(**asked) as events:
                    return await events.get_final_response()

            first = await respond()
            call = first.output[-1]
            assert (call.type, call.name, first.output_text) == ("function_call", "add", "think")
            history += [item.model_dump(exclude_none=True) for item in first.output]
            history.append({"type": "function_call_output", "call_id": call.call_id, "output": "3"})
            second = await respond()
            assert second.usage.output_tokens == len(script.calls[1][2])
            return str(second.output_text)

    session, said = converse(play, script)
    assert said == "It is 3."
    assert len(session.chains) == 1
    require_exact(session.chains, script)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"n": 2}, "n must be 1"),
        ({"logit_bias": {"5": 1}}, "logit_bias is not supported"),
        ({"response_format": {"type": "json_object"}}, "response_format must be text"),
        ({"top_logprobs": 2}, "top_logprobs must be 0"),
        ({"modalities": ["audio"]}, "modalities must be"),
        ({"functions": []}, "functions is not supported here"),
        ({"max_tokens": 0}, "max_tokens: Input should be greater than or equal to 1"),
        ({"temperature": float("nan")}, "temperature: Value error, must be a finite number"),
        ({"stop": [""]}, "stop must not be an empty string"),
        ({"messages": []}, "messages: List should have at least 1 item"),
        ({"messages": [{"role": "user"}]}, "messages.0: content is missing"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "messages.0: a tool's message needs tool_call_id"),
        ({"messages": [USER, {"role": "assistant", "content": "a"}]}, "the last message must not be the assistant's"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, "messages.0.content"),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type"),
    ],
)
def test_what_cannot_be_done_right_is_refused(fields: Any, message: str) -> None:
    with pytest.raises(ApiError, match=message.replace("(", r"\(").replace("[", r"\[")) as error:
        parse_chat({"messages": [USER], **fields}, OURS)
    assert error.value.status == 400
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "fields",
    [{"temperature": 0.2}, {"top_p": 0.9}, {"seed": 1}, {"frequency_penalty": 1.0}, {"tool_choice": "required"}],
)
def test_sampling_is_the_trainers(fields: Any) -> None:
    body = {"messages": [USER], "tools": [ADD], **fields}
    assert parse_chat(body, OURS).messages == [USER]
    with pytest.raises(ApiError, match=r"agent\.sampling=trainer"):
        parse_chat(body, STRICT)
    assert parse_chat({"messages": [USER], "temperature": 0.7, "top_p": 1, "tool_choice": "auto"}, STRICT)


def test_a_request_as_a_template_takes_it() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    request = parse_chat(
        {
            "messages": [
                {"role": "developer", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
                {"role": "assistant", "content": None, "tool_calls": [call]},
                {"role": "tool", "tool_call_id": "c", "content": "1"},
            ],
            "tools": [ADD],
            "tool_choice": "none",
            "parallel_tool_calls": False,
            "max_tokens": 9,
            "max_completion_tokens": 7,
            "user": "x",
        },
        STRICT,
    )
    assert request.messages[0] == {"role": "system", "content": "ab"}
    assert request.messages[1]["tool_calls"][0]["function"]["arguments"] == {"a": 1}  # templates write JSON themselves
    assert (request.parses_calls, request.one_call, request.max_tokens) == (False, True, 7)


@pytest.mark.parametrize("field", ["previous_response_id", "conversation", "background"])
def test_responses_are_not_stored(field: str) -> None:
    with pytest.raises(ApiError, match=f"{field} is not supported: nothing is stored"):
        parse_responses({"input": "a", field: "x"}, OURS)


def test_one_call_and_no_call() -> None:
    script = Script(*['<call>add {"a": 1}</call><call>add {"a": 2}</call>'] * 2)

    async def play(endpoint: Endpoint) -> list[Any]:
        answers = []
        for fields in ({"parallel_tool_calls": False}, {"tool_choice": "none"}):
            body = json.dumps({"messages": [USER], "tools": [ADD], **fields}).encode()
            answers.append((await post(endpoint, body))[1]["choices"][0])
        return answers

    _, (one, none) = converse(play, script)
    assert len(one["message"]["tool_calls"]) == 1
    assert "tool_calls" not in none["message"]
    assert none["message"]["content"].startswith("<call>")
    assert none["finish_reason"] == "stop"


def test_what_is_not_served_is_refused_by_name() -> None:
    async def play(endpoint: Endpoint) -> list[Any]:
        return [await post(endpoint, b"{}", path) for path in ("/embeddings", "/completions", "/messages")]

    _, answers = converse(play, Script())
    assert [status for status, _ in answers] == [404, 404, 404]
    assert "embeddings is not served" in answers[0][1]["error"]["message"]


def test_the_reward_endpoint() -> None:
    async def play(endpoint: Endpoint) -> list[int]:
        bodies = [b'{"reward_info": {"score": 0.5, "label": "A"}}', b'{"reward": 2}', b'{"reward": "x"}', b"[]"]
        return [(await post(endpoint, body, "/../reward_info"))[0] for body in bodies]

    session, statuses = converse(play, Script())
    assert statuses == [200, 200, 400, 400]
    assert session.reward == 2.0


def test_an_engine_that_fails_is_an_error_of_the_server(caplog: pytest.LogCaptureFixture) -> None:
    async def broken(*_: Any) -> Any:
        raise RuntimeError("the engine died")

    async def play(endpoint: Endpoint) -> Any:
        return await post(endpoint, json.dumps({"messages": [USER]}).encode())

    with caplog.at_level(logging.CRITICAL):
        session, (status, body) = converse(play, broken)
    assert (status, body["error"]["type"]) == (500, "server_error")
    assert str(session.failure) == "the engine died"


def test_a_closed_session_answers_nobody() -> None:
    waiting = asyncio.Event()

    async def wait(prompt: str) -> str:
        waiting.set()
        await asyncio.sleep(60)
        return ""

    async def play(endpoint: Endpoint) -> Any:
        request = asyncio.ensure_future(post(endpoint, json.dumps({"messages": [USER]}).encode()))
        await waiting.wait()
        return request

    async def whole() -> tuple[Any, Any]:
        from actfocus_verl.gateway import Gateway, Session
        from tests.helpers.gateway import LIMITS, CharTokens

        gateway = Gateway()
        await gateway.start()
        session = Session(CharTokens(), Script(answer=wait), LIMITS, model="policy")
        with gateway.serving(session) as endpoint:
            request = await play(endpoint)
        answer = await request
        await gateway.stop()
        return session, answer

    session, (status, body) = asyncio.run(whole())
    assert (status, body["error"]["code"]) == (404, "session_closed")
    assert session.chains == []


def test_a_server_that_restarts() -> None:
    """What was being sampled is lost without a token; its client has an error; the next conversation is served."""
    waiting = asyncio.Event()

    async def hang(prompt: str) -> str:
        if not waiting.is_set():
            waiting.set()
            await asyncio.sleep(60)
        return "said"

    async def ask(endpoint: Endpoint) -> str | None:
        async with openai.AsyncOpenAI(base_url=endpoint.base_url, api_key="any", max_retries=0) as api:
            messages: Any = [USER]
            return (await api.chat.completions.create(model="policy", messages=messages)).choices[0].message.content

    async def whole() -> tuple[list[Any], str | None]:
        from actfocus_verl.gateway import Gateway, Session
        from tests.helpers.gateway import LIMITS, CharTokens

        gateway, script = Gateway(), Script(answer=hang)
        before, after = (Session(CharTokens(), script, LIMITS, model="policy") for _ in range(2))
        await gateway.start()
        with gateway.serving(before) as endpoint:
            request = asyncio.ensure_future(ask(endpoint))
            await waiting.wait()
            await gateway.stop()
            with pytest.raises(openai.APIError):
                await request
            with pytest.raises(openai.APIError):
                await ask(endpoint)
        await gateway.start()
        with gateway.serving(after) as endpoint:
            said = await ask(endpoint)
        await gateway.stop()
        require_exact(after.chains, script)
        return before.chains, said

    assert asyncio.run(asyncio.wait_for(whole(), 30)) == ([], "said")
