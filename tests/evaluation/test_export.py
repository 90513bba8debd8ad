"""The command that hands a checkpoint on: what it writes, what it refuses, and what is left when it ends early."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from transformers import AutoModelForCausalLM, AutoTokenizer

from actfocus_verl import export as command
from actfocus_verl.evaluation import checkpoints
from actfocus_verl.evaluation.sampling import EvaluationError
from actfocus_verl.export import main
from actfocus_verl.rollout import ChatCodec

pytestmark = pytest.mark.usefixtures("merger_in_process")

FILES = {
    *("config.json", "generation_config.json", "model.safetensors", "export.json"),
    *("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"),
}


def refusal(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line that a mistake in the command is answered with."""
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize(("dtype", "expected"), [("bf16", torch.bfloat16), ("fp32", torch.float32)])
def test_an_export(lora_run: Path, tmp_path: Path, dtype: str, expected: torch.dtype) -> None:
    out = tmp_path / "new" / "model"
    assert main([f"run={lora_run}", f"out={out}", f"dtype={dtype}"]) == 0
    assert {path.name for path in out.iterdir()} == FILES
    assert [path.name for path in out.parent.iterdir()] == ["model"]
    assert len({path.stat().st_mode for path in out.iterdir()}) == 1  # who may read one may read all
    assert AutoModelForCausalLM.from_pretrained(out).dtype == expected
    assert ChatCodec(AutoTokenizer.from_pretrained(out)).end_of_turn_id == 2
    record = json.loads((out / "export.json").read_text())
    assert (record["run"], record["step"], record["dtype"]) == (str(lora_run), 10, dtype)
    assert not (lora_run / "merged").exists()


def test_an_earlier_export_is_replaced(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "model"
    out.mkdir()
    assert main([f"run={run}", f"out={out}", "step=2"]) == 0
    left = tmp_path / ".model.99.unfinished"  # of one that was killed
    left.mkdir()
    assert main([f"run={run}", f"out={out}", "step=latest"]) == 0
    assert json.loads((out / "export.json").read_text())["step"] == 10
    assert not left.exists()


def test_a_folder_with_other_files_is_left_alone(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "model"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    message = f"error: out='{out}': holds other files than an export's (notes.txt). Name a new folder"
    assert refusal(capsys, f"run={run}", f"out={out}") == message
    (out / "notes.txt").unlink()
    assert main([f"run={run}", f"out={out}"]) == 0
    capsys.readouterr()
    (out / "notes.txt").write_text("mine")
    assert refusal(capsys, f"run={run}", f"out={out}") == message
    assert {path.name for path in out.iterdir()} == {*FILES, "notes.txt"}
    assert "is a file" in refusal(capsys, f"run={run}", f"out={out / 'notes.txt'}")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["step=5"], "step=5: .* has no checkpoint of it. Use one of: 2, 10, 11"),
        (["step=last"], "step='last': must be an integer >= 1. Write step=10, or step=latest"),
        (["step=0"], "step='0': "),
        (["dtype=fp16"], "dtype='fp16': must be one of: bf16, fp32."),
        (["steps=5"], "steps=5: is not a known key. Known: run, out, step, dtype"),
        (["run=/no/such/folder"], "run='/no/such/folder': is not a folder"),
        (["run=null"], "run=None: is required. Add run=<path>"),
        (["out=null"], "out=None: is required"),
        (["--force"], "argument='--force': must be key=value"),
        (["out=/proc/model"], "out='/proc/model': cannot be created"),
    ],
)
def test_mistakes(
    run: Path, tmp_path: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refusal(capsys, f"run={run}", f"out={tmp_path / 'model'}", *words)
    assert re.match(f"error: {message}", line), line
    assert not (tmp_path / "model").exists()


def test_a_run_without_checkpoints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = refusal(capsys, f"run={tmp_path}", f"out={tmp_path / 'model'}")
    assert line.startswith(f"error: run='{tmp_path}': the run has no checkpoint. Train until a checkpoint is saved")


def test_two_exports_to_one_folder(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with FileLock(tmp_path / ".model.lock"):
        assert "is being written by another export" in refusal(capsys, f"run={run}", f"out={tmp_path / 'model'}")


@pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt(), 130), (EvaluationError("disk full"), 1)])
def test_one_that_ends_early_leaves_the_earlier_one(
    run: Path, tmp_path: Path, error: BaseException, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "model"
    assert main([f"run={run}", f"out={out}", "step=2"]) == 0
    whole = checkpoints.write_model

    def half(checkpoint: checkpoints.Checkpoint, target: Path, *rest: object) -> None:
        (target / "config.json").write_text("{")
        raise error

    monkeypatch.setattr(command, "write_model", half)
    assert main([f"run={run}", f"out={out}"]) == status
    assert {path.name for path in out.iterdir()} == FILES
    assert {path.name for path in tmp_path.iterdir()} == {"run", "model"}
    monkeypatch.setattr(command, "write_model", whole)
    assert main([f"run={run}", f"out={out}"]) == 0
    assert json.loads((out / "export.json").read_text())["step"] == 10
