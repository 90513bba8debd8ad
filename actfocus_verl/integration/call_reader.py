"""verl's tool parsers as readers of calls: the one door through which tool worlds get them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Final

from pydantic import ValidationError
from verl.experimental.agent_loop.tool_parser import ToolParser
from verl.tools.schemas import OpenAIFunctionToolSchema

from actfocus_verl.errors import ConfigurationError

_WITHOUT_SCHEMAS: Final = ("hermes", "gpt-oss")
"""Formats whose parsers do not look at the functions' schemas."""


class VerlCallReader:
    """One of verl's parsers. They are coroutines that decode in a thread; an episode takes a reply at once.

    So they run in an event loop of their own, beside whichever one the episode is in.
    """

    def __init__(self, parser: ToolParser, *, schemas: bool) -> None:
        self._parser = parser
        self._schemas = schemas

    def __call__(self, token_ids: Sequence[int], tools: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
        """Name and arguments, as text, of each call that the parser finds; none where it fails at the reply."""
        schemas = _as_schemas(tools) if self._schemas else None
        found = self._parser.extract_tool_calls(list(token_ids), schemas)
        try:
            _, calls = asyncio.run_coroutine_threadsafe(found, _loop()).result()
        except (ValueError, TypeError, LookupError, AttributeError, SyntaxError, RecursionError):
            return []  # a parser that stumbles over what a policy wrote has read no call
        return [(call.name, call.arguments) for call in calls]


def make_call_reader(tokenizer: Any, tool_format: str) -> VerlCallReader:
    """The reader for a name of verl's parsers. Raises ConfigurationError for an unknown one."""
    try:
        parser = ToolParser.get_tool_parser(tool_format, tokenizer)
    except ValueError as error:
        known = ", ".join(ToolParser._registry)
        raise ConfigurationError(
            "env.tool_format", tool_format, "is not one of verl's tool parsers", f"Use one of: {known}"
        ) from error
    return VerlCallReader(parser, schemas=tool_format not in _WITHOUT_SCHEMAS)


def _as_schemas(tools: Sequence[Mapping[str, Any]]) -> list[OpenAIFunctionToolSchema]:
    try:
        return [OpenAIFunctionToolSchema.model_validate(tool) for tool in tools]
    except ValidationError as error:
        problem = f"its functions are not what verl's parser takes ({error.errors()[0]['msg']})"
        raise ConfigurationError("env.tool_format", tools[0]["function"]["name"], problem, "Use hermes") from error


@cache
def _loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="tool-parser", daemon=True).start()
    return loop
