"""An agent of OpenAI's Agents SDK, with one tool and a second agent that it may hand over to.

pip install openai-agents
actfocus train env=none agent=examples.agents.openai_agents_sdk:play data.train_files=... data.val_files=...

The SDK speaks the Responses API by default, which the gateway serves; OpenAIChatCompletionsModel works as well.
"""

from __future__ import annotations

import openai
from agents import Agent, OpenAIResponsesModel, Runner, function_tool, set_tracing_disabled

from examples.agents.sums import judge

set_tracing_disabled(True)  # traces would be sent to OpenAI


@function_tool
def multiply(a: int, b: int) -> int:
    """Multiply two integers."""
    return a * b


async def play(task: dict, *, base_url: str, api_key: str, model: str) -> float:
    """Answer the question; the reward is 1 for the right number."""
    client = openai.AsyncOpenAI(base_url=base_url, api_key=api_key)
    policy = OpenAIResponsesModel(model, client)
    checker = Agent(name="checker", instructions="Say the number again, and nothing else.", model=policy)
    solver = Agent(
        name="solver",
        instructions="Answer with a number. Use the tool for every multiplication.",
        tools=[multiply],
        handoffs=[checker],
        model=policy,
    )
    result = await Runner.run(solver, task["question"], max_turns=6)
    return judge(str(result.final_output), task["answer"])
