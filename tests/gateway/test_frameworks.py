"""Agents of four frameworks, as in examples/agents: every trained token was sampled, in the context the policy saw."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

from actfocus_verl.gateway.agents import FunctionAgent
from tests.helpers.gateway import Script, converse, require_exact

CALL = 'I multiply. <call>multiply {"a": 17, "b": 23}</call>'
ANSWER = "It is 391."
TASK = {"question": "17 * 23", "answer": "391"}


def example(name: str, *packages: str) -> Any:
    for package in packages:
        pytest.importorskip(package, reason=f"{package} is not installed (requirements/agents.txt)")
    return importlib.import_module(f"examples.agents.{name}").play


def played(function: Any, *texts: str) -> tuple[Any, Any, Script]:
    script = Script(*texts)
    session, outcome = converse(lambda endpoint: FunctionAgent(function).play(TASK, endpoint, 120.0), script)
    assert (outcome.how, outcome.reward) == ("finished", 1.0), outcome.details
    assert not script.texts
    require_exact(session.chains, script)
    return session, outcome, script


def test_openai() -> None:
    session, _, script = played(example("openai_agent"), CALL, CALL, ANSWER)
    assert [chain.turns for chain in session.chains] == [3]
    assert "<tool>391" in "".join(map(chr, script.calls[-1][1]))


def test_openai_agents_sdk() -> None:
    """The Responses API; a hand-over has other instructions, and so a chain of its own."""
    function = example("openai_agents_sdk", "agents")
    session, _, _ = played(function, CALL, ANSWER)
    assert [chain.turns for chain in session.chains] == [2]
    session, _, _ = played(function, CALL, "<call>transfer_to_checker {}</call>", "391")
    assert [chain.turns for chain in session.chains] == [2, 1]


def test_langgraph() -> None:
    session, _, _ = played(example("langgraph_agent", "langgraph", "langchain_openai"), CALL, ANSWER)
    assert [chain.turns for chain in session.chains] == [2]


def test_smolagents() -> None:
    last = '<call>final_answer {"answer": "391"}</call>'
    session, _, _ = played(example("smolagents_agent", "smolagents"), CALL, last)
    assert sum(chain.turns for chain in session.chains) == 2


def test_every_example_is_tested() -> None:
    found = {path.stem for path in (Path(__file__).parents[2] / "examples" / "agents").glob("*_*.py")} - {"__init__"}
    assert found == {"openai_agent", "openai_agents_sdk", "langgraph_agent", "smolagents_agent"}
