"""Two real steps of an agent that knows nothing of training: plain openai calls, a tool, a sub-agent, and failures."""

from __future__ import annotations

import json
import socket
import sys
import urllib.request
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.e2e.runs import Run
from tests.helpers.tool_policy import write_tool_run

pytestmark = [pytest.mark.e2e, pytest.mark.nightly, pytest.mark.timeout(2400)]

CONVERSATIONS = 16


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    folder = tmp_path / "agent"
    folder.mkdir()
    write_tool_run(folder)
    command = [
        *("env", f"AGENT_NOTES={folder}/notes.jsonl", sys.executable, "-m", "actfocus_verl.train"),
        *("env=none", "agent=tests.helpers.gateway_agent:play", f"run.dir={folder}/run", "platform=cpu"),
        *("agent.unfinished=mask", "agent.timeout=120", f"model.path={folder}/model"),
        *(f"data.train_files={folder}/rows.jsonl", f"data.val_files={folder}/rows.jsonl"),
        *("data.train_batch_size=4", "actor_rollout_ref.rollout.n=4", "actor_rollout_ref.actor.optim.lr=1e-3"),
        *("data.max_prompt_length=64", "data.max_response_length=160"),
        *("trainer.total_training_steps=2", "trainer.test_freq=-1", "trainer.val_before_train=false"),
        *("trainer.save_freq=2", "run.rollouts_every=1", f"run.rollouts_a_step={CONVERSATIONS}"),
    ]
    started = Run(folder, command=command)
    yield started
    started.close()


def read(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def replayed(model: Any, row: dict[str, Any]) -> list[list[float]]:
    """Log-probs of each reply's tokens by the model, whole conversation at once."""
    ids = torch.tensor([[*row["prompt_ids"], *row["responses"]]])
    with torch.no_grad():
        log_probs = model(ids).logits.float().log_softmax(-1)[0, :-1].gather(1, ids[0, 1:, None])[:, 0]
    of_response = log_probs[len(row["prompt_ids"]) - 1 :].tolist()
    runs = groupby(zip(row["turn_ids"], of_response, strict=True), key=lambda pair: pair[0])
    return [[value for _, value in pairs] for turn, pairs in runs if turn >= 0]


def test_two_steps_of_an_agent(run: Run) -> None:
    assert run.wait() == 0, run.terminal[-6000:]
    folder = run.folder / "run"
    steps = read(folder / "metrics.jsonl")
    assert [line["step"] for line in steps] == [1, 2]
    for line in steps:
        assert abs(line["rollout_corr/kl"]) < 1e-3
        assert 0 < line["credit/action_token_share"] < 1
        assert line["response_tokens/environment"] > 0  # the tool was called and answered
        assert 1 < line["episode/outcome/chains"] <= 2
        assert line["stop/finished"] + line["stop/raised"] == 1.0
    assert sum(line["episode/outcome/unfinished"] for line in steps) * CONVERSATIONS == 2 * CONVERSATIONS // 5
    assert any(line["actor/grad_norm"] > 0 for line in steps)
    assert {line["how"] for line in read(folder / "agents.jsonl")} == {"raised"}

    model = AutoModelForCausalLM.from_pretrained(run.folder / "model", dtype=torch.float32)
    told = read(run.folder / "notes.jsonl")
    rows = read(folder / "rollouts" / "1.jsonl")
    assert {row["output"] for row in rows} == {0, 1}
    compared = 0
    for row in rows:
        assert len(row["responses"]) == len(row["response_mask"]) == len(row["old_log_probs"])
        for log_probs in replayed(model, row):
            alike = [each for each in told if each == pytest.approx(log_probs, abs=1e-4)]
            assert alike, f"no reply of the agent had the log-probs of {row['group']}/{row['session']}"
            compared += 1
        sampled = [i for i, mask in enumerate(row["response_mask"]) if mask]
        assert all((row["token_weights"][i] > 0) == bool(mask) for i, mask in enumerate(row["response_mask"]))
        flat = [value for values in replayed(model, row) for value in values]
        assert [row["old_log_probs"][i] for i in sampled] == pytest.approx(flat if sampled else [], abs=1e-4)
    assert compared >= 2 * CONVERSATIONS
    evaluated(run.folder, run.folder / "run")


def evaluated(folder: Path, trained: Path) -> None:
    """The same function on the run's checkpoint: served by the evaluation itself, and by a server that is there."""
    model, tasks = folder / "exported", folder / "tasks.jsonl"
    tasks.write_text("".join(json.dumps(row | {"greedy": True}) + "\n" for row in read(folder / "rows.jsonl")))
    finish(folder / "export", "actfocus_verl.export", f"run={trained}", f"out={model}", "dtype=fp32")
    words = ["agent=tests.helpers.gateway_agent:play", f"tasks={tasks}", "concurrency=1"]
    terminal = finish(folder / "own", "actfocus_verl.evaluate", *words, f"model={model}", f"out={folder}/own")
    assert "95 % interval" in terminal
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    tools = ("--enable-auto-tool-choice", "--tool-call-parser=hermes")
    server = begin(folder / "server", "actfocus_verl.serve", str(model), "--host=127.0.0.1", f"--port={port}", *tools)
    try:
        server.wait_until(lambda: answers(port), "answer of the server")
        words.append(f"server=http://127.0.0.1:{port}/v1")
        finish(folder / "other", "actfocus_verl.evaluate", *words, f"out={folder}/other")
    finally:
        server.close()
    found = [read(folder / name / "episodes.jsonl") for name in ("own", "other")]
    ends = [[(episode["task"], episode["how"], episode["reward"]) for episode in episodes] for episodes in found]
    assert ends[0] == ends[1]
    assert [how for _, how, _ in ends[0]].count("raised") == len(ends[0]) // 5
    assert (
        len(read(folder / "own.notes")) > 2 * CONVERSATIONS
    )  # more than one reply and the sub-agent's: tools answered
    summary = json.loads((folder / "own" / "evaluation.json").read_text())["summary"]
    assert summary["conversations"] == len(ends[0]) == CONVERSATIONS
    assert summary["mean_reward"] == pytest.approx(sum(reward or 0.0 for _, _, reward in ends[0]) / CONVERSATIONS)


def begin(folder: Path, module: str, *words: str) -> Run:
    notes = f"AGENT_NOTES={folder}.notes"
    return Run(folder, command=["env", notes, "NO_PROXY=127.0.0.1", sys.executable, "-m", module, *words])


def finish(folder: Path, module: str, *words: str) -> str:
    """Run a command to its end; returns what it printed."""
    command = begin(folder, module, *words)
    try:
        assert command.wait() == 0, command.terminal[-6000:]
    finally:
        command.close()
    return command.terminal


def answers(port: int) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        return bool(opener.open(f"http://127.0.0.1:{port}/health", timeout=5).status == 200)
    except OSError:
        return False
