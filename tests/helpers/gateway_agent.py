"""An agent in plain openai calls for the tiny tool policy, as a user would write one, and some mischief."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path
from typing import Any

import openai

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "add",
            "description": "Add two numbers.",
            "parameters": {
                "type": "object",
                "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
                "required": ["a", "b"],
            },
        },
    }
]
RAISES_EVERY = 5
_calls = itertools.count(1)


async def play(task: dict[str, Any], *, base_url: str, api_key: str, model: str) -> float:
    """Ask for the sum, run the tool, and have a sub-agent look at the answer. Every fifth conversation breaks off."""
    number = next(_calls)
    greedy: Any = {"temperature": 0.0} if task.get("greedy") else {}  # in evaluations that are compared
    async with openai.AsyncOpenAI(base_url=base_url, api_key=api_key, max_retries=0) as client:
        messages: list[Any] = list(task["prompt"])
        answer = ""
        for _ in range(3):
            asked: Any = {"model": model, "messages": messages, "tools": TOOLS, "logprobs": True, **greedy}
            reply = await client.chat.completions.create(**asked)
            _note(reply)
            message = reply.choices[0].message
            messages.append(message.model_dump(exclude_none=True))
            if not message.tool_calls:
                answer = message.content or ""
                break
            for call in message.tool_calls:
                messages.append({"role": "tool", "tool_call_id": call.id, "content": add(call.function.arguments)})  # type: ignore[union-attr]
        if number % RAISES_EVERY == 0:
            raise RuntimeError("the tool's server is down")
        checker = [{"role": "system", "content": "Add the numbers."}, {"role": "user", "content": answer or "1 + 1"}]
        asked = {"model": model, "messages": checker, "max_tokens": 6, "logprobs": True, **greedy}
        _note(await client.chat.completions.create(**asked))
    expected = f"The sum is {task['reward_model']['ground_truth']}."
    return ("The sum is" in answer) / 2 + (expected in answer) / 2


def add(arguments: str) -> str:
    """The tool's answer to a call's arguments, which the policy may get wrong."""
    try:
        given = json.loads(arguments)
        return str(int(given["a"]) + int(given["b"]))
    except (ValueError, KeyError, TypeError):
        return "wrong arguments"


def _note(reply: Any) -> None:
    """Keep the log-probs that the agent was told, for the test to compare with a replay."""
    line = json.dumps([token.logprob for token in reply.choices[0].logprobs.content])
    with (Path(os.environ["AGENT_NOTES"])).open("a") as file:
        file.write(line + "\n")
