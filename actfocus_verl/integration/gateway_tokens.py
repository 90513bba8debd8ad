"""The gateway's tokens by verl: its continuous-token builder for contexts, its parsers for tool calls."""

from __future__ import annotations

from typing import Any

from jinja2 import TemplateError
from pydantic import ValidationError
from verl.experimental.agent_loop import AgentLoopBase
from verl.experimental.agent_loop.tool_parser import ToolParser
from verl.tools.schemas import OpenAIFunctionToolSchema

from actfocus_verl.errors import one_line
from actfocus_verl.gateway import ApiError

Json = dict[str, Any]


class VerlTokens:
    """`gateway.Tokens` of an agent loop. tool_format: verl's name of the parser."""

    def __init__(self, loop: AgentLoopBase, tool_format: str) -> None:
        self._loop, self._tokenizer = loop, loop.tokenizer
        self._parser = ToolParser.get_tool_parser(tool_format, loop.tokenizer)
        self.stop_token_ids = sorted({loop.tokenizer.eos_token_id, *self._parser.stop_token_ids})
        """Where a reply ends."""
        self._special = set(loop.tokenizer.all_special_ids)

    async def start(self, messages: list[Json], tools: list[Json]) -> list[int]:
        """See `gateway.Tokens`."""
        try:
            return list(await self._loop.ct_build_initial_tokens(messages, tools=tools or None))
        except (TemplateError, ValueError, TypeError) as error:
            raise _refused(error) from error

    async def extend(
        self, ids: list[int], previous: list[Json], messages: list[Json], tools: list[Json]
    ) -> tuple[int, list[int]]:
        """See `gateway.Tokens`. A reply that was cut off is closed first, as the template closes one."""
        closing = [] if self.is_closed(ids) else [self._tokenizer.eos_token_id]
        whole = [*ids, *closing]
        try:
            merged, _, _ = await self._loop.ct_merge_context_msg(
                previous, messages, whole, [1] * len(whole), tools=tools or None
            )
        except (TemplateError, ValueError, TypeError) as error:
            raise _refused(error) from error
        removed = merged.removed_prefix_token_count
        if removed > len(closing):
            return removed - len(closing), list(merged.token_ids[len(whole) - removed :])
        return 0, list(merged.token_ids[len(ids) :])

    async def parse(self, token_ids: list[int], tools: list[Json]) -> tuple[str, list[tuple[str, str]]]:
        """See `gateway.Tokens`."""
        content, calls = await self._parser.extract_tool_calls(token_ids, _schemas(tools))
        for token_id in reversed(token_ids):  # the parser shows the end token, too
            if token_id not in self._special:
                break
            content = content.rstrip().removesuffix(self._tokenizer.decode([token_id]))
        return content, [(call.name, call.arguments) for call in calls]

    def text(self, token_ids: list[int]) -> str:
        """See `gateway.Tokens`."""
        end = len(token_ids)
        while end and token_ids[end - 1] in self._special:
            end -= 1
        return str(self._tokenizer.decode(token_ids[:end]))

    def token_texts(self, token_ids: list[int]) -> list[str]:
        """See `gateway.Tokens`."""
        return [str(self._tokenizer.decode([token_id])) for token_id in token_ids]

    def is_closed(self, token_ids: list[int]) -> bool:
        """See `gateway.Tokens`."""
        return bool(token_ids) and token_ids[-1] in self.stop_token_ids


def _schemas(tools: list[Json]) -> list[OpenAIFunctionToolSchema] | None:
    """As verl's parsers take them: some convert arguments to the declared types."""
    try:
        return [OpenAIFunctionToolSchema.model_validate(tool) for tool in tools]
    except ValidationError:  # a schema beyond verl's: arguments stay as they were written
        return None


def _refused(error: Exception) -> ApiError:
    return ApiError(f"the model's chat template refuses these messages: {one_line(error, 300)}", param="messages")
