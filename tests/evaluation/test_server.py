"""The client of a vLLM server: what it sends, what it tries again, and what it refuses to take."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from actfocus_verl.errors import ConfigurationError
from actfocus_verl.evaluation.sampling import EvaluationError
from actfocus_verl.evaluation.server import ATTEMPTS, CompletionServer
from actfocus_verl.rollout import Reply
from tests.evaluation.conftest import FakeServer

PROMPT = [5, 6, 7]


def ask(fake: FakeServer, pauses: list[float] | None = None, **changes: Any) -> Reply:
    """One reply to PROMPT, asked for with seed 11 and room for 100 tokens."""

    async def pause(seconds: float) -> None:
        (pauses if pauses is not None else []).append(seconds)

    settings: dict[str, Any] = {"model": None, "max_context_tokens": 64, "temperature": 0.5, "end_of_turn_id": 2}

    async def main() -> Reply:
        async with CompletionServer(fake.address, pause=pause, **{**settings, **changes}) as server:
            return await server.sample(PROMPT, max_new_tokens=100, seed=11)

    return asyncio.run(main())


def test_ids_go_in_and_sampled_ids_come_out(fake_server: FakeServer) -> None:
    assert ask(fake_server) == Reply(fake_server.reply, finish_reason="stop")
    (body,) = fake_server.requests
    assert body == {
        "model": "tiny",
        "prompt": PROMPT,
        "max_tokens": 100,
        "seed": 11,
        "temperature": 0.5,
        "stop_token_ids": [2],
        "return_token_ids": True,
        # all neutral, or the server would take them from the model's generation_config
        "top_p": 1.0,
        "top_k": 0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
    }


@pytest.mark.parametrize("trouble", [0, 429, 500, 503])
def test_passing_trouble_is_tried_again_with_longer_pauses(fake_server: FakeServer, trouble: int) -> None:
    fake_server.troubles = [trouble] * 3
    pauses: list[float] = []
    assert ask(fake_server, pauses).token_ids == fake_server.reply
    assert pauses == [0.5, 1.0, 2.0]


def test_lasting_trouble_ends_in_its_own_words(fake_server: FakeServer) -> None:
    fake_server.troubles = [503] * ATTEMPTS
    with pytest.raises(EvaluationError, match=rf"failed {ATTEMPTS} times, the last time with status 503: .*trouble"):
        ask(fake_server)


def test_nobody_at_the_address() -> None:
    with pytest.raises(EvaluationError, match=r"http://127.0.0.1:9/v1/models failed 6 times.*ConnectError"):
        ask(FakeServer([], address="http://127.0.0.1:9/v1"))


def test_a_refusal_is_not_tried_again(fake_server: FakeServer) -> None:
    fake_server.address = fake_server.address.replace("/v1", "")
    pauses: list[float] = []
    with pytest.raises(EvaluationError, match="/models refused with status 404"):
        ask(fake_server, pauses)
    assert pauses == []


@pytest.mark.parametrize("left_out", [True, False])
def test_a_server_without_token_ids_is_refused(fake_server: FakeServer, left_out: bool) -> None:
    def forget(answer: dict[str, Any]) -> None:
        choice = answer["choices"][0]
        choice["token_ids"] = None
        if left_out:
            del choice["token_ids"], choice["prompt_token_ids"]

    fake_server.change = forget
    with pytest.raises(EvaluationError, match=r"returns no token ids: .* server that knows return_token_ids"):
        ask(fake_server)


def test_a_changed_prompt_is_refused(fake_server: FakeServer) -> None:
    fake_server.change = lambda answer: answer["choices"][0].update(prompt_token_ids=[1, *PROMPT])
    with pytest.raises(EvaluationError, match="changed the prompt's token ids"):
        ask(fake_server)


@pytest.mark.parametrize("answer", [{"choices": []}, {"object": "error"}, ["nothing"]])
def test_what_is_no_completion_is_refused(fake_server: FakeServer, answer: Any) -> None:
    fake_server.answer = lambda path, _: (200, {"data": fake_server.models} if "models" in path else answer)  # type: ignore[method-assign]
    with pytest.raises(EvaluationError, match="sent no completion"):
        ask(fake_server)


def test_the_model_is_chosen_by_name_where_there_are_several(fake_server: FakeServer) -> None:
    fake_server.models = [{"id": "base"}, {"id": "tuned"}]
    ask(fake_server, model="tuned")
    assert fake_server.requests[0]["model"] == "tuned"
    for name in (None, "other"):
        with pytest.raises(ConfigurationError, match=r"server_model=.* Use one of: base, tuned"):
            ask(fake_server, model=name)


def test_a_server_with_too_short_a_context_is_refused(fake_server: FakeServer) -> None:
    fake_server.models = [{"id": "tiny", "max_model_len": 63}]
    with pytest.raises(ConfigurationError, match="max_context_tokens=64: the server's context is shorter: 63"):
        ask(fake_server)
