"""A request of OpenAI's chat completions, checked: what is not done as OpenAI does it is refused in one line.

Fields that only concern OpenAI's servers (`user`, `store`, ...) are accepted and have no effect.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

Json = dict[str, Any]

INVALID: Final = "invalid_request_error"


class ApiError(Exception):
    """An error in OpenAI's format. status: of HTTP. param: the request's field. code: for programs."""

    def __init__(
        self, message: str, *, status: int = 400, param: str | None = None, code: str | None = None, kind: str = INVALID
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body: Json = {"error": {"message": message, "type": kind, "param": param, "code": code}}


@dataclass(frozen=True)
class Sampling:
    """How the trainer samples, and whether a request that asks for something else is refused.

    temperature, top_p, top_k (-1: all): the trainer's. strict: refuse differing values; otherwise they are ignored.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = -1
    strict: bool = False

    def neutral(self) -> Json:
        """The values that a request may name, by field."""
        return {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
            "min_p": 0.0,
            "frequency_penalty": 0.0,
            "presence_penalty": 0.0,
            "repetition_penalty": 1.0,
            "seed": None,
        }


@dataclass(frozen=True)
class ChatRequest:
    """What is asked for. messages: as a chat template takes them, contents as text and arguments as objects."""

    messages: list[Json]
    tools: list[Json] = field(default_factory=list)
    parses_calls: bool = True
    """Whether calls in the reply are taken out of its text: not with `tool_choice=none`."""
    one_call: bool = False
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    stream: bool = False
    with_usage: bool = False
    logprobs: bool = False
    model: str = ""


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class _Function(_Strict):
    name: str
    arguments: str = "{}"


class _Call(_Strict):
    id: str | None = None
    type: Literal["function"] = "function"
    function: _Function
    index: int | None = None


class _Text(_Strict):
    model_config = ConfigDict(extra="ignore")  # cache_control and the like
    type: Literal["text"]
    text: str


_Content = str | list[_Text] | None


class _Message(_Strict):
    model_config = ConfigDict(extra="ignore")  # what clients echo of a reply: annotations, audio, refusal
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: _Content = None
    name: str | None = None
    tool_calls: list[_Call] | None = None
    tool_call_id: str | None = None


class _ToolFunction(_Strict):
    name: Annotated[str, Field(min_length=1)]
    description: str | None = None
    parameters: Json | None = None
    strict: bool | None = None


class _Tool(_Strict):
    type: Literal["function"]
    function: _ToolFunction


class _Named(_Strict):
    name: str


class _Chosen(_Strict):
    type: Literal["function"]
    function: _Named


class _StreamOptions(_Strict):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


def _finite(value: object) -> object:
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        raise ValueError("must be a finite number")
    return value


_Number = Annotated[float | None, BeforeValidator(_finite)]
_Count = Annotated[int, Field(ge=1)]


class _Body(_Strict):
    messages: Annotated[list[_Message], Field(min_length=1)]
    model: str = ""
    tools: list[_Tool] | None = None
    tool_choice: Literal["auto", "none", "required"] | _Chosen | None = None
    parallel_tool_calls: bool | None = None
    max_tokens: _Count | None = None
    max_completion_tokens: _Count | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    n: int | None = None
    temperature: _Number = None
    top_p: _Number = None
    top_k: int | None = None
    min_p: _Number = None
    frequency_penalty: _Number = None
    presence_penalty: _Number = None
    repetition_penalty: _Number = None
    seed: int | None = None
    response_format: Json | None = None
    logit_bias: Json | None = None
    modalities: list[str] | None = None
    # without effect here
    user: Any = None
    metadata: Any = None
    store: Any = None
    service_tier: Any = None
    safety_identifier: Any = None
    prompt_cache_key: Any = None
    prompt_cache_retention: Any = None
    reasoning_effort: Any = None
    verbosity: Any = None


def parse_chat(body: object, sampling: Sampling) -> ChatRequest:
    """The request of a JSON body. Raises ApiError, naming the field."""
    given = _validated(body)
    _refuse_unserved(given)
    _check_sampling(given, sampling)
    tools = [tool.model_dump(exclude_none=True) for tool in given.tools or []]
    stop = [given.stop] if isinstance(given.stop, str) else given.stop or []
    if not all(stop):
        raise ApiError("stop must not be an empty string", param="stop")
    limits = [limit for limit in (given.max_tokens, given.max_completion_tokens) if limit is not None]
    messages = [_message(message, f"messages.{position}") for position, message in enumerate(given.messages)]
    if messages[-1]["role"] == "assistant":
        raise ApiError("the last message must not be the assistant's: a reply cannot be continued", param="messages")
    return ChatRequest(
        messages=messages,
        tools=tools,
        parses_calls=bool(tools) and given.tool_choice != "none",
        one_call=given.parallel_tool_calls is False,
        max_tokens=min(limits, default=None),
        stop=tuple(stop),
        stream=bool(given.stream),
        with_usage=bool(given.stream_options and given.stream_options.include_usage),
        logprobs=bool(given.logprobs),
        model=given.model,
    )


def _validated(body: object) -> _Body:
    if not isinstance(body, dict):
        raise ApiError("the body must be a JSON object")
    try:
        return _Body.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise ApiError(f"{place} is not supported here", param=place, code="unknown_parameter") from None
        raise ApiError(f"{place}: {first['msg']}", param=place) from None


def _refuse_unserved(given: _Body) -> None:
    """What would have to be sampled otherwise than the trainer does, or several times."""
    reasons = {
        "n": (given.n not in (None, 1), "n must be 1: send several requests instead"),
        "top_logprobs": (bool(given.top_logprobs), "top_logprobs must be 0: only sampled tokens have a log-prob here"),
        "logit_bias": (bool(given.logit_bias), "logit_bias is not supported: it would train on a biased policy"),
        "response_format": (
            given.response_format is not None and given.response_format.get("type") != "text",
            "response_format must be text: constrained sampling would train on tokens that the policy did not choose",
        ),
        "modalities": (given.modalities not in (None, ["text"]), 'modalities must be ["text"]'),
    }
    for name, (wrong, message) in reasons.items():
        if wrong:
            raise ApiError(message, param=name, code="unsupported_value")


def _check_sampling(given: _Body, sampling: Sampling) -> None:
    if not sampling.strict:
        return
    for name, own in sampling.neutral().items():
        value = getattr(given, name)
        if value is not None and value != own:
            raise ApiError(
                f"{name}={value} differs from the trainer's {own}; leave it out, or set agent.sampling=trainer",
                param=name,
                code="unsupported_value",
            )
    if given.tool_choice not in (None, "auto", "none"):
        raise ApiError(
            "tool_choice must be auto or none: the policy is not forced to call; or set agent.sampling=trainer",
            param="tool_choice",
            code="unsupported_value",
        )


def _message(given: _Message, place: str) -> Json:
    content = given.content
    if isinstance(content, list):
        content = "".join(part.text for part in content)
    message: Json = {"role": "system" if given.role == "developer" else given.role, "content": content or ""}
    if given.name is not None:
        message["name"] = given.name
    if given.role == "tool":
        if given.tool_call_id is None:
            raise ApiError(f"{place}: a tool's message needs tool_call_id", param=place)
        message["tool_call_id"] = given.tool_call_id
    if given.role == "assistant" and given.tool_calls:
        message["tool_calls"] = [_call(call) for call in given.tool_calls]
    if content is None and not (given.role == "assistant" and given.tool_calls):
        raise ApiError(f"{place}: content is missing", param=place)
    return message


def _call(call: _Call) -> Json:
    """Templates write arguments as JSON themselves, so that they must be an object here wherever they are one."""
    arguments: Any = call.function.arguments
    parsed = parsed_json(arguments)
    if isinstance(parsed, Mapping):
        arguments = parsed
    function = {"name": call.function.name, "arguments": arguments}
    return {"id": call.id or "", "type": "function", "function": function}


def parsed_json(text: str) -> Any:
    """The value of a JSON text; None where it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
