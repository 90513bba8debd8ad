"""A vLLM server over HTTP: OpenAI's completions with the prompt as token ids, and vLLM's `return_token_ids`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any

import httpx

from actfocus_verl.errors import ConfigurationError
from actfocus_verl.evaluation.sampling import EvaluationError
from actfocus_verl.rollout import Reply

ATTEMPTS = 6
"""Of one request, before the evaluation ends; between them 0.5, 1, 2, 4 and 8 seconds."""
_FIRST_PAUSE = 0.5
_CONNECT_SECONDS = 10.0
_TRY_AGAIN = {408, 429, 500, 502, 503, 504}
_SHOWN_CHARACTERS = 300


class CompletionServer:
    """A `Sampler` on a server; an asynchronous context manager.

    address: with its path, `http://host:port/v1`. model: by the server's name for it; None: the only one it serves.
    timeout: seconds one reply may take. pause: waits between attempts, replaced by tests.
    Entering it asks the server for its models, and raises ConfigurationError when they do not fit the request.
    """

    def __init__(
        self,
        address: str,
        *,
        model: str | None,
        max_context_tokens: int,
        temperature: float,
        end_of_turn_id: int,
        timeout: float = 600.0,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.address = address.rstrip("/")
        self.model = model
        self._max_context = max_context_tokens
        self._pause = pause
        # a server takes what is left out from the model's generation_config: everything is said
        self._fixed = {
            "temperature": temperature,
            "top_p": 1.0,
            "top_k": 0,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "stop_token_ids": [end_of_turn_id],
            "return_token_ids": True,
        }
        self._client = httpx.AsyncClient(
            timeout=httpx.Timeout(timeout, connect=_CONNECT_SECONDS, pool=None),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=None),
        )

    async def __aenter__(self) -> CompletionServer:
        try:
            self._choose_model(await self._request("GET", "models"))
        except BaseException:
            await self._client.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def sample(self, prompt_ids: list[int], *, max_new_tokens: int, seed: int) -> Reply:
        """See `Sampler`. Raises EvaluationError when the server does not answer, or not as it should."""
        body = {"model": self.model, "prompt": prompt_ids, "max_tokens": max_new_tokens, "seed": seed, **self._fixed}
        answer = await self._request("POST", "completions", body)
        try:
            (choice,) = answer["choices"]
            token_ids, reason = choice.get("token_ids"), choice["finish_reason"]
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise EvaluationError(f"{self.address} sent no completion: {_shown(str(answer))}") from error
        if token_ids is None:
            raise EvaluationError(
                f"{self.address} returns no token ids: its text would have to be encoded again, which may give other "
                "tokens. Use a vLLM server that knows return_token_ids"
            )
        if choice.get("prompt_token_ids") not in (None, prompt_ids):
            raise EvaluationError(
                f"{self.address} changed the prompt's token ids. Use a server that takes them as they are"
            )
        return Reply([int(token) for token in token_ids], finish_reason=str(reason))

    async def _request(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        problem = ""
        for attempt in range(ATTEMPTS):
            if attempt:
                await self._pause(_FIRST_PAUSE * 2 ** (attempt - 1))
            try:
                response = await self._client.request(method, f"{self.address}/{path}", json=body)
            except httpx.TransportError as error:
                problem = f"{type(error).__name__}: {error}".rstrip(": ")
                continue
            if response.status_code not in _TRY_AGAIN:
                return self._content(response)
            problem = f"status {response.status_code}: {_shown(response.text)}"
        raise EvaluationError(f"{self.address}/{path} failed {ATTEMPTS} times, the last time with {problem}")

    def _content(self, response: httpx.Response) -> Any:
        if response.status_code != httpx.codes.OK:
            raise EvaluationError(f"{response.url} refused with status {response.status_code}: {_shown(response.text)}")
        try:
            return response.json()
        except ValueError as error:
            raise EvaluationError(f"{response.url} sent no JSON: {_shown(response.text)}") from error

    def _choose_model(self, answer: Any) -> None:
        try:
            limits = {str(card["id"]): card.get("max_model_len") for card in answer["data"]}
        except (AttributeError, KeyError, TypeError) as error:
            raise EvaluationError(f"{self.address}/models sent no list of models: {_shown(str(answer))}") from error
        if self.model is None and len(limits) == 1:
            self.model = next(iter(limits))
        if self.model not in limits:
            problem = "is not served" if self.model else "the server has not exactly one model"
            raise ConfigurationError("server_model", self.model, problem, f"Use one of: {', '.join(limits)}")
        longest = limits[self.model]
        if longest is not None and longest < self._max_context:
            problem = f"the server's context is shorter: {longest}"
            raise ConfigurationError("max_context_tokens", self._max_context, problem, f"Set it to {longest} at most")


def _shown(text: str) -> str:
    return " ".join(text.split())[:_SHOWN_CHARACTERS]
