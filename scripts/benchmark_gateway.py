"""What the gateway costs: conversations of two replies at once through it, and the same through verl's calls alone.

    python scripts/benchmark_gateway.py --conversations 64 --reply-ms 200 --out gateway.json

The engine is a clock: a reply takes `--reply-ms`, whatever else happens, so what is measured is the gateway, its
clients and their threads. Agents are `async` functions with OpenAI's client, as in examples/agents/openai_agent.py.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from pathlib import Path
from typing import Any

import openai

from actfocus_verl.gateway import Gateway, Limits, Sampled, Session
from actfocus_verl.gateway.agents import FunctionAgent
from tests.helpers.gateway import END, CharTokens, ids

REPLY = [*ids("The sum of the two numbers is three." * 4), END]
TURNS = 4
LIMITS = Limits(context=100_000, response=100_000)


class Clock:
    """A rollout engine that answers after a fixed time."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    async def __call__(self, name: str, prompt_ids: list[int], max_tokens: int, stop: tuple[str, ...]) -> Sampled:
        await asyncio.sleep(self._seconds)
        return Sampled(list(REPLY), [-1.0] * len(REPLY))


async def play(task: dict[str, Any], *, base_url: str, api_key: str, model: str) -> float:
    """A conversation of `TURNS` replies."""
    async with openai.AsyncOpenAI(base_url=base_url, api_key=api_key) as client:
        messages: list[Any] = [{"role": "user", "content": "1 + 2"}]
        for _ in range(TURNS):
            answer = await client.chat.completions.create(model=model, messages=messages)
            messages += [answer.choices[0].message.model_dump(exclude_none=True), {"role": "user", "content": "go on"}]
    return 1.0


async def through_gateway(count: int, clock: Clock) -> float:
    """Seconds of all conversations at once."""
    gateway = Gateway()
    await gateway.start()

    async def converse() -> None:
        session = Session(CharTokens(), clock, LIMITS, model="policy")
        with gateway.serving(session) as endpoint:
            outcome = await FunctionAgent(play).play({}, endpoint, 600.0)
        assert outcome.reward == 1.0, outcome.details
        assert [chain.turns for chain in session.chains] == [TURNS]

    began = time.perf_counter()
    await asyncio.gather(*(converse() for _ in range(count)))
    seconds = time.perf_counter() - began
    await gateway.stop()
    return seconds


async def alone(count: int, clock: Clock) -> float:
    """The same replies without gateway and agent, as an agent loop of ours asks for them."""

    async def converse() -> None:
        tokens = CharTokens()
        context = await tokens.start([{"role": "user", "content": "1 + 2"}], [])
        for _ in range(TURNS):
            context += (await clock("", context, 1000, ())).token_ids
            context += (await tokens.extend(context, [], [{"role": "user", "content": "go on"}], []))[1]

    began = time.perf_counter()
    await asyncio.gather(*(converse() for _ in range(count)))
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--conversations", type=int, default=64)
    parser.add_argument("--reply-ms", type=float, default=1000.0)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    clock = Clock(options.reply_ms / 1000)
    with_gateway, without = [], []
    asyncio.run(through_gateway(4, clock))  # imports
    for _ in range(options.repeats):
        with_gateway.append(asyncio.run(through_gateway(options.conversations, clock)))
        without.append(asyncio.run(alone(options.conversations, clock)))
    seconds, base = statistics.median(with_gateway), statistics.median(without)
    result = {
        "conversations": options.conversations,
        "replies_each": TURNS,
        "reply_ms": options.reply_ms,
        "seconds_with_gateway": with_gateway,
        "seconds_without": without,
        "overhead": seconds / base - 1,
        "ms_per_reply": (seconds - base) * 1000 / (options.conversations * TURNS),
    }
    text = json.dumps(result, indent=2)
    print(text)
    if options.out is not None:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
