"""A model folder without weights, and a make-believe server that always says the same."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, Qwen2Config

from actfocus_verl.rollout import ChatCodec
from tests.helpers import engines
from tests.helpers.merging import merger_in_process  # noqa: F401  (a fixture)
from tests.helpers.tokenizer import build_tokenizer

POSITIONS = 4096
LEFT_UP = "<think> go </think> <answer> Left || Up </answer><|im_end|>"


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Configuration and tokenizer, as a server's client needs them; and a file that stands for the weights."""
    folder = tmp_path_factory.mktemp("model")
    build_tokenizer().save_pretrained(folder)
    Qwen2Config(vocab_size=400, max_position_embeddings=POSITIONS).save_pretrained(folder)
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


@pytest.fixture(scope="session")
def codec(model_folder: Path) -> ChatCodec:
    return ChatCodec(AutoTokenizer.from_pretrained(model_folder))


@pytest.fixture(scope="session")
def encode(model_folder: Path) -> Callable[[str], list[int]]:
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    return lambda text: list(tokenizer.encode(text, add_special_tokens=False))


@pytest.fixture(scope="session")
def written_runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs with checkpoints of steps 2, 10 and 11 that verl's engine wrote, `full` and `lora`; 10 was noted last."""
    folder = tmp_path_factory.mktemp("runs")
    model = engines.save_tiny_model(folder / "model", vocab_size=400, max_position_embeddings=POSITIONS)
    runs = {}
    with engines.process_group(folder):
        for name, settings in (("full", {}), ("lora", {"lora_rank": 4, "lora_alpha": 12})):
            engine = engines.build_engine(model, **settings)
            engines.disturb_adapter(engine)
            runs[name] = engines.save_run(folder / name, engine, 2, 10, 11, latest=10)
    return runs


@pytest.fixture
def run(written_runs: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of the `full` run."""
    return Path(shutil.copytree(written_runs["full"], tmp_path / "run"))


@pytest.fixture
def lora_run(written_runs: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of the `lora` run."""
    return Path(shutil.copytree(written_runs["lora"], tmp_path / "run"))


@dataclass
class FakeServer:
    """Answers as a vLLM server does, apart from what a test changes.

    reply: the ids it samples. text: what it says in a chat. troubles: statuses of the next answers; 0 closes the
    connection without one. change: what to do to a completion before it is sent. stop_after: completions after which
    it answers 503 to everything. keys: what requests said of a key.
    """

    reply: list[int]
    text: str = LEFT_UP.removesuffix("<|im_end|>")
    models: list[dict[str, Any]] = field(default_factory=lambda: [{"id": "tiny", "max_model_len": POSITIONS}])
    troubles: list[int] = field(default_factory=list)
    change: Callable[[dict[str, Any]], None] = lambda answer: None
    stop_after: int | None = None
    requests: list[dict[str, Any]] = field(default_factory=list)
    keys: set[str | None] = field(default_factory=set)
    address: str = ""

    def answer(self, path: str, body: dict[str, Any] | None) -> tuple[int, Any]:
        """Status and content. Status 0 stands for a closed connection."""
        if self.troubles:
            return self.troubles.pop(0), {"error": "trouble"}
        if path == "/v1/models":
            return 200, {"data": self.models}
        if path not in ("/v1/completions", "/v1/chat/completions") or body is None:
            return 404, {"detail": "Not Found"}
        if self.stop_after is not None and len(self.requests) >= self.stop_after:
            return 503, {"error": "stopped"}
        self.requests.append(body)
        choice = {"index": 0, "finish_reason": "stop"}
        if "messages" in body:
            choice |= {"message": {"role": "assistant", "content": self.text}}
        else:
            choice |= {"text": "", "token_ids": self.reply[: body["max_tokens"]], "prompt_token_ids": body["prompt"]}
        answer = {"choices": [choice]}
        self.change(answer)
        return 200, answer


@pytest.fixture
def fake_server(encode: Callable[[str], list[int]]) -> Iterator[FakeServer]:
    fake, lock = FakeServer(encode(LEFT_UP)), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._send(None)

        def do_POST(self) -> None:
            self._send(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def _send(self, body: dict[str, Any] | None) -> None:
            with lock:
                fake.keys.add(self.headers["Authorization"])
                status, content = fake.answer(self.path, body)
            if status == 0:
                self.close_connection = True
                return
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("retry-after-ms", "1")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            """Not on the tests' terminal."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    fake.address = f"http://127.0.0.1:{server.server_port}/v1"
    yield fake
    server.shutdown()
    server.server_close()
    thread.join(timeout=5)


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
