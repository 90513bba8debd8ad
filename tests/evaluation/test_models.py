"""Folders, Hugging Face ids and runs; and a checkpoint that is merged once, or not at all."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import Qwen2Config
from verl.model_merger.base_model_merger import ModelMergerConfig
from verl.model_merger.fsdp_model_merger import FSDPModelMerger

from actfocus_verl.errors import ConfigurationError
from actfocus_verl.evaluation.checkpoints import Checkpoint, find_checkpoint, merge
from actfocus_verl.evaluation.models import find_model, read_model, weights_digest
from actfocus_verl.evaluation.sampling import EvaluationError
from tests.evaluation.conftest import POSITIONS
from tests.helpers.tokenizer import THINKING_TEMPLATE, build_tokenizer
from tests.packaging.conftest import write_program

MERGER = """#!/usr/bin/env bash
# Stands for a Python that runs the merger.
set -euo pipefail
echo "$VERL_PLATFORM $*" >>"$FAKE_CALLS"
[[ "$*" == "-m actfocus_verl.integration.merger "*" bf16" ]]
target="$4"
echo half >"$target/config.json"
if [[ -n "${FAKE_FAILURE:-}" ]]; then
    echo "first line"
    echo "the disk is full" >&2
    exit 3
fi
echo weights >"$target/model.safetensors"
"""


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the fake merger writes how it was called."""
    write_program(tmp_path / "python", MERGER)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("FAKE_CALLS", str(tmp_path / "calls"))
    return tmp_path / "calls"


def test_the_latest_checkpoint_is_the_last_complete_one(run: Path) -> None:
    assert find_checkpoint(run, None).step == 10
    assert find_checkpoint(run, 2).step == 2
    (run / "checkpoints" / "latest_checkpointed_iteration.txt").unlink()
    assert find_checkpoint(run, None).step == 11
    with pytest.raises(ConfigurationError, match=r"step=5: .* has no checkpoint of it. Use one of: 2, 10, 11"):
        find_checkpoint(run, 5)


def test_a_run_without_checkpoints(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").touch()
    (tmp_path / "checkpoints" / "global_step_3").mkdir(parents=True)
    with pytest.raises(ConfigurationError, match=r"the run has no checkpoint. Train until a checkpoint is saved"):
        find_model(str(tmp_path), None)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("harm", "problem"),
    [
        (lambda actor: (actor / "fsdp_config.json").unlink(), "no fsdp_config.json"),
        (lambda actor: cut_short(actor / "model_world_size_1_rank_0.pt"), "model_world_size_1_rank_0.pt is truncated"),
        (lambda actor: (actor / "model_world_size_1_rank_0.pt").unlink(), "no model_world_size_1_rank_0.pt"),
        (
            lambda actor: (actor / "fsdp_config.json").write_text('{"FSDP_version": 2, "world_size": 2}'),
            "no model_world_size_2_rank_0.pt",
        ),
        (lambda actor: (actor / "huggingface" / "config.json").unlink(), "no huggingface/config.json"),
    ],
)
def test_a_step_that_is_half_written(run: Path, harm: Callable[[Path], None], problem: str) -> None:
    harm(Checkpoint(run, 11).actor)
    message = rf"step=11: its checkpoint is incomplete \({problem}\). Use one of: 2, 10\Z"
    with pytest.raises(ConfigurationError, match=message):
        find_checkpoint(run, 11)
    (run / "checkpoints" / "latest_checkpointed_iteration.txt").unlink()
    assert find_checkpoint(run, None).step == 10


def test_a_run_that_was_killed_while_it_wrote_its_first_checkpoint(run: Path) -> None:
    for step in (2, 10, 11):
        (Checkpoint(run, step).actor / "fsdp_config.json").unlink()
    message = r"run='.*': the run has no checkpoint, only an incomplete one of step 2 \(no fsdp_config.json\)\. "
    with pytest.raises(ConfigurationError, match=message):
        find_checkpoint(run, None, "run")


def test_a_checkpoint_is_merged_once(run: Path, calls: Path) -> None:
    checkpoint = Checkpoint(run, 10)
    assert merge(checkpoint, {"VERL_PLATFORM": "cpu"}) == run / "merged" / "global_step_10"
    assert merge(checkpoint, {"VERL_PLATFORM": "cpu"}).joinpath("model.safetensors").read_text() == "weights\n"
    (line,) = calls.read_text().splitlines()
    assert line.startswith(f"cpu -m actfocus_verl.integration.merger {run}/checkpoints/global_step_10/actor ")
    assert sorted(path.name for path in (run / "merged").iterdir()) == [".lock", "global_step_10"]


def test_a_merger_that_fails_leaves_no_model(run: Path, calls: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_FAILURE", "1")
    with pytest.raises(EvaluationError, match=r"exit status 3\): first line \| the disk is full"):
        merge(Checkpoint(run, 2), {"VERL_PLATFORM": "cpu"})
    assert not (run / "merged" / "global_step_2").exists()
    monkeypatch.delenv("FAKE_FAILURE")
    target = merge(Checkpoint(run, 2), {"VERL_PLATFORM": "cpu"})
    assert sorted(path.name for path in target.iterdir()) == [".merged_from", "config.json", "model.safetensors"]


@pytest.mark.parametrize("hours", [0, 5, -5])
def test_a_checkpoint_that_was_written_again_is_merged_again(run: Path, calls: Path, hours: int) -> None:
    """Also where the clock went back in between, so that it seems to be older than what was merged before."""
    checkpoint = Checkpoint(run, 10)
    merge(checkpoint, {"VERL_PLATFORM": "cpu"})
    later = checkpoint.merged.stat().st_mtime + 1 + hours * 3600
    os.utime(checkpoint.actor / "fsdp_config.json", (later, later))
    merge(checkpoint, {"VERL_PLATFORM": "cpu"})
    assert len(calls.read_text().splitlines()) == 2
    assert sorted(path.name for path in (run / "merged").iterdir()) == [".lock", "global_step_10"]


@pytest.mark.usefixtures("merger_in_process")
def test_a_lora_run_is_merged_with_its_adapter(lora_run: Path) -> None:
    """Also where verl's merger left the base model, with the adapter beside it."""
    checkpoint = Checkpoint(lora_run, 10)
    paths = {"local_dir": str(checkpoint.actor), "hf_model_config_path": str(checkpoint.tokenizer)}
    arguments = ModelMergerConfig("merge", "fsdp", target_dir=str(checkpoint.merged), **paths)
    FSDPModelMerger(arguments).merge_and_save()
    base = load_file(checkpoint.merged / "model.safetensors")

    folded = load_file(merge(checkpoint, {}) / "model.safetensors")
    changed = {name for name, weight in folded.items() if not torch.equal(weight, base[name])}
    assert changed == {name for name in base if "_proj.weight" in name}
    assert merge(checkpoint, {}) == checkpoint.merged
    assert not (checkpoint.merged / "lora_adapter").exists()


def test_an_adapter_of_unknown_kind_is_refused(lora_run: Path) -> None:
    """A checkpoint of stock verl that went on from somebody's adapter: rsLoRA and DoRA look alike there."""
    actor = Checkpoint(lora_run, 10).actor
    (actor / "adapter_config.json").unlink()
    (lora_run / "config.yaml").write_text("actor_rollout_ref: {model: {lora_adapter_path: some/adapter}}")
    message = rf"lora_adapter_path='some/adapter': .*\. Copy its adapter_config.json to {actor}\Z"
    with pytest.raises(ConfigurationError, match=message):
        merge(Checkpoint(lora_run, 10), {})


def test_what_the_merger_refuses_is_one_line(lora_run: Path, merger_in_process: None) -> None:
    actor = Checkpoint(lora_run, 10).actor
    for name in ("adapter_config.json", "lora_train_meta.json"):
        (actor / name).unlink()
    with pytest.raises(EvaluationError, match=r"\Acheckpoint='.*': has a LoRA adapter of unknown rank .*\Z"):
        merge(Checkpoint(lora_run, 10), {})
    assert list((lora_run / "merged").iterdir()) == [lora_run / "merged" / ".lock"]


def test_a_run_is_merged_for_vllm_and_not_for_a_server(run: Path, calls: Path) -> None:
    named = find_model(str(run), None)
    assert (named.run, named.step, named.name) == (run, 10, str(run))
    assert named.without_weights() == str(run / "checkpoints" / "global_step_10" / "actor" / "huggingface")
    assert not calls.exists()
    assert named.with_weights({"VERL_PLATFORM": "cpu"}) == str(run / "merged" / "global_step_10")


def test_folders_and_ids(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(model_folder.parent)
    named = find_model(model_folder.name, None)
    assert (named.name, named.is_folder, named.step) == (str(model_folder), True, None)
    assert named.with_weights({}) == named.without_weights() == str(model_folder)
    hub = find_model("Qwen/Qwen2.5-0.5B-Instruct", None)
    assert (hub.name, hub.is_folder, hub.with_weights({})) == (hub.name, False, "Qwen/Qwen2.5-0.5B-Instruct")


@pytest.mark.parametrize(
    ("name", "step", "message"),
    [
        ("/no/such/folder", None, "model='/no/such/folder': is not a folder. Name a folder, or a Hugging Face id"),
        ("outputs/a/b", None, "is not a folder"),
        ("", None, "model='': "),
        ("Qwen/Qwen2.5-0.5B-Instruct", 3, "step=3: the model is not a run with checkpoints"),
        (".", None, r"holds neither a model \(config.json\) nor a run"),
    ],
)
def test_names_that_are_nothing(
    name: str, step: int | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match=message):
        find_model(name, step)


def test_what_is_known_before_a_model_is_loaded(model_folder: Path) -> None:
    model = read_model(str(model_folder))
    assert (model.positions, model.revision) == (POSITIONS, None)
    assert model.codec.is_closed([model.codec.end_of_turn_id])


def test_what_a_chat_template_cannot_do_is_said_in_this_commands_words(tmp_path: Path) -> None:
    Qwen2Config(vocab_size=400).save_pretrained(tmp_path)
    build_tokenizer(template=THINKING_TEMPLATE).save_pretrained(tmp_path)
    with pytest.raises(ConfigurationError, match="opens <think> itself") as caught:
        read_model(str(tmp_path))
    assert str(caught.value).startswith(f"model={str(tmp_path)!r}: ")
    assert caught.value.remedy.startswith("Set template.enable_thinking=false, or another chat template: chat_templ")
    codec = read_model(str(tmp_path), {"enable_thinking": False}).codec
    assert codec.offsets(codec.continuation_ids("Go"))[0].endswith("</think>\n\n")
    with pytest.raises(ConfigurationError, match=r"^template.thinking=False: .* reads no such name"):
        read_model(str(tmp_path), {"thinking": False})


def test_an_unreadable_model_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigurationError, match="its configuration and tokenizer cannot be read") as caught:
        read_model(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_the_digest_is_that_of_the_weights(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    first = weights_digest(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    os.utime(tmp_path / "model.safetensors", (1, 1))
    assert weights_digest(str(tmp_path)) == first
    (tmp_path / "model.safetensors").write_bytes(b"Weights")
    assert weights_digest(str(tmp_path)) != first
