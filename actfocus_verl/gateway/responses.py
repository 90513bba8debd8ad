"""OpenAI's Responses API in terms of chat completions: what the OpenAI Agents SDK speaks unless told otherwise.

Stateless: a client sends the whole history as input items. What would need a store of responses is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from actfocus_verl.gateway.requests import ApiError, ChatRequest, Sampling, parse_chat
from actfocus_verl.gateway.session import Completion

Json = dict[str, Any]

_SAME: Final = ("model", "temperature", "top_p", "stream", "parallel_tool_calls", "user", "metadata", "store")
"""Fields that mean the same in both APIs."""
_IGNORED: Final = (
    "include",
    "reasoning",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "truncation",
    "stream_options",
    "max_tool_calls",
)
_KNOWN: Final = (
    *_SAME,
    *_IGNORED,
    *("input", "instructions", "tools", "tool_choice", "max_output_tokens", "text", "top_logprobs"),
)


def parse_responses(body: object, sampling: Sampling) -> tuple[ChatRequest, Json]:
    """The request of a JSON body, and the body. Raises ApiError, naming the field."""
    if not isinstance(body, dict):
        raise ApiError("the body must be a JSON object")
    for key, value in body.items():
        if key not in _KNOWN and value is not None and value is not False:
            stateful = key in ("previous_response_id", "conversation", "background", "prompt")
            why = "is not supported: nothing is stored, send the whole history" if stateful else "is not supported here"
            raise ApiError(f"{key} {why}", param=key, code="unknown_parameter")
    if body.get("top_logprobs"):
        raise ApiError("top_logprobs must be 0", param="top_logprobs", code="unsupported_value")
    chat: Json = {key: body[key] for key in _SAME if body.get(key) is not None}
    chat["messages"] = _messages(body)
    if body.get("tools"):
        chat["tools"] = [_tool(tool) for tool in _list(body["tools"], "tools")]
    chat["tool_choice"] = _tool_choice(body.get("tool_choice"))
    chat["max_completion_tokens"] = body.get("max_output_tokens")
    text = body.get("text")
    form = text.get("format") if isinstance(text, dict) else None
    if form is not None:
        chat["response_format"] = form
    return parse_chat(chat, sampling), body


def _list(value: object, param: str) -> list[Json]:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise ApiError(f"{param} must be a list of objects", param=param)
    return value


def _tool(tool: Json) -> Json:
    if tool.get("type") != "function":
        raise ApiError(f"tools of type {tool.get('type')!r} run on OpenAI's servers; only function is supported here")
    return {"type": "function", "function": {key: value for key, value in tool.items() if key in _FUNCTION}}


_FUNCTION: Final = ("name", "description", "parameters", "strict")


def _tool_choice(choice: object) -> object:
    if isinstance(choice, dict) and choice.get("type") == "function":
        return {"type": "function", "function": {"name": choice.get("name")}}
    return choice


def _messages(body: Json) -> list[Json]:
    """Input items as messages: a reply is one message, with its text and its calls."""
    messages: list[Json] = []
    if body.get("instructions"):
        messages.append({"role": "system", "content": body["instructions"]})
    given = body.get("input")
    if isinstance(given, str):
        return [*messages, {"role": "user", "content": given}]
    for position, item in enumerate(_list(given, "input")):
        kind = item.get("type", "message")
        if kind == "message":
            messages.append({"role": item.get("role"), "content": _text(item.get("content"), f"input.{position}")})
        elif kind == "function_call":
            call = {"name": item.get("name"), "arguments": item.get("arguments")}
            entry = {"id": item.get("call_id"), "type": "function", "function": call}
            last = messages[-1] if messages and messages[-1]["role"] == "assistant" else None
            if last is None:
                last = {"role": "assistant", "content": None}
                messages.append(last)
            last.setdefault("tool_calls", []).append(entry)
        elif kind == "function_call_output":
            content = _text(item.get("output"), f"input.{position}")
            messages.append({"role": "tool", "tool_call_id": item.get("call_id"), "content": content})
        elif kind != "reasoning":
            raise ApiError(f"input.{position}: items of type {kind!r} are not supported here", param="input")
    return messages


def _text(content: object, place: str) -> object:
    if not isinstance(content, list):
        return content
    parts = _list(content, place)
    for part in parts:
        if part.get("type") not in ("input_text", "output_text", "text"):
            raise ApiError(f"{place}: content of type {part.get('type')!r} is not supported here", param="input")
    return [{"type": "text", "text": part.get("text")} for part in parts]


def response(reply: Completion, asked: Json, *, status: str | None = None) -> Json:
    """The answer to a request that does not stream. asked: the request's body."""
    cut = reply.finish_reason == "length"
    used = {
        "input_tokens": reply.prompt_tokens,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": reply.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": reply.prompt_tokens + reply.completion_tokens,
    }
    begun = status == "in_progress"
    return {
        "id": reply.id.replace("chatcmpl-", "resp_"),
        "object": "response",
        "created_at": reply.created,
        "status": status or ("incomplete" if cut else "completed"),
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if cut and not begun else None,
        "instructions": asked.get("instructions"),
        "metadata": asked.get("metadata") or {},
        "model": reply.model,
        "output": [] if begun else _items(reply),
        "parallel_tool_calls": asked.get("parallel_tool_calls") is not False,
        "temperature": asked.get("temperature"),
        "tool_choice": asked.get("tool_choice") or "auto",
        "tools": asked.get("tools") or [],
        "top_p": asked.get("top_p"),
        "usage": None if begun else used,
    }


def _items(reply: Completion) -> list[Json]:
    items: list[Json] = []
    if reply.content or not reply.calls:
        text = {"type": "output_text", "text": reply.content, "annotations": [], "logprobs": []}
        items.append(
            {
                "id": reply.id.replace("chatcmpl-", "msg_"),
                "type": "message",
                "role": "assistant",
                "status": "incomplete" if reply.finish_reason == "length" else "completed",
                "content": [text],
            }
        )
    for call in reply.calls:
        own = {"call_id": call.id, "name": call.name, "arguments": call.arguments}
        items.append({"id": f"fc_{call.id}", "type": "function_call", "status": "completed", **own})
    return items


def events(reply: Completion, asked: Json) -> Iterator[tuple[str, Json]]:
    """The same as server-sent events."""
    number = 0

    def event(kind: str, **data: Any) -> tuple[str, Json]:
        nonlocal number
        number += 1
        return kind, {"type": kind, "sequence_number": number - 1, **data}

    begun = response(reply, asked, status="in_progress")
    yield event("response.created", response=begun)
    yield event("response.in_progress", response=begun)
    for index, item in enumerate(_items(reply)):
        place = {"item_id": item["id"], "output_index": index}
        empty: Json = {"content": []} if item["type"] == "message" else {"arguments": ""}
        yield event("response.output_item.added", output_index=index, item={**item, **empty, "status": "in_progress"})
        if item["type"] == "message":
            (part,) = item["content"]
            inside = {**place, "content_index": 0}
            yield event("response.content_part.added", **inside, part={**part, "text": ""})
            yield event("response.output_text.delta", **inside, delta=part["text"], logprobs=[])
            yield event("response.output_text.done", **inside, text=part["text"], logprobs=[])
            yield event("response.content_part.done", **inside, part=part)
        else:
            yield event("response.function_call_arguments.delta", **place, delta=item["arguments"])
            whole = {"name": item["name"], "arguments": item["arguments"]}
            yield event("response.function_call_arguments.done", **place, **whole)
        yield event("response.output_item.done", output_index=index, item=item)
    ended = "response.incomplete" if reply.finish_reason == "length" else "response.completed"
    yield event(ended, response=response(reply, asked))
