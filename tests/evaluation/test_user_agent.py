"""`evaluate agent=...` against a server: here a gateway over a scripted policy, in a thread of its own."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from actfocus_verl.errors import ConfigurationError
from actfocus_verl.evaluation.user_agent import evaluate, summarise
from actfocus_verl.gateway import Gateway, Limits, Session
from tests.helpers.gateway import CharTokens, Script

AGENT = """
import openai

async def play(task, *, base_url, api_key, model):
    if task["question"] == "broken":
        raise RuntimeError("no tool")
    async with openai.AsyncOpenAI(base_url=base_url, api_key=api_key, max_retries=0) as api:
        messages = [{"role": "user", "content": task["question"]}]
        said = (await api.chat.completions.create(model=model, messages=messages)).choices[0].message.content
    return float(said == task["answer"])
"""


@pytest.fixture
def server() -> Iterator[str]:
    """Says `right` to what is asked for it, and `wrong` otherwise."""
    script = Script(answer=lambda prompt: "right" if "easy" in prompt else "wrong")
    loop, address, ended = asyncio.new_event_loop(), [], threading.Event()

    async def serve() -> None:
        gateway = Gateway()
        await gateway.start()
        session = Session(CharTokens(), script, Limits(context=9000, response=9000, max_turns=99), model="policy")
        with gateway.serving(session) as endpoint:
            address.append(endpoint.base_url)
            while not ended.is_set():
                await asyncio.sleep(0.01)
        await gateway.stop()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    while not address:
        ended.wait(0.01)
    yield address[0]
    ended.set()
    thread.join()
    loop.close()


@pytest.fixture
def words(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    (tmp_path / "evaluated_agent.py").write_text(AGENT)
    monkeypatch.syspath_prepend(tmp_path)
    tasks = [{"question": name, "answer": "right"} for name in ("easy", "hard", "easy too", "broken")]
    (tmp_path / "tasks.jsonl").write_text("\n".join(map(json.dumps, tasks)))
    return ["agent=evaluated_agent:play", f"tasks={tmp_path}/tasks.jsonl", f"out={tmp_path}/out", f"server={server}"]


def test_an_evaluation_and_its_continuation(words: list[str], tmp_path: Path) -> None:
    console = Console(quiet=True)
    summary = evaluate([*words, "repeats=2"], console)
    assert (summary["tasks"], summary["conversations"], summary["unfinished"]) == (4, 8, 2)
    assert summary["mean_reward"] == 0.5
    assert summary["ends"] == {"finished": 6, "raised": 2}
    lines = (tmp_path / "out" / "episodes.jsonl").read_text().splitlines()
    assert sorted((line["task"], line["repeat"]) for line in map(json.loads, lines)) == [
        (task, repeat) for task in range(4) for repeat in range(2)
    ]
    (tmp_path / "out" / "episodes.jsonl").write_text("".join(f"{line}\n" for line in lines[:5]) + lines[5][:9])
    again = evaluate([*words, "repeats=2"], console)
    assert again == summary
    with pytest.raises(ConfigurationError, match=r"repeats=3: .* holds an evaluation with repeats=2"):
        evaluate([*words, "repeats=3"], console)


def test_an_interval_by_hand() -> None:
    same = [{"task": i, "repeat": 0, "reward": 1.0, "how": "finished"} for i in range(5)]
    assert (summarise(same)["ci_low"], summarise(same)["ci_high"]) == (1.0, 1.0)
    half = [{**each, "reward": float(each["task"] < 2)} for each in same]
    found = summarise(half)
    assert found["mean_reward"] == pytest.approx(0.4)
    assert found["ci_low"] < 0.4 < found["ci_high"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("server=null", "one of server and model answers the agent"),
        ("tasks=/nowhere.jsonl", "tasks='/nowhere.jsonl': .*No such file"),
        ("agent=evaluated_agent:missing", "it cannot be imported"),
        ("split=test", "split='test': is not a known key"),
    ],
)
def test_mistakes(words: list[str], change: str, message: str) -> None:
    kept = [word for word in words if word.split("=")[0] != change.split("=")[0]]
    with pytest.raises(ConfigurationError, match=message):
        evaluate([*kept, change], Console(quiet=True))
