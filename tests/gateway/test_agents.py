"""Agents as functions and commands, and what may go wrong in them."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from pathlib import Path
from typing import Any

import openai
import pytest

from actfocus_verl.errors import ConfigurationError
from actfocus_verl.gateway import Endpoint, Outcome, build_agent
from actfocus_verl.gateway.agents import CommandAgent, FunctionAgent
from actfocus_verl.gateway.settings import AgentSettings
from tests.helpers.gateway import Script, converse, require_exact

TASK = {"question": "1+2", "answer": 3}


def play(agent: Any, script: Script | None = None, seconds: float = 60.0) -> tuple[Any, Outcome]:
    return converse(lambda endpoint: agent.play(TASK, endpoint, seconds), script or Script(answer=lambda _: "It is 3."))


def blocking(task: Any, *, base_url: str, api_key: str, model: str) -> float:
    """As LangGraph's and smolagents' are called: a client that blocks its thread."""
    with openai.OpenAI(base_url=base_url, api_key=api_key, max_retries=0) as api:
        messages: Any = [{"role": "user", "content": task["question"]}]
        answer = api.chat.completions.create(model=model, messages=messages)
    return float(str(task["answer"]) in (answer.choices[0].message.content or ""))


async def blocking_coroutine(task: Any, **endpoint: str) -> float:
    return blocking(task, **endpoint)  # a mistake that must not stop the others


@pytest.mark.parametrize("function", [blocking, blocking_coroutine])
def test_a_function_plays(function: Any) -> None:
    script = Script(answer=lambda _: "It is 3.")
    session, outcome = play(FunctionAgent(function), script)
    assert outcome == Outcome("finished", 1.0)
    require_exact(session.chains, script)


def test_a_command_plays_with_openais_variables(tmp_path: Path) -> None:
    program = tmp_path / "agent.py"
    program.write_text(
        "import json, sys, openai, os\n"
        "task = json.load(sys.stdin)\n"
        "api = openai.OpenAI(max_retries=0)\n"
        "said = api.chat.completions.create(model=os.environ['OPENAI_MODEL'], messages=[{'role': 'user', "
        "'content': task['question']}]).choices[0].message.content\n"
        "print('it said', said)\n"
        "print(0.25)\n"
    )
    session, outcome = play(CommandAgent(f"{sys.executable} {program}"))
    assert (outcome.how, outcome.reward) == ("finished", 0.25)
    assert "it said It is 3." in outcome.details
    assert session.turns == 1


def raises(task: Any, **_: Any) -> float:
    raise ValueError("no tool")


def leaves(task: Any, **_: Any) -> float:
    sys.exit(3)


async def hangs(task: Any, **_: Any) -> float:
    await asyncio.sleep(60)
    return 0.0


def hangs_in_a_thread(task: Any, **_: Any) -> float:
    threading.Event().wait(60)
    return 0.0


@pytest.mark.parametrize(
    ("function", "how", "details"),
    [
        (raises, "raised", "ValueError: no tool"),
        (leaves, "raised", "SystemExit: 3"),
        (hangs, "timeout", "more than 0.2 s"),
        (hangs_in_a_thread, "timeout", "more than 0.2 s"),
        (lambda task, **_: "good", "no_reward", "'good', which is not a finite number"),
        (lambda task, **_: float("nan"), "no_reward", "nan, which is not a finite number"),
        (lambda task, **_: None, "no_reward", "None, which is not a finite number"),
        (lambda task: 1.0, "raised", "unexpected keyword argument"),
    ],
)
def test_failures_are_outcomes(function: Any, how: str, details: str) -> None:
    _, outcome = play(FunctionAgent(function), seconds=0.2 if how == "timeout" else 60.0)
    assert (outcome.how, outcome.reward) == (how, None)
    assert details in outcome.details


@pytest.mark.parametrize(
    ("command", "how", "details"),
    [
        (f"{sys.executable} -c 'print(1); exit(2)'", "raised", "exit status is 2"),
        (f"{sys.executable} -c 'print(\"done\")'", "no_reward", "'done', which is not a finite number"),
        ("/nowhere/agent", "raised", "did not start"),
        ("sleep 60", "timeout", "more than 5 s"),
    ],
)
def test_failures_of_commands_are_outcomes(command: str, how: str, details: str) -> None:
    _, outcome = play(CommandAgent(command), seconds=5)
    assert (outcome.how, outcome.reward) == (how, None)
    assert details in outcome.details


def test_an_abandoned_agent_is_refused_its_next_request() -> None:
    seen: list[Any] = []
    go_on = threading.Event()

    def late(task: Any, *, base_url: str, api_key: str, model: str) -> float:
        go_on.wait(30)
        try:
            blocking(task, base_url=base_url, api_key=api_key, model=model)
        except openai.OpenAIError as error:
            seen.append(error)
        return 1.0

    async def whole() -> Any:
        from actfocus_verl.gateway import Gateway, Session
        from tests.helpers.gateway import LIMITS, CharTokens

        gateway = Gateway()
        await gateway.start()
        session = Session(CharTokens(), Script(answer=lambda _: "a"), LIMITS, model="policy")
        with gateway.serving(session) as endpoint:
            outcome = await FunctionAgent(late).play(TASK, endpoint, 0.1)
        go_on.set()
        for _ in range(100):
            if seen:
                break
            await asyncio.sleep(0.05)
        await gateway.stop()
        return session, outcome

    session, outcome = asyncio.run(whole())
    assert outcome.how == "timeout"
    assert isinstance(seen[0], openai.NotFoundError)
    assert session.turns == 0


def test_many_at_once() -> None:
    """Each has its own session and thread; a reply goes to who asked for it."""

    async def all_of_them(endpoint: Endpoint) -> list[Outcome]:
        def ask(task: Any, **where: str) -> float:
            with openai.OpenAI(base_url=where["base_url"], api_key="x", max_retries=0) as api:
                messages: Any = [{"role": "user", "content": task["name"]}]
                answer = api.chat.completions.create(model="policy", messages=messages)
            return float(answer.choices[0].message.content == task["name"])

        agent = FunctionAgent(ask)
        return list(await asyncio.gather(*(agent.play({"name": f"n{i}"}, endpoint, 60) for i in range(24))))

    def echo(prompt: str) -> str:
        return prompt.removeprefix("<user>").split("\x03")[0]

    session, outcomes = converse(all_of_them, Script(answer=echo))
    assert [outcome.reward for outcome in outcomes] == [1.0] * 24
    assert session.turns == 24


@pytest.mark.parametrize(
    ("function", "command", "message"),
    [
        (None, None, "one of agent.function and agent.command"),
        ("a:b", "c", "one of agent.function and agent.command"),
        ("no_such_module_of_ours:play", None, "agent.function='no_such_module_of_ours:play': it cannot be imported"),
        ("json:__name__", None, "is not a function"),
        (None, " ", "is empty"),
    ],
)
def test_an_agent_that_is_none(function: str | None, command: str | None, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        build_agent(function, command)
    assert isinstance(build_agent("json:dumps", None), FunctionAgent)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"timeout": 0}, "agent.timeout=0: must be a finite number > 0"),
        ({"max_turns": 0}, "agent.max_turns=0: must be an integer >= 1"),
        ({"max_tokens": "x"}, "agent.max_tokens='x': must be an integer >= 1"),
        ({"unfinished": "drop"}, "agent.unfinished='drop': is not a known value. Choose one of: count, mask, punish"),
        ({"sampling": "agent"}, "agent.sampling='agent': is not a known value"),
        ({"turns": 3}, "agent.turns=3: is not a known key"),
        ({"function": 3}, "agent.function=3: must be a text"),
    ],
)
def test_settings(section: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        AgentSettings.of(section)


@pytest.mark.parametrize(
    ("unfinished", "posted", "finished", "reward"),
    [
        ("count", None, False, 0.0),
        ("mask", 0.25, False, 0.25),
        ("punish", 0.25, False, -1.0),
        ("punish", None, True, 0.5),
        ("count", 0.25, True, 0.25),
    ],
)
def test_rewards(unfinished: str, posted: float | None, finished: bool, reward: float) -> None:
    settings = AgentSettings(unfinished=unfinished)
    assert settings.reward(0.5 if finished else None, posted, finished=finished) == reward
    assert json.dumps(reward)
