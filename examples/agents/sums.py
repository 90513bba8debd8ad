"""The tool and the reward that the examples share."""

from __future__ import annotations

import json
import re

TOOL = {
    "type": "function",
    "function": {
        "name": "multiply",
        "description": "Multiply two integers.",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
            "required": ["a", "b"],
        },
    },
}


def multiply(arguments: str) -> str:
    """The tool's answer to a call's arguments, which a policy may get wrong."""
    try:
        given = json.loads(arguments)
        return str(int(given["a"]) * int(given["b"]))
    except (ValueError, KeyError, TypeError):
        return 'error: expected {"a": <integer>, "b": <integer>}'


def judge(said: str | None, answer: object) -> float:
    """1 if the last number that was said is the answer."""
    numbers = re.findall(r"-?\d+", said or "")
    return float(bool(numbers) and numbers[-1] == str(answer))
