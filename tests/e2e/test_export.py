"""What a CPU run saved, in the hands of others: verl's merger, plain transformers; and a LoRA run's, with its adapter.

That vLLM serves an export, with the tokens that `evaluate` samples from the run, is in test_evaluate.py.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.e2e.runs import ROOT, Run, _environment

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

READ = """
import sys
from transformers import AutoModelForCausalLM, AutoTokenizer
model, tokenizer = (each.from_pretrained(sys.argv[1]) for each in (AutoModelForCausalLM, AutoTokenizer))
turn = [{"role": "user", "content": "Turn 1"}]
inputs = tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_tensors="pt")
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=8, do_sample=False)[0]))
assert "verl" not in sys.modules and "actfocus_verl" not in sys.modules
"""


def run_python(*words: str) -> str:
    """What `python <words>` prints, in an environment without anything of a run's."""
    environment = _environment() | {"OMP_NUM_THREADS": "1"}  # a tiny model gains nothing by threads
    found = subprocess.run(
        [sys.executable, *words], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr[-4000:]
    return found.stdout


def export(run: Path, out: Path, *words: str) -> Path:
    run_python("-m", "actfocus_verl.export", f"run={run}", f"out={out}", *words)
    return out


def test_others_read_what_a_run_saved(real_run: Path, tmp_path: Path) -> None:
    """verl's own merger runs in a process that only verl leads to us; transformers' in one that nothing does."""
    actor = real_run / "checkpoints" / "global_step_2" / "actor"
    words = ("merge", "--backend", "fsdp", "--local_dir", str(actor), "--target_dir", str(tmp_path / "verls"))
    run_python("-m", "verl.model_merger", *words)
    ours, theirs = export(real_run, tmp_path / "ours"), tmp_path / "verls"
    weights = load_file(ours / "model.safetensors")
    for name, weight in load_file(theirs / "model.safetensors").items():
        assert torch.equal(weights.pop(name), weight)
    assert not weights
    assert run_python("-c", READ, str(ours)) == run_python("-c", READ, str(theirs))


def test_no_folder_of_a_run_names_our_attention(real_run: Path) -> None:
    """The run's own config.yaml does: it is the configuration of a CPU run."""
    files = [path for path in (real_run / "checkpoints").rglob("*.json*") if "packed_sdpa" in path.read_text()]
    assert files == []


@pytest.fixture(scope="module")
def real_lora_run(tiny_policy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a LoRA run of two steps, each with a checkpoint, whose adapter has learnt fast."""
    lora = ("actor_rollout_ref.model.lora_rank=8", "actor_rollout_ref.model.lora_alpha=24")
    run = Run(
        tmp_path_factory.mktemp("lora") / "run",
        *(*lora, "actor_rollout_ref.actor.optim.lr=1e-2", "trainer.save_freq=1", "env.max_turn_tokens=96"),
    )
    try:
        assert run.wait() == 0, run.terminal[-6000:]
    finally:
        run.close()
    return run.folder


@pytest.mark.nightly
def test_a_lora_runs_checkpoint_is_the_policy_that_sampled(
    real_lora_run: Path, tiny_policy: Path, tmp_path: Path
) -> None:
    """The second step's episodes were sampled by the first one's checkpoint: it gives them the same log-probs."""
    exact = export(real_lora_run, tmp_path / "exact", "step=1", "dtype=fp32")
    gaps = {
        "exported": log_prob_gap(real_lora_run, tmp_path / "1", f"model={exact}"),
        "merged": log_prob_gap(real_lora_run, tmp_path / "2", "checkpoint=1"),  # in bfloat16
        "base": log_prob_gap(real_lora_run, tmp_path / "3", f"model={tiny_policy}"),
    }
    assert gaps["exported"] < 1e-4, gaps
    assert gaps["merged"] < gaps["base"] / 3, gaps
    assert gaps["base"] > 0.01, gaps


def log_prob_gap(run: Path, out: Path, model: str) -> float:
    """Mean distance in nats between a model's log-probs and those the run recorded at its second step."""
    run_python("-m", "actfocus_verl.diagnose", f"run={run}", f"out={out}", "step=2", "tokens=3", model)
    found: dict[str, Any] = json.loads((out / "diagnosis.json").read_text())
    return float(found["gradient_norms"]["log_prob_gap"])
