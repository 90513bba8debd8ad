"""A ReAct agent of LangGraph, with one tool.

pip install langgraph langchain-openai
actfocus train env=none agent=examples.agents.langgraph_agent:play data.train_files=... data.val_files=...
"""

from __future__ import annotations

from langchain_core.messages import AnyMessage, SystemMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.graph import MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition

from examples.agents.sums import judge

SYSTEM = SystemMessage("Answer with a number. Use the tool for every multiplication.")


@tool
def multiply(a: int, b: int) -> int:
    """Multiply two integers."""
    return a * b


async def play(task: dict, *, base_url: str, api_key: str, model: str) -> float:
    """Answer the question; the reward is 1 for the right number."""
    policy = ChatOpenAI(model=model, base_url=base_url, api_key=api_key).bind_tools([multiply])

    async def think(state: MessagesState) -> dict[str, list[AnyMessage]]:
        return {"messages": [await policy.ainvoke([SYSTEM, *state["messages"]])]}

    graph = StateGraph(MessagesState)
    graph.add_node("think", think)
    graph.add_node("tools", ToolNode([multiply]))
    graph.add_edge("__start__", "think")
    graph.add_conditional_edges("think", tools_condition)
    graph.add_edge("tools", "think")
    question = {"messages": [("user", task["question"])]}
    state = await graph.compile().ainvoke(question, {"recursion_limit": 12})
    return judge(str(state["messages"][-1].content), task["answer"])
