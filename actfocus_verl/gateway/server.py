"""The HTTP server: OpenAI's API on loopback, one address per session.

    /sessions/{key}/v1/chat/completions, /v1/responses, /v1/models, and /sessions/{key}/reward_info

The scheme is that of uni-agent's gateway, so a runner written for one works with the other. The key in the address is
what admits a client; the API key that clients insist on is not read.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

from aiohttp import web

from actfocus_verl.checks import finite_number
from actfocus_verl.files import json_text
from actfocus_verl.gateway import answers, responses
from actfocus_verl.gateway.agents import Endpoint
from actfocus_verl.gateway.requests import ApiError, Json, parse_chat
from actfocus_verl.gateway.session import Completion, Session

MAX_BODY: Final = 32 * 2**20
_LOGGER: Final = logging.getLogger(__name__)
_HOST: Final = "127.0.0.1"
_SURROGATE: Final = rb"\ud"


class Gateway:
    """Serves the sessions that are open. It lives in one event loop: `start` and `stop` there."""

    def __init__(self) -> None:
        self._sessions: dict[str, Session] = {}
        self._runner: web.AppRunner | None = None
        self._address = ""

    async def start(self) -> None:
        """Listen on a free port of the loopback interface."""
        application = web.Application(client_max_size=MAX_BODY, middlewares=[_in_openai_format])
        application.add_routes(
            [
                web.post("/sessions/{key}/v1/chat/completions", self._chat),
                web.post("/sessions/{key}/v1/responses", self._responses),
                web.get("/sessions/{key}/v1/models", self._models),
                web.get("/sessions/{key}/v1/models/{model:.+}", self._models),
                web.post("/sessions/{key}/reward_info", self._reward),
            ]
        )
        # a client that hangs up cancels its handler, and the reply is not sampled on
        self._runner = web.AppRunner(application, access_log=None, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, _HOST, 0, backlog=1024)
        await site.start()
        port = self._runner.addresses[0][1]
        self._address = f"http://{_HOST}:{port}"

    async def stop(self) -> None:
        """Close every session and the server."""
        for session in self._sessions.values():
            session.close()
        if self._runner is not None:
            await self._runner.cleanup()

    @contextmanager
    def serving(self, session: Session) -> Iterator[Endpoint]:
        """Serve a session while the block runs; afterwards it is closed, whoever still has its address."""
        self._sessions[session.key] = session
        try:
            yield Endpoint(f"{self._address}/sessions/{session.key}/v1", session.key, session.model)
        finally:
            session.close()
            del self._sessions[session.key]

    def _session(self, request: web.Request) -> Session:
        session = self._sessions.get(request.match_info["key"])
        if session is None:
            raise ApiError("there is no such session, or it is over", status=404, code="session_not_found")
        return session

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        session = self._session(request)
        chat = parse_chat(await _body(request), session.sampling)
        completion = await session.turn(chat)
        with _delivered(session, completion):
            if chat.stream:
                return await _send_events(request, answers.chunks(completion, with_usage=chat.with_usage))
            return await _send(request, answers.completion(completion))

    async def _responses(self, request: web.Request) -> web.StreamResponse:
        session = self._session(request)
        chat, asked = responses.parse_responses(await _body(request), session.sampling)
        completion = await session.turn(chat)
        with _delivered(session, completion):
            if chat.stream:
                return await _send_events(request, responses.events(completion, asked))
            return await _send(request, responses.response(completion, asked))

    async def _models(self, request: web.Request) -> web.StreamResponse:
        session = self._session(request)
        model = request.match_info.get("model")
        card = {"id": model or session.model, "object": "model", "created": 0, "owned_by": "actfocus_verl"}
        return web.json_response(card if model else {"object": "list", "data": [card]})

    async def _reward(self, request: web.Request) -> web.StreamResponse:
        """{"reward_info": {"score": 1.0}}, the ecosystem's, or {"reward": 1.0}."""
        session = self._session(request)
        body = await _body(request)
        given: Any = body.get("reward") if isinstance(body, dict) else None
        if isinstance(body, dict) and isinstance(body.get("reward_info"), dict):
            given = next((body["reward_info"][key] for key in ("score", "reward") if key in body["reward_info"]), given)
        reward = finite_number(given)
        if reward is None:
            raise ApiError('the reward must be a finite number: {"reward_info": {"score": 1.0}}', param="reward_info")
        session.reward = reward
        return web.json_response({"status": "ok"})


@contextmanager
def _delivered(session: Session, completion: Completion) -> Iterator[None]:
    """Take a reply back whose client hung up before it had it."""
    try:
        yield
        session.delivered(completion)
    except BaseException:
        session.take_back(completion)
        raise


async def _body(request: web.Request) -> object:
    try:
        raw = await request.read()
        body = json.loads(raw.decode("utf-8"))
        if _SURROGATE in raw.lower():  # a lone one, written as an escape, has no encoding
            json_text(body, ensure_ascii=False).encode()
    except web.HTTPRequestEntityTooLarge:
        raise ApiError(f"the body has more than {MAX_BODY} bytes", status=413) from None
    except (ValueError, RecursionError) as error:
        raise ApiError(f"the body is not JSON in UTF-8 ({type(error).__name__})") from None
    return body


async def _send(request: web.Request, body: Json) -> web.StreamResponse:
    """Written here and not by the caller, so that a client that is gone is noticed."""
    response = web.json_response(body)
    await response.prepare(request)
    await response.write_eof()
    return response


async def _send_events(request: web.Request, events: Iterator[tuple[str | None, Json | str]]) -> web.StreamResponse:
    """Server-sent events: (name or None, data)."""
    headers = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache"}
    response = web.StreamResponse(headers=headers)
    await response.prepare(request)
    for name, data in events:
        text = data if isinstance(data, str) else json_text(data)
        await response.write(f"{f'event: {name}' + chr(10) if name else ''}data: {text}\n\n".encode())
    await response.write_eof()
    return response


@web.middleware
async def _in_openai_format(request: web.Request, handler: Any) -> web.StreamResponse:
    """Every error as OpenAI's clients expect it; one that is ours does not end the server."""
    try:
        response: web.StreamResponse = await handler(request)
        return response
    except ApiError as error:
        return web.json_response(error.body, status=error.status)
    except web.HTTPException as error:
        served = "chat/completions, responses and models are"
        problem = ApiError(f"{request.method} {request.path.rpartition('/v1/')[2]} is not served; {served}")
        return web.json_response(problem.body, status=error.status)
    except (asyncio.CancelledError, ConnectionError):
        raise
    except Exception as error:
        _LOGGER.warning("a request failed", exc_info=error)
        problem = ApiError(f"{type(error).__name__}: {error}", status=500, kind="server_error")
        with suppress(ConnectionError):
            return web.json_response(problem.body, status=500)
        raise
