"""The clients of a server: what they send, what is tried again, and what they refuse to take."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
import unicodedata
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from actfocus_verl.environments import ToolWorld, function_schema
from actfocus_verl.errors import ConfigurationError
from actfocus_verl.evaluation.sampling import EvaluationError, ReplyRequest, SeededPolicy
from actfocus_verl.evaluation.server import ATTEMPTS, ChatServer, CompletionServer
from actfocus_verl.rollout import ChatCodec, Reply
from actfocus_verl.rollout.columns import read_reply
from tests.evaluation.conftest import FakeServer

Ask = Callable[..., Reply]
GUARD = 60
"""Seconds that are never reached unless something is wrong."""
ADD = function_schema("add", "Adds.", number={"type": "integer"})
REQUEST = ReplyRequest([5, 6, 7], [{"role": "user", "content": "go"}], max_new_tokens=100, seed=11)


@pytest.fixture
def ask(codec: ChatCodec, fake_server: FakeServer) -> Ask:
    """One reply to REQUEST, with the settings of the server's client changed by keywords."""

    def reply(
        kind: type[ChatServer | CompletionServer] = CompletionServer, request: ReplyRequest = REQUEST, **changes: Any
    ) -> Reply:
        settings: dict[str, Any] = {"address": fake_server.address, "model": None, "max_context_tokens": 64}

        async def main() -> Reply:
            async with kind(codec=codec, temperature=0.5, **{**settings, **changes}) as server:
                return await server.sample(request)

        return asyncio.run(main())

    return reply


def test_ids_go_in_and_sampled_ids_come_out(ask: Ask, fake_server: FakeServer, codec: ChatCodec) -> None:
    assert ask() == Reply(fake_server.reply, finish_reason="stop")
    (body,) = fake_server.requests
    assert body == {
        "model": "tiny",
        "prompt": [5, 6, 7],
        "max_tokens": 100,
        "seed": 11,
        "temperature": 0.5,
        "stop_token_ids": [codec.end_of_turn_id],
        "return_token_ids": True,
        # all neutral, or the server would take them from the model's generation_config
        "top_p": 1.0,
        "top_k": 0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
    }


def test_messages_go_in_and_text_comes_out(ask: Ask, fake_server: FakeServer) -> None:
    assert ask(ChatServer) == Reply(fake_server.reply, finish_reason="stop")
    (body,) = fake_server.requests
    assert body == {
        "model": "tiny",
        "messages": [{"role": "user", "content": "go"}],
        "max_tokens": 100,
        "seed": 11,
        "temperature": 0.5,
        "top_p": 1.0,
    }


def test_an_opening_is_sent_as_the_beginning_of_the_reply(codec: ChatCodec, fake_server: FakeServer) -> None:
    async def main() -> Reply:
        settings: dict[str, Any] = {"model": None, "max_context_tokens": 64, "temperature": 0.5}
        async with ChatServer(fake_server.address, codec, **settings) as server:
            return await server.sample(dataclasses.replace(REQUEST, opening="<think>"))

    assert asyncio.run(main()) == Reply(fake_server.reply, finish_reason="stop")
    (body,) = fake_server.requests
    assert body["messages"] == [{"role": "user", "content": "go"}, {"role": "assistant", "content": "<think>"}]
    assert (body["add_generation_prompt"], body["continue_final_message"]) == (False, True)


def test_functions_are_shown_to_the_model_and_not_parsed(ask: Ask, fake_server: FakeServer) -> None:
    request = dataclasses.replace(REQUEST, tools=[ADD])
    assert ask(ChatServer, request=request) == Reply(fake_server.reply, finish_reason="stop")
    (body,) = fake_server.requests
    assert (body["tools"], body["tool_choice"]) == ([ADD], "none")


def test_calls_that_a_server_has_parsed_are_refused(ask: Ask, fake_server: FakeServer) -> None:
    """Their tokens are gone, and an empty reply would be played in their place."""
    call = {"id": "1", "type": "function", "function": {"name": "add", "arguments": "{}"}}
    parsed = {"content": None, "tool_calls": [call]}
    fake_server.change = lambda answer: answer["choices"][0].update(message=parsed)
    with pytest.raises(EvaluationError, match="took the function calls out of the text"):
        ask(ChatServer, request=dataclasses.replace(REQUEST, tools=[ADD]))


@pytest.mark.parametrize("name", ["frozen_lake", "counter"])
def test_an_episode_asks_with_the_functions_of_its_world(name: str) -> None:
    world: Any = SimpleNamespace(limits=SimpleNamespace(opening=""))
    if name == "counter":
        world = Mock(spec=ToolWorld, limits=world.limits, tools=lambda: [ADD])
    asked: list[ReplyRequest] = []

    class Sampler:
        async def sample(self, request: ReplyRequest) -> Reply:
            asked.append(request)
            return Reply([1], finish_reason="stop")

    episode: Any = SimpleNamespace(world=world, messages=[])
    asyncio.run(SeededPolicy(Sampler(), episode, 0).generate([5], max_new_tokens=9))
    assert list(asked[0].tools) == ([ADD] if name == "counter" else [])


def test_fields_of_a_request_are_the_users(ask: Ask, fake_server: FakeServer) -> None:
    ask(ChatServer, fields={"max_tokens": None, "max_completion_tokens": 50, "temperature": 1.0})
    (body,) = fake_server.requests
    assert (body["max_completion_tokens"], body["temperature"], "max_tokens" in body) == (50, 1.0, False)


@pytest.mark.parametrize(
    ("text", "reason", "end"),
    [
        ("hm", "length", 0),
        ("", "stop", 1),
        (None, "stop", 1),
        ("cafe\N{COMBINING ACUTE ACCENT} \N{SNOWMAN}", "stop", 1),
    ],
)
def test_texts_become_ids(
    ask: Ask, fake_server: FakeServer, codec: ChatCodec, text: str | None, reason: str, end: int
) -> None:
    """A reply is closed where the model closed it, and only there."""
    fake_server.text = text  # type: ignore[assignment]
    fake_server.change = lambda answer: answer["choices"][0].update(finish_reason=reason)
    reply = ask(ChatServer)
    assert reply.finish_reason == reason
    assert reply.token_ids[len(reply.token_ids) - end :] == [codec.end_of_turn_id] * end
    assert read_reply(codec, reply.token_ids).message == unicodedata.normalize("NFC", text or "")


def test_a_text_longer_than_asked_for_is_cut(ask: Ask, fake_server: FakeServer, codec: ChatCodec) -> None:
    fake_server.text = "1 2 3 " * 200
    reply = ask(ChatServer)
    assert (len(reply.token_ids), reply.finish_reason) == (100, "length")
    assert fake_server.text.startswith(read_reply(codec, reply.token_ids).message)


def test_a_tokenizer_that_cannot_write_a_text_is_refused(fake_server: FakeServer, codec: ChatCodec, ask: Ask) -> None:
    real = codec.text_ids
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(codec, "text_ids", lambda text: real(text.replace("Left", "?")))
        with pytest.raises(EvaluationError, match=r"tokenizer of model= cannot represent this reply .*Left"):
            ask(ChatServer)


@pytest.mark.parametrize("message", [None, {}, {"content": 5}])
def test_a_chat_without_a_text_is_refused(ask: Ask, fake_server: FakeServer, message: Any) -> None:
    fake_server.change = lambda answer: answer["choices"][0].update(message=message)
    with pytest.raises(EvaluationError, match="did not send text"):
        ask(ChatServer)


def test_the_key_is_the_environments(ask: Ask, fake_server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    ask()
    assert fake_server.keys == {"Bearer secret"}
    monkeypatch.delenv("OPENAI_API_KEY")
    ask()


@pytest.mark.parametrize("troubles", [[0], [429] * 3, [500] * 3, [503] * (ATTEMPTS - 1)])
def test_passing_trouble_is_tried_again(ask: Ask, fake_server: FakeServer, troubles: list[int]) -> None:
    fake_server.troubles = [*troubles]
    assert ask().token_ids == fake_server.reply
    assert fake_server.troubles == []


def test_lasting_trouble_ends_in_its_own_words(ask: Ask, fake_server: FakeServer) -> None:
    fake_server.troubles = [503] * (ATTEMPTS + 1)
    with pytest.raises(EvaluationError, match=r"/models answered with status 503: .*trouble"):
        ask()
    assert fake_server.troubles == [503]


def test_nobody_at_the_address(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actfocus_verl.evaluation.server.ATTEMPTS", 2)
    with pytest.raises(EvaluationError, match=r"http://127.0.0.1:9/v1/models was not reached in 2 .*ConnectError"):
        ask(address="http://127.0.0.1:9/v1")


def slow(fake_server: FakeServer, hold: threading.Event, times: int) -> list[str]:
    """Have it answer the first completions only when the event is set; returns those it was asked for."""
    asked: list[str] = []
    answer = fake_server.answer

    def late(path: str, body: dict[str, Any] | None) -> tuple[int, Any]:
        if body is not None:
            asked.append(path)
            if len(asked) <= times:
                assert hold.wait(GUARD)
        return answer(path, body)

    fake_server.answer = late  # type: ignore[method-assign]
    return asked


def test_a_server_that_is_slow_for_a_while_changes_no_reply(ask: Ask, fake_server: FakeServer) -> None:
    """The same request is sent again, with its seed."""
    hold, once = threading.Event(), ask()
    asked = slow(fake_server, hold, times=1)
    threading.Timer(0.4, hold.set).start()  # two of the client's timeouts
    assert ask(timeout=0.2) == once
    assert len(asked) >= 2


def test_a_server_that_stays_slow_is_told_from_one_that_is_away(
    ask: Ask, fake_server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actfocus_verl.evaluation.server.ATTEMPTS", 1)
    hold = threading.Event()
    slow(fake_server, hold, times=1)
    try:
        with pytest.raises(EvaluationError) as caught:
            ask(timeout=0.2)
    finally:
        hold.set()
    assert str(caught.value) == (
        f"{fake_server.address}/completions did not answer within timeout=0.2 seconds, 1 times. Raise timeout=, or ask "
        "for fewer replies at a time with a lower concurrency="
    )


def test_a_refusal_is_not_tried_again(ask: Ask, fake_server: FakeServer) -> None:
    fake_server.troubles = [401, 401]
    with pytest.raises(EvaluationError, match="/models answered with status 401"):
        ask()
    assert fake_server.troubles == [401]


@pytest.mark.parametrize("left_out", [True, False])
def test_a_server_without_token_ids_is_refused(ask: Ask, fake_server: FakeServer, left_out: bool) -> None:
    def forget(answer: dict[str, Any]) -> None:
        choice = answer["choices"][0]
        choice["token_ids"] = None
        if left_out:
            del choice["token_ids"], choice["prompt_token_ids"]

    fake_server.change = forget
    with pytest.raises(EvaluationError, match=r"returns no token ids: .* supports return_token_ids$"):
        ask()
    with pytest.raises(EvaluationError, match=r"supports return_token_ids, or another way$"):
        ask(or_else=", or another way")


def test_a_changed_prompt_is_refused(ask: Ask, fake_server: FakeServer) -> None:
    fake_server.change = lambda answer: answer["choices"][0].update(prompt_token_ids=[1, 5, 6, 7])
    with pytest.raises(EvaluationError, match="changed the prompt's token ids"):
        ask()


@pytest.mark.parametrize("kind", [CompletionServer, ChatServer])
@pytest.mark.parametrize(
    "answer", [{"choices": []}, {"object": "error"}, {"choices": [5]}, ["nothing"], "nothing", None]
)
def test_what_is_no_completion_is_refused(ask: Ask, fake_server: FakeServer, answer: Any, kind: Any) -> None:
    fake_server.answer = lambda path, _: (200, {"data": fake_server.models} if "models" in path else answer)  # type: ignore[method-assign]
    with pytest.raises(EvaluationError, match="did not send a completion"):
        ask(kind)


@pytest.mark.parametrize("answer", [b"no JSON", b"", {"data": "tiny"}, []])
def test_what_is_no_list_of_models_is_refused(ask: Ask, fake_server: FakeServer, answer: Any) -> None:
    fake_server.answer = lambda *_: (200, answer)  # type: ignore[method-assign]
    with pytest.raises(EvaluationError, match=r"did not send (JSON|a list of models)"):
        ask()


def test_the_model_is_chosen_by_name_where_there_are_several(ask: Ask, fake_server: FakeServer) -> None:
    fake_server.models = [{"id": "base"}, {"id": "tuned"}]
    ask(model="tuned")
    assert fake_server.requests[0]["model"] == "tuned"
    for name in (None, "other"):
        with pytest.raises(ConfigurationError, match=r"server_model=.* Use one of: base, tuned"):
            ask(model=name)


def test_a_server_with_too_short_a_context_is_refused(ask: Ask, fake_server: FakeServer) -> None:
    fake_server.models = [{"id": "tiny", "max_model_len": 63}]
    with pytest.raises(ConfigurationError, match="max_context_tokens=64: the server's context is shorter: 63"):
        ask()
