"""What the gateway costs: conversations of two replies at once through it, and the same through verl's calls alone.

    python scripts/benchmark_gateway.py --conversations 64 --reply-ms 200 --out gateway.json

The engine is a clock: a reply takes `--reply-ms`, give or take `--spread` of it as replies differ in length, whatever
else happens. With `--spread 0` all replies end at the same moment, the gateway's worst case. `--client raw` posts JSON
over one connection per conversation, so that what is measured is the gateway and its threads; `--client openai` adds
what OpenAI's client costs by itself (most of it once per client). CPU times are of this process, and hold on a busy
machine as well.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import random
import statistics
import time
import urllib.parse
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import openai

from actfocus_verl.gateway import Gateway, Limits, Sampled, Session
from actfocus_verl.gateway.agents import FunctionAgent
from actfocus_verl.gateway.session import Generate
from tests.helpers.gateway import END, CharTokens, ids

REPLY = [*ids("The sum of the two numbers is three." * 4), END]
TURNS = 4
LIMITS = Limits(context=100_000, response=100_000)


class Clock:
    """A rollout engine that answers after a given time, drawn for each reply of each conversation."""

    def __init__(self, seconds: float, spread: float) -> None:
        self._seconds, self._spread = seconds, spread

    def of(self, conversation: int) -> Generate:
        """The engine of one conversation: the same times whoever asks."""
        rng = random.Random(conversation)

        async def generate(name: str, prompt_ids: list[int], max_tokens: int, stop: tuple[str, ...]) -> Sampled:
            await asyncio.sleep(self._seconds * (1 + self._spread * rng.uniform(-1, 1)))
            return Sampled(list(REPLY), [-1.0] * len(REPLY))

        return generate


def play_raw(task: dict[str, Any], *, base_url: str, api_key: str, model: str) -> float:
    """The same conversation by hand."""
    address = urllib.parse.urlsplit(base_url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port)
    messages: list[Any] = [{"role": "user", "content": "1 + 2"}]
    for _ in range(TURNS):
        body = json.dumps({"model": model, "messages": messages})
        connection.request("POST", f"{address.path}/chat/completions", body, {"Content-Type": "application/json"})
        message = json.loads(connection.getresponse().read())["choices"][0]["message"]
        messages += [message, {"role": "user", "content": "go on"}]
    connection.close()
    return 1.0


async def play(task: dict[str, Any], *, base_url: str, api_key: str, model: str) -> float:
    """A conversation of `TURNS` replies."""
    async with openai.AsyncOpenAI(base_url=base_url, api_key=api_key) as client:
        messages: list[Any] = [{"role": "user", "content": "1 + 2"}]
        for _ in range(TURNS):
            answer = await client.chat.completions.create(model=model, messages=messages)
            messages += [answer.choices[0].message.model_dump(exclude_none=True), {"role": "user", "content": "go on"}]
    return 1.0


async def through_gateway(count: int, clock: Clock, function: Any) -> None:
    """All conversations at once."""
    gateway = Gateway()
    await gateway.start()

    async def converse(number: int) -> None:
        session = Session(CharTokens(), clock.of(number), LIMITS, model="policy")
        with gateway.serving(session) as endpoint:
            outcome = await FunctionAgent(function).play({}, endpoint, 600.0)
        assert outcome.reward == 1.0, outcome.details
        assert [chain.turns for chain in session.chains] == [TURNS]

    await asyncio.gather(*(converse(number) for number in range(count)))
    await gateway.stop()


async def alone(count: int, clock: Clock) -> None:
    """The same replies without gateway and agent, as an agent loop of ours asks for them."""

    async def converse(number: int) -> None:
        tokens, generate = CharTokens(), clock.of(number)
        context = await tokens.start([{"role": "user", "content": "1 + 2"}], [])
        for _ in range(TURNS):
            context += (await generate("", context, 1000, ())).token_ids
            context += (await tokens.extend(context, [], [{"role": "user", "content": "go on"}], []))[1]

    await asyncio.gather(*(converse(number) for number in range(count)))


def measure(repeats: int, work: Callable[[], Coroutine[Any, Any, None]]) -> tuple[list[float], list[float]]:
    """Seconds by the clock, and of this process's CPUs, of each repeat."""
    wall, cpu = [], []
    for _ in range(repeats):
        began, used = time.perf_counter(), time.process_time()
        asyncio.run(work())
        wall.append(time.perf_counter() - began)
        cpu.append(time.process_time() - used)
    return wall, cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--conversations", type=int, default=64)
    parser.add_argument("--reply-ms", type=float, default=1000.0)
    parser.add_argument("--spread", type=float, default=0.5)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--client", choices=("raw", "openai"), default="raw")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    clock, count = Clock(options.reply_ms / 1000, options.spread), options.conversations
    function = play if options.client == "openai" else play_raw
    asyncio.run(through_gateway(4, clock, function))  # imports
    wall, cpu = measure(options.repeats, lambda: through_gateway(count, clock, function))
    base_wall, base_cpu = measure(options.repeats, lambda: alone(count, clock))
    generation = statistics.median(base_wall)
    result = {
        "conversations": count,
        "replies_each": TURNS,
        "reply_ms": options.reply_ms,
        "spread": options.spread,
        "client": options.client,
        "seconds": wall,
        "seconds_without": base_wall,
        "cpu_ms_per_reply": (statistics.median(cpu) - statistics.median(base_cpu)) * 1000 / (count * TURNS),
        "overhead": statistics.median(wall) / generation - 1,
    }
    text = json.dumps(result, indent=2)
    print(text)
    if options.out is not None:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
