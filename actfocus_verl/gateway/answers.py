"""Answers of chat completions in OpenAI's format, whole and as a stream."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from actfocus_verl.gateway.session import Call, Completion

Json = dict[str, Any]


def completion(reply: Completion) -> Json:
    """The answer to a request that does not stream."""
    message: Json = {"role": "assistant", "content": _content(reply), "refusal": None}
    if reply.calls:
        message["tool_calls"] = [_call(call) for call in reply.calls]
    choice = {"index": 0, "message": message, "logprobs": _logprobs(reply), "finish_reason": reply.finish_reason}
    return {**_head(reply, "chat.completion"), "choices": [choice], "usage": usage(reply)}


def chunks(reply: Completion, *, with_usage: bool) -> Iterator[tuple[None, Json | str]]:
    """The same as server-sent events: a reply is parsed as a whole, so it comes in few chunks."""

    def chunk(delta: Json, reason: str | None = None, logprobs: Json | None = None) -> tuple[None, Json]:
        choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        usages = {"usage": None} if with_usage else {}
        return None, {**_head(reply, "chat.completion.chunk"), "choices": [choice], **usages}

    yield chunk({"role": "assistant", "content": "" if reply.content or not reply.calls else None})
    if reply.content or reply.tokens:
        yield chunk({"content": reply.content}, logprobs=_logprobs(reply))
    for index, call in enumerate(reply.calls):
        yield chunk({"tool_calls": [{"index": index, **_call(call)}]})
    yield chunk({}, reply.finish_reason)
    if with_usage:
        yield None, {**_head(reply, "chat.completion.chunk"), "choices": [], "usage": usage(reply)}
    yield None, "[DONE]"


def usage(reply: Completion) -> Json:
    """Tokens of the prompt, the reply and both."""
    return {
        "prompt_tokens": reply.prompt_tokens,
        "completion_tokens": reply.completion_tokens,
        "total_tokens": reply.prompt_tokens + reply.completion_tokens,
    }


def _head(reply: Completion, kind: str) -> Json:
    return {"id": reply.id, "object": kind, "created": reply.created, "model": reply.model}


def _content(reply: Completion) -> str | None:
    return reply.content if reply.content or not reply.calls else None


def _call(call: Call) -> Json:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _logprobs(reply: Completion) -> Json | None:
    if reply.tokens is None:
        return None
    content = [
        {"token": text, "logprob": value, "bytes": list(text.encode()), "top_logprobs": []}
        for text, value in reply.tokens
    ]
    return {"content": content, "refusal": None}
