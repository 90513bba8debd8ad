"""An HTTP server with OpenAI's API, used in one of two ways.

- `CompletionServer`: token ids in, sampled ids out. Exact, but only vLLM returns ids (`return_token_ids`).
- `ChatServer`: messages in, text out, which every such server can. The server's own chat template holds, and the text
  is encoded here, so that ids, their roles and their counts are those of the tokenizer at hand.
"""

from __future__ import annotations

import os
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Mapping
from types import TracebackType
from typing import Any

import httpx
import openai

from actfocus_verl.errors import ConfigurationError
from actfocus_verl.evaluation.sampling import EvaluationError, ReplyRequest
from actfocus_verl.rollout import ChatCodec, Reply

ATTEMPTS = 6
"""Attempts per request before the evaluation ends; pauses grow, or follow the server's Retry-After."""
_CONNECT_SECONDS = 10.0
_SHOWN_CHARACTERS = 300
_NO_KEY = "none"
"""The client requires a key; a private server rarely does."""


class _Server(ABC):
    """What both ways share: the connection, the choice of a model, and errors. An asynchronous context manager.

    address: with its path, `http://host:port/v1`. The key is that of the environment's OPENAI_API_KEY.
    codec: of the policy's tokenizer. model: by the server's name for it; None: the only one it serves.
    timeout: seconds one reply may take. fields: of a request's body, replacing ours or added; None removes one.
    Entering it asks the server for its models, and raises ConfigurationError when they do not fit the request.
    """

    def __init__(
        self,
        address: str,
        codec: ChatCodec,
        *,
        model: str | None,
        max_context_tokens: int,
        temperature: float,
        timeout: float = 600.0,
        fields: Mapping[str, object] | None = None,
    ) -> None:
        self.address = address.rstrip("/")
        self.model = model
        self._codec = codec
        self._max_context = max_context_tokens
        self._temperature = temperature
        self._fields = dict(fields or {})
        self._timeout = timeout
        self._client = openai.AsyncOpenAI(
            base_url=self.address,
            api_key=os.environ.get("OPENAI_API_KEY") or _NO_KEY,
            timeout=openai.Timeout(timeout, connect=_CONNECT_SECONDS, pool=None),
            max_retries=ATTEMPTS - 1,
        )

    async def __aenter__(self) -> _Server:
        try:
            self._choose_model(await self._answer(self._client.get("/models", cast_to=object)))
        except BaseException:
            await self._client.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        await self._client.close()

    @abstractmethod
    async def sample(self, request: ReplyRequest) -> Reply:
        """See `Sampler`. Raises EvaluationError when the server does not answer, or answers incorrectly."""

    async def _choice(self, path: str, request: ReplyRequest, body: Mapping[str, object]) -> dict[str, Any]:
        """The single choice in the answer to `body`, completed by the fields of every request."""
        common = {
            "model": self.model,
            "max_tokens": request.max_new_tokens,
            "seed": request.seed,
            "temperature": self._temperature,
            "top_p": 1.0,
        }
        fields = {key: value for key, value in {**common, **body, **self._fields}.items() if value is not None}
        # as plain JSON: the client's own types know neither vLLM's fields nor which of ours to leave out
        answer = await self._answer(self._client.post(path, cast_to=object, body=fields))
        try:
            (choice,) = answer["choices"]
            return {**choice, "finish_reason": str(choice["finish_reason"])}
        except (KeyError, TypeError, ValueError) as error:
            raise EvaluationError(f"{self.address} did not send a completion: {_shown(answer)}") from error

    async def _answer(self, request: Awaitable[object]) -> Any:
        try:
            return await request
        except openai.APIStatusError as error:
            shown = _shown(error.response.text)
            raise EvaluationError(f"{error.request.url} answered with status {error.status_code}: {shown}") from error
        except openai.APIConnectionError as error:
            cause = error.__cause__ or error
            if isinstance(error, openai.APITimeoutError) and not isinstance(cause, httpx.ConnectTimeout):
                raise EvaluationError(
                    f"{error.request.url} did not answer within timeout={self._timeout:g} seconds, {ATTEMPTS} times. "
                    "Raise timeout=, or ask for fewer replies at a time with a lower concurrency="
                ) from error
            problem = f"{type(cause).__name__}: {cause}".rstrip(": ")
            raise EvaluationError(f"{error.request.url} was not reached in {ATTEMPTS} attempts ({problem})") from error
        except ValueError as error:
            raise EvaluationError(f"{self.address} did not send JSON ({error})") from error

    def _choose_model(self, answer: Any) -> None:
        try:
            limits = {str(card["id"]): card.get("max_model_len") for card in answer["data"]}
        except (AttributeError, KeyError, TypeError) as error:
            raise EvaluationError(f"{self.address}/models did not send a list of models: {_shown(answer)}") from error
        if self.model is None and len(limits) == 1:
            self.model = next(iter(limits))
        if self.model not in limits:
            problem = "is not served" if self.model else "the server has several models or none"
            raise ConfigurationError("server_model", self.model, problem, f"Use one of: {_shown(', '.join(limits))}")
        longest = limits[self.model]
        if longest is not None and longest < self._max_context:
            problem = f"the server's context is shorter: {longest}"
            raise ConfigurationError("max_context_tokens", self._max_context, problem, f"Set it to at most {longest}")


class CompletionServer(_Server):
    """A `Sampler` on a vLLM server: completions with the prompt as token ids, and `return_token_ids`.

    or_else: what a command can do without token ids, for the error; empty: nothing.
    """

    def __init__(self, *words: Any, or_else: str = "", **settings: Any) -> None:
        super().__init__(*words, **settings)
        self._or_else = or_else

    async def sample(self, request: ReplyRequest) -> Reply:
        """See `Sampler`. Raises EvaluationError also for an answer without ids, or for another prompt."""
        # a server takes what is left out from the model's generation_config: everything is said
        neutral = {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
        ids = {"prompt": request.prompt_ids, "stop_token_ids": [self._codec.end_of_turn_id], "return_token_ids": True}
        choice = await self._choice("/completions", request, {**neutral, **ids})
        token_ids = choice.get("token_ids")
        if token_ids is None:
            raise EvaluationError(
                f"{self.address} returns no token ids: its text would have to be re-encoded, which may give other "
                f"tokens. Use a vLLM server that supports return_token_ids{self._or_else}"
            )
        if choice.get("prompt_token_ids") not in (None, request.prompt_ids):
            raise EvaluationError(
                f"{self.address} changed the prompt's token ids. Use a server that takes them as they are"
            )
        return Reply([int(token) for token in token_ids], finish_reason=choice["finish_reason"])


class ChatServer(_Server):
    """A `Sampler` on any server with chat completions. Fields missing in a request take the server's values.

    An opening is sent as the beginning of the reply, in the way that vLLM and SGLang know: an assistant's message last,
    and `continue_final_message`. Functions are sent as `tools` with `tool_choice: none`: vLLM and SGLang then show them
    to the model and leave its calls in the text, where they are read in the model's own format.
    """

    async def sample(self, request: ReplyRequest) -> Reply:
        """See `Sampler`. Raises EvaluationError also for a text that the local tokenizer cannot represent.

        A reply that has more tokens here than requested, although the server counted fewer, is truncated.
        """
        body: dict[str, object] = {"messages": request.messages}
        if request.opening:
            begun = {"role": "assistant", "content": request.opening}
            going_on = {"add_generation_prompt": False, "continue_final_message": True}
            body = {"messages": [*request.messages, begun], **going_on}
        if request.tools:
            body |= {"tools": list(request.tools), "tool_choice": "none"}
        choice = await self._choice("/chat/completions", request, body)
        text = self._text(choice)
        token_ids = self._codec.text_ids(text)
        self._require_same_text(text, self._codec.offsets(token_ids)[0])
        reason = choice["finish_reason"]
        if reason == "stop":
            token_ids = [*token_ids, self._codec.end_of_turn_id]
        if len(token_ids) > request.max_new_tokens:
            token_ids, reason = token_ids[: request.max_new_tokens], "length"
        return Reply(token_ids, finish_reason=reason)

    def _text(self, choice: Mapping[str, Any]) -> str:
        match choice.get("message"):
            case {"tool_calls": [_, *_]}:
                raise EvaluationError(
                    f"{self.address} took the function calls out of the text, whose tokens they are part of: "
                    f"{_shown(choice)}. Start it without a tool call parser"
                )
            case {"content": str(text)}:
                return text
            case {"content": None}:  # nothing was said but reasoning that the server hides
                return ""
        raise EvaluationError(f"{self.address} did not send text: {_shown(choice)}")

    def _require_same_text(self, text: str, encoded: str) -> None:
        """Compared in NFC, to which Qwen's tokenizers normalise."""
        if unicodedata.normalize("NFC", text) != unicodedata.normalize("NFC", encoded):
            raise EvaluationError(
                f"the tokenizer of model= cannot represent this reply of {self.address}: {_shown(text)}. "
                "Name the served model, or one whose tokenizer covers every byte"
            )


def _shown(answer: object) -> str:
    """Its beginning, on one line."""
    return " ".join(str(answer).split())[:_SHOWN_CHARACTERS]
