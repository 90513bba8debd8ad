"""A run's checkpoint, evaluated in process, and exported and served, as ids and as a chat: the same episodes."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from actfocus_verl.evaluation.engine import platform_environment
from tests.e2e.runs import ROOT, Run, _environment

pytestmark = [pytest.mark.e2e, pytest.mark.nightly, pytest.mark.timeout(1800)]

BOARDS, STEP, CONTEXT = 16, 2, 2432
GREEDY = (f"episodes={BOARDS}", "temperature=0", "texts=true")
SERVE = """
from actfocus_verl.platforms import vllm_metadata
vllm_metadata.install()
import runpy
runpy.run_module("vllm.entrypoints.openai.api_server", run_name="__main__")
"""
"""`python -m vllm.entrypoints.openai.api_server`, where vLLM's CPU build has another name."""


class Process(Run):
    """Any command of ours in a session of its own; `folder` is where it writes."""

    def __init__(self, folder: Path, log: Path, command: list[str], environment: dict[str, str]) -> None:
        self.folder, self.log, self._seen = folder, log, {}
        with log.open("w") as terminal:
            self.process = subprocess.Popen(
                [sys.executable, *command],
                cwd=ROOT,
                stdout=terminal,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=environment,
            )

    def episodes(self) -> list[dict[str, Any]]:
        path = self.folder / "episodes.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Start `python <words>`; whatever is left of it is ended after the test."""
    started: list[Process] = []

    def begin(folder: Path, *words: str, **environment: str) -> Process:
        log = tmp_path / f"{len(started)}.terminal"
        started.append(Process(folder, log, list(words), _environment() | {"NO_PROXY": "127.0.0.1"} | environment))
        return started[-1]

    yield begin
    for process in started:
        process.close()


def test_in_process_and_on_a_server(launch: Callable[..., Process], real_run: Path, tmp_path: Path) -> None:
    """The server has what was exported of the run."""
    run = real_run
    here = interrupted_and_resumed(launch, run, tmp_path / "here")
    exported = tmp_path / "exported"
    process = launch(exported, "-m", "actfocus_verl.export", f"run={run}", f"step={STEP}", f"out={exported}")
    assert process.wait() == 0, process.terminal[-4000:]
    server, address = serve(launch, exported)
    there = {}
    for api in ("completions", "chat"):
        out = tmp_path / api
        words = (f"model={run}", f"out={out}", f"server={address}", f"server_api={api}", *GREEDY)
        process = launch(out, "-m", "actfocus_verl.evaluate", *words)
        assert process.wait() == 0, process.terminal[-4000:]
        there[api] = by_board(process.episodes())
    server.send(signal.SIGINT)
    server.wait(60)

    assert there["completions"] == by_board(here)
    assert there["chat"] == by_board(here)
    successes = [episode["success"] for episode in here]
    assert any(successes)
    assert not all(successes)
    settings = json.loads((out / "evaluation.json").read_text())["settings"]
    assert settings["world"] == {"max_turn_tokens": 96}


def by_board(episodes: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    return {episode["board"]: episode for episode in episodes}


def interrupted_and_resumed(launch: Callable[..., Process], run: Path, out: Path) -> list[dict[str, Any]]:
    """Evaluate in process, with a Ctrl-C after the first episodes; returns all of them."""
    words = ("-m", "actfocus_verl.evaluate", f"model={run}", f"out={out}", *GREEDY)
    first = launch(out, *words, "concurrency=1")
    first.wait_until(lambda: len(first.episodes()) >= 2, "second episode")
    first.send(signal.SIGINT)
    assert first.wait(60) == 130, first.terminal[-4000:]
    assert first.survivors() == []
    kept = first.episodes()
    assert 2 <= len(kept) < BOARDS
    assert json.loads((out / "evaluation.json").read_text())["status"] == "interrupted"

    merged = (run / "merged" / f"global_step_{STEP}" / "model.safetensors").stat()
    second = launch(out, *words)
    assert second.wait() == 0, second.terminal[-4000:]
    assert second.survivors() == []
    episodes = second.episodes()
    assert episodes[: len(kept)] == kept
    assert sorted(episode["board"] for episode in episodes) == list(range(BOARDS))
    assert (run / "merged" / f"global_step_{STEP}" / "model.safetensors").stat() == merged
    evaluation = json.loads((out / "evaluation.json").read_text())
    assert [start["status"] for start in evaluation["starts"]] == ["interrupted", "finished"]
    successes = sum(episode["success"] for episode in episodes)
    assert evaluation["summary"]["success"]["rate"] == successes / BOARDS
    return episodes


def serve(launch: Callable[..., Process], model: Path) -> tuple[Process, str]:
    """A vLLM server on loopback, once it answers; and its address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    shipped = OmegaConf.load(ROOT / "configs" / "platform" / "cpu.yaml")
    engine = shipped.actor_rollout_ref.rollout.engine_kwargs.vllm
    options = [f"--{key.replace('_', '-')}={value}" for key, value in engine.items()]
    options += [f"--model={model}", "--host=127.0.0.1", f"--port={port}", "--dtype=float32", "--enforce-eager"]
    server = launch(model, "-c", SERVE, *options, f"--max-model-len={CONTEXT}", **platform_environment("cpu"))

    def answers() -> bool:
        try:
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            return bool(opener.open(f"http://127.0.0.1:{port}/health", timeout=5).status == 200)
        except OSError:
            return False

    server.wait_until(answers, "answer of the server")
    return server, f"http://127.0.0.1:{port}/v1"
