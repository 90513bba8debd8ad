"""A tool-calling agent of smolagents, with one tool: a plain function, which runs in a thread.

pip install "smolagents[openai]"
actfocus train env=none agent=examples.agents.smolagents_agent:play data.train_files=... data.val_files=...

smolagents writes the history anew before every step, so each step is a chain of its own: a row with its whole prompt.
"""

from __future__ import annotations

from smolagents import OpenAIServerModel, ToolCallingAgent, tool

from examples.agents.sums import judge


@tool
def multiply(a: int, b: int) -> int:
    """Multiply two integers.

    Args:
        a: The first one.
        b: The second one.
    """
    return a * b


def play(task: dict, *, base_url: str, api_key: str, model: str) -> float:
    """Answer the question; the reward is 1 for the right number."""
    policy = OpenAIServerModel(model, api_base=base_url, api_key=api_key)
    agent = ToolCallingAgent(tools=[multiply], model=policy, max_steps=4, verbosity_level=0)
    return judge(str(agent.run(task["question"])), task["answer"])
