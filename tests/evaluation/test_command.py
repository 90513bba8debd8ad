"""The whole command against a make-believe server: what it writes, how it goes on, how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from transformers import Qwen2Config

from actfocus_verl.environments import make_world
from actfocus_verl.evaluate import main
from actfocus_verl.evaluation.arguments import KEYS
from actfocus_verl.evaluation.engine import engine_arguments, platform_environment
from actfocus_verl.platforms.packed_attention import PACKED_SDPA
from tests.evaluation.conftest import FakeServer
from tests.helpers.tokenizer import QWEN_TEMPLATE, build_tokenizer

ROOT = Path(__file__).resolve().parents[2]
BOARDS = 8


@pytest.fixture
def command(model_folder: Path, fake_server: FakeServer, tmp_path: Path) -> Callable[..., list[str]]:
    """The command line of an evaluation of BOARDS boards without slips; words are added to it."""

    def words(*more: str) -> list[str]:
        fixed = [f"model={model_folder}", f"out={tmp_path / 'out'}", f"server={fake_server.address}"]
        return [*fixed, "env=frozen_lake", f"episodes={BOARDS}", "success_rate=1.0", *more]

    return words


def successes_by_hand() -> list[bool]:
    """Whether going left and up by turns, five times each, reaches the goal of each board."""
    found = []
    for board in range(BOARDS):
        world = make_world("frozen_lake", split="evaluation", index=board, success_rate=1.0)
        for move in 5 * ("Left", "Up"):
            if not world.done:
                world.step(world.parse_action(move))
        found.append(world.success)
    return found


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "episodes.jsonl").read_text().splitlines()]


def test_an_evaluation(command: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command("repeats=2", f"episodes={2 * BOARDS}", "texts=true")) == 0
    expected = successes_by_hand()
    assert any(expected)
    assert not all(expected)
    episodes = lines(tmp_path / "out")
    by_key = {(line["board"], line["repeat"]): line for line in episodes}
    assert len(by_key) == len(episodes) == 2 * BOARDS
    for (board, _), line in by_key.items():
        assert line["success"] is expected[board]
        assert line["return"] == float(expected[board])
        assert len(line["texts"]) == line["turns"]
    evaluation = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert evaluation["status"] == "finished"
    assert evaluation["settings"]["world"] == {"success_rate": 1.0}
    assert evaluation["settings"]["max_context_tokens"] == 3600
    assert evaluation["summary"]["success"]["rate"] == sum(expected) / BOARDS
    shown = capsys.readouterr()
    assert f"success rate {sum(expected) / BOARDS:.3f}" in " ".join(shown.out.split())
    assert f"{2 * BOARDS} of {2 * BOARDS} episodes" in shown.err


def test_it_goes_on_after_a_failure(command: Callable[..., list[str]], fake_server: FakeServer, tmp_path: Path) -> None:
    fake_server.stop_after = 9
    assert main(command("concurrency=1")) == 1
    out = tmp_path / "out"
    first = (out / "episodes.jsonl").read_bytes()
    done = [line["board"] for line in lines(out)]
    assert done == list(range(len(done)))
    assert 0 < len(done) < BOARDS
    evaluation = json.loads((out / "evaluation.json").read_text())
    assert evaluation["status"].startswith("failed: http://127.0.0.1")
    assert evaluation["summary"] is None

    fake_server.stop_after = None
    fake_server.requests.clear()
    assert main(command()) == 0
    assert (out / "episodes.jsonl").read_bytes().startswith(first)
    assert sorted(line["board"] for line in lines(out)) == list(range(BOARDS))
    assert [line["success"] for line in sorted(lines(out), key=lambda line: line["board"])] == successes_by_hand()
    assert len(fake_server.requests) == sum(line["turns"] for line in lines(out)[len(done) :])


def test_a_chat_gives_the_same_episodes(
    command: Callable[..., list[str]], fake_server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(command()) == 0
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    there = tmp_path / "chat"
    fake_server.requests.clear()
    assert main(command(f"out={there}", "server_api=chat", "request.seed=null", "request.top_k=0")) == 0
    by_board = {line["board"]: line for line in lines(there)}
    assert by_board == {line["board"]: line for line in lines(tmp_path / "out")}
    for body in fake_server.requests:
        assert [message["role"] for message in body["messages"][:2]] == ["system", "user"]
        assert len(body["messages"]) % 2 == 0
        assert ("seed" in body, body["top_k"], "prompt" in body) == (False, 0, False)
    settings = json.loads((there / "evaluation.json").read_text())["settings"]
    assert (settings["server_api"], settings["request"]) == ("chat", {"seed": None, "top_k": 0})
    assert "secret" not in (there / "evaluation.json").read_text()


@pytest.mark.parametrize("api", ["completions", "chat"])
def test_template_options_reach_the_policy(fake_server: FakeServer, tmp_path: Path, api: str) -> None:
    """As ids through the template at hand; in a chat the template is the server's, which is told them."""
    model = tmp_path / "model"
    tokenizer = build_tokenizer(template=QWEN_TEMPLATE + "{% if effort is defined %}{{ effort }}{% endif %}")
    tokenizer.save_pretrained(model)
    Qwen2Config(vocab_size=400, max_position_embeddings=4096).save_pretrained(model)
    words = [f"model={model}", f"out={tmp_path / 'out'}", f"server={fake_server.address}", "env=frozen_lake"]
    assert main([*words, "episodes=2", "template.effort=LOW", f"server_api={api}"]) == 0
    for body in fake_server.requests:
        if api == "chat":
            assert body["chat_template_kwargs"] == {"effort": "LOW"}
        else:
            assert tokenizer.decode(body["prompt"]).endswith("assistant\nLOW")
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text())["settings"]["template"] == {"effort": "LOW"}
    assert main([*words, "episodes=2", f"server_api={api}"]) == 2  # another template is another evaluation


def test_a_finished_evaluation_is_shown_again_without_a_server(
    command: Callable[..., list[str]], fake_server: FakeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command()) == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    first = capsys.readouterr().out
    fake_server.troubles = [503] * 1000
    assert main(command()) == 0
    assert capsys.readouterr().out == first
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("temperature=0", "error: temperature=0.0: {out} holds an evaluation with temperature=0.5."),
        ("max_turns=3", "error: world={{'success_rate': 1.0, 'max_turns': 3}}: {out} holds"),
        ("max_context_tokens=5000", "error: max_context_tokens=5000: the model's context is 4096 tokens."),
    ],
)
def test_mistakes_end_with_one_line(
    command: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str], word: str, message: str
) -> None:
    assert main(command()) == 0
    capsys.readouterr()
    assert main(command(word)) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith(message.format(out=tmp_path / "out"))
    assert (shown.out, shown.err.count("\n")) == ("", 1)


def test_help_names_every_key(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert [key for key in KEYS if f"\n{key}" not in text] == []
    assert main([]) == 2


def test_a_run_lends_its_world_and_its_tokenizer(fake_server: FakeServer, run: Path, tmp_path: Path) -> None:
    """Also one of before the time when checkpoints stopped naming our attention."""
    written = run / "checkpoints" / "global_step_10" / "actor" / "huggingface" / "config.json"
    written.write_text(json.dumps(json.loads(written.read_text()) | {"attn_implementation": PACKED_SDPA}))
    env = {"name": "frozen_lake", "preset": "ragen", "seed": 0, "max_turns": 2, "size": None}
    lengths = {"max_prompt_length": 1000, "max_response_length": 2000}
    OmegaConf.save(OmegaConf.create({"env": env, "data": lengths}), run / "config.yaml")
    words = [f"model={run}", f"out={tmp_path / 'out'}", f"server={fake_server.address}", "episodes=3"]
    assert main(words) == 0
    settings = json.loads((tmp_path / "out" / "evaluation.json").read_text())["settings"]
    assert (settings["model"], settings["step"], settings["preset"]) == (str(run), 10, "ragen")
    assert (settings["world"], settings["max_context_tokens"]) == ({"max_turns": 2}, 3000)
    assert settings["max_response_tokens"] == 2000
    [start] = json.loads((tmp_path / "out" / "evaluation.json").read_text())["starts"]
    # what the preset says is written down, too: another version may say something else
    assert (start["world"]["luck"], start["world"]["max_turns"], start["world"]["size"]) == ("board", 2, 4)
    assert all(line["turns"] <= 2 for line in lines(tmp_path / "out"))
    assert not (run / "merged").exists()


@pytest.mark.e2e
def test_ctrl_c_keeps_what_is_done(command: Callable[..., list[str]], fake_server: FakeServer, tmp_path: Path) -> None:
    fake_server.change = lambda _: time.sleep(0.05)
    out = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-m", "actfocus_verl.evaluate", *command("concurrency=1")],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"NO_PROXY": "127.0.0.1"},
    )
    deadline = time.monotonic() + 120
    while not (out / "episodes.jsonl").exists() or len(lines(out)) < 2:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    error = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert error.splitlines()[-1] == "interrupted; run the same command again to resume"
    kept = lines(out)
    assert 2 <= len(kept) < BOARDS
    assert json.loads((out / "evaluation.json").read_text())["status"] == "interrupted"
    fake_server.change = lambda _: None
    assert main(command()) == 0
    assert lines(out)[: len(kept)] == kept
    assert len(lines(out)) == BOARDS


def test_vllm_is_set_up_as_the_platforms_say() -> None:
    shipped = OmegaConf.load(ROOT / "configs" / "platform" / "cpu.yaml")
    arguments = engine_arguments("cpu", 5000, {"max_num_seqs": 3})
    assert arguments["dtype"] == "float32"
    assert arguments["block_size"] == shipped.actor_rollout_ref.rollout.engine_kwargs.vllm.block_size
    assert (arguments["max_model_len"], arguments["max_num_batched_tokens"]) == (5000, 5000)
    assert (arguments["enable_chunked_prefill"], arguments["max_num_seqs"]) == (False, 3)
    gpu = engine_arguments("gpu", 3600, {"tensor_parallel_size": 4})
    assert (gpu["dtype"], gpu["tensor_parallel_size"], "enforce_eager" in gpu) == ("bfloat16", 4, False)
    assert platform_environment("cpu")["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
