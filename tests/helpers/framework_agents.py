"""The tiny tool policy's agent in four frameworks, as their users would write it: one tool, a few replies, a reward.

A task names its framework, so that agents of all of them play in one run. Without a name it is plain openai, and the
task that of scripts/agent_curve.py: to have the tool find the largest sum.
"""

from __future__ import annotations

import copy
import importlib.util
import inspect
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import openai

from tests.helpers.gateway_agent import TOOLS, add

SYSTEM: Final = "Add the numbers with the tool."
REPLIES: Final = 3
LARGEST: Final = 8
"""The numbers of the policy's language are 1 to 4."""
PACKAGES: Final = {
    "openai": ("openai",),
    "openai_agents": ("agents",),
    "langgraph": ("langgraph", "langchain_openai"),
    "smolagents": ("smolagents",),
}


def installed() -> list[str]:
    """The frameworks that can be imported."""
    return [name for name, modules in PACKAGES.items() if all(map(importlib.util.find_spec, modules))]


async def play(task: dict[str, Any], *, base_url: str, api_key: str, model: str) -> float:
    """Play it in the task's framework; half of the reward is for an answer, half for the right one."""
    if "framework" not in task:
        _, found = await _converse(task["prompt"][-1]["content"], base_url, api_key, model)
        return min(found, LARGEST) / LARGEST
    name = task["framework"]
    said = _AGENTS[name](task["prompt"][-1]["content"], base_url, api_key, model)
    answer = await said if inspect.isawaitable(said) else said
    expected = f"The sum is {task['reward_model']['ground_truth']}."
    reward = ("The sum is" in answer) / 2 + (expected in answer) / 2
    if "AGENT_NOTES" in os.environ:
        with Path(os.environ["AGENT_NOTES"]).open("a") as file:
            file.write(json.dumps({"framework": name, "reward": reward}) + "\n")
    return reward


async def _openai(question: str, base_url: str, api_key: str, model: str) -> str:
    return (await _converse(question, base_url, api_key, model))[0]


async def _converse(question: str, base_url: str, api_key: str, model: str) -> tuple[str, int]:
    """The answer, and the first sum that the tool found, 0 without any."""
    found = 0
    async with openai.AsyncOpenAI(base_url=base_url, api_key=api_key) as client:
        messages: list[Any] = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}]
        for _ in range(REPLIES):
            answer = await client.chat.completions.create(model=model, messages=messages, tools=TOOLS)  # type: ignore[arg-type]
            message = answer.choices[0].message
            messages.append(message.model_dump(exclude_none=True))
            if not message.tool_calls:
                return message.content or "", found
            for call in message.tool_calls:
                told = add(call.function.arguments)  # type: ignore[union-attr]
                found = found or (int(told) if told.isdecimal() else 0)
                messages.append({"role": "tool", "tool_call_id": call.id, "content": told})
    return "", found


async def _openai_agents(question: str, base_url: str, api_key: str, model: str) -> str:
    from agents import Agent, OpenAIResponsesModel, Runner, function_tool, set_tracing_disabled

    set_tracing_disabled(True)

    @function_tool(name_override="add", failure_error_function=lambda context, error: "wrong arguments")
    def add_(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    policy = OpenAIResponsesModel(model, openai.AsyncOpenAI(base_url=base_url, api_key=api_key))
    agent: Any = Agent(name="adder", instructions=SYSTEM, tools=[add_], model=policy)
    return str((await Runner.run(agent, question, max_turns=REPLIES)).final_output)


async def _langgraph(question: str, base_url: str, api_key: str, model: str) -> str:
    from langchain_core.messages import SystemMessage
    from langchain_core.tools import tool
    from langchain_openai import ChatOpenAI
    from langgraph.graph import MessagesState, StateGraph
    from langgraph.prebuilt import ToolNode, tools_condition

    @tool("add")
    def add_(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    policy = ChatOpenAI(model=model, base_url=base_url, api_key=api_key).bind_tools([add_])  # type: ignore[arg-type]

    async def think(state: Any) -> Any:
        return {"messages": [await policy.ainvoke([SystemMessage(SYSTEM), *state["messages"]])]}

    graph: Any = StateGraph(MessagesState)
    graph.add_node("think", think)
    graph.add_node("tools", ToolNode([add_], handle_tool_errors=lambda error: "wrong arguments"))
    graph.add_edge("__start__", "think")
    graph.add_conditional_edges("think", tools_condition)
    graph.add_edge("tools", "think")
    state = await graph.compile().ainvoke({"messages": [("user", question)]}, {"recursion_limit": 2 * REPLIES})
    return str(state["messages"][-1].content)


def _smolagents(question: str, base_url: str, api_key: str, model: str) -> str:
    from smolagents import OpenAIServerModel, ToolCallingAgent, tool
    from smolagents.agents import EMPTY_PROMPT_TEMPLATES

    @tool
    def add(a: int, b: int) -> int:
        """Add two numbers.

        Args:
            a: The first one.
            b: The second one.
        """
        return a + b

    prompts: Any = copy.deepcopy(EMPTY_PROMPT_TEMPLATES)  # its own would be half of the tiny policy's context
    prompts["system_prompt"] = SYSTEM
    prompts["final_answer"] = {"pre_messages": SYSTEM, "post_messages": "{{task}}"}
    policy = OpenAIServerModel(model, api_base=base_url, api_key=api_key)
    agent = ToolCallingAgent(
        tools=[add], model=policy, prompt_templates=prompts, max_steps=REPLIES - 1, verbosity_level=0
    )
    return str(agent.run(question))


_AGENTS: Final[dict[str, Callable[[str, str, str, str], Any]]] = {
    "openai": _openai,
    "openai_agents": _openai_agents,
    "langgraph": _langgraph,
    "smolagents": _smolagents,
}
