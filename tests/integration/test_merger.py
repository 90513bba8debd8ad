"""What verl's own checkpoint manager wrote, merged: any reader loads it, and it is the model that was trained."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForTokenClassification, AutoTokenizer
from verl.model_merger.base_model_merger import ModelMergerConfig
from verl.model_merger.fsdp_model_merger import FSDPModelMerger

from actfocus_verl.integration.merger import main
from actfocus_verl.platforms.packed_attention import PACKED_SDPA
from tests.helpers.engines import build_engine, disturb_adapter, infer, make_rows, save_tiny_model, to_batch

ROWS = make_rows(4)

Save = Callable[..., tuple[Any, Path]]


@pytest.fixture
def save(group: None, model_folder: Path, tmp_path: Path) -> Save:
    """An engine and the folder of its checkpoint; words are fields of verl's model configuration."""

    def make(model: Path = model_folder, **settings: Any) -> tuple[Any, Path]:
        engine = build_engine(model, **settings)
        disturb_adapter(engine)
        actor = tmp_path / "run" / "checkpoints" / "global_step_2" / "actor"
        engine.save_checkpoint(str(actor), global_step=2)
        return engine, actor

    return make


def log_probs(engine: Any) -> torch.Tensor:
    """Of every token of ROWS but the first ones, as the engine that trains has them."""
    return torch.cat([row[:-1] for row in infer(engine, to_batch(ROWS))["log_probs"].unbind()])


def log_probs_of(folder: Path) -> torch.Tensor:
    """The same of a folder, by plain transformers, one sequence at a time."""
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    found = []
    with torch.no_grad():
        for row in ROWS:
            ids = row["input_ids"]
            log_probs = model(input_ids=ids[None]).logits[0, :-1].float().log_softmax(dim=-1)
            found.append(log_probs.gather(1, ids[1:, None]).squeeze(1))
    return torch.cat(found)


def merged(actor: Path, dtype: str = "fp32") -> Path:
    target = actor.parents[2] / dtype
    assert main([str(actor), str(target), dtype]) == 0
    return target


def refusal(actor: Path, capsys: pytest.CaptureFixture[str]) -> str:
    assert main([str(actor), str(actor.parent / "refused"), "bf16"]) == 2
    return capsys.readouterr().out.splitlines()[-1]


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_the_folder_is_the_trained_model(save: Save, tmp_path: Path, tied: bool) -> None:
    engine, actor = save(save_tiny_model(tmp_path / "model", tie_word_embeddings=tied))
    folder = merged(actor)
    torch.testing.assert_close(log_probs_of(folder), log_probs(engine), rtol=1e-5, atol=1e-5)
    weights = load_file(folder / "model.safetensors")
    assert ("lm_head.weight" in weights) is not tied
    assert {weight.dtype for weight in weights.values()} == {torch.float32}
    written = json.loads((folder / "config.json").read_text())
    assert (written["dtype"], written["tie_word_embeddings"]) == ("float32", tied)


def test_in_bfloat16_it_is_what_verls_own_merger_writes(save: Save, tmp_path: Path) -> None:
    _, actor = save()
    ours, theirs = merged(actor, "bf16"), tmp_path / "verl"
    paths = {"local_dir": str(actor), "target_dir": str(theirs), "hf_model_config_path": str(actor / "huggingface")}
    FSDPModelMerger(ModelMergerConfig(operation="merge", backend="fsdp", **paths)).merge_and_save()
    weights = load_file(ours / "model.safetensors")
    for name, weight in load_file(theirs / "model.safetensors").items():
        assert weight.dtype == torch.bfloat16
        assert torch.equal(weights.pop(name), weight)
    assert not weights
    assert json.loads((ours / "config.json").read_text()) == json.loads((theirs / "config.json").read_text())
    for name in ("chat_template.jinja", "generation_config.json"):
        assert (ours / name).read_bytes() == (actor / "huggingface" / name).read_bytes()
    ours_read, theirs_read = (AutoTokenizer.from_pretrained(folder) for folder in (ours, theirs))
    assert (ours_read.get_vocab(), ours_read.chat_template) == (theirs_read.get_vocab(), theirs_read.chat_template)


@pytest.mark.parametrize("attention", [PACKED_SDPA, "flash_attention_2"])
def test_a_configuration_that_names_an_attention_is_read_and_not_handed_on(save: Save, attention: str) -> None:
    """As runs wrote it once; whoever merges may have none of it."""
    engine, actor = save()
    path = actor / "huggingface" / "config.json"
    assert PACKED_SDPA not in path.read_text()
    path.write_text(json.dumps(json.loads(path.read_text()) | {"attn_implementation": attention}))
    folder = merged(actor)
    assert "attn" not in (folder / "config.json").read_text()
    torch.testing.assert_close(log_probs_of(folder), log_probs(engine), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("model_type", ["language_model", "value_model"])
def test_no_checkpoint_names_our_attention(group: None, model_folder: Path, tmp_path: Path, model_type: str) -> None:
    engine = build_engine(model_folder, model_type=model_type)
    assert engine.module.config._attn_implementation == PACKED_SDPA
    engine.save_checkpoint(str(tmp_path), global_step=1)
    assert not [path for path in tmp_path.rglob("*.json*") if PACKED_SDPA in path.read_text()]


def test_a_critics_checkpoint_says_that_it_is_one(group: None, model_folder: Path, tmp_path: Path) -> None:
    """Taken for a policy it would speak, with the head of the policy it was made from."""
    actor = tmp_path / "run" / "global_step_1" / "critic"
    engine = build_engine(model_folder, model_type="value_model")
    engine.save_checkpoint(str(actor), global_step=1)
    read = AutoModelForTokenClassification.from_pretrained(merged(actor)).state_dict()
    for name, weight in engine.module.state_dict().items():
        assert torch.equal(read[name], weight.full_tensor())


# Adapters


@pytest.mark.parametrize("noted_by_us", [True, False], ids=["ours", "verls"])
@pytest.mark.parametrize(
    "lora",
    [
        {"lora_rank": 4, "lora_alpha": 12},
        {"lora_rank": 2, "lora_alpha": 2, "target_modules": ["q_proj", "down_proj"]},
        {"lora_rank": 4, "lora_alpha": 8, "target_modules": ["v_proj", "lm_head"]},
        {"lora_rank": 4, "lora_alpha": 8, "target_modules": ["embed_tokens", "o_proj"]},
    ],
    ids=["all-linear", "two", "head", "embedding"],
)
def test_an_adapter_is_folded_in(save: Save, lora: dict[str, Any], noted_by_us: bool) -> None:
    """noted_by_us: False is a checkpoint that stock verl wrote."""
    engine, actor = save(**lora)
    trained = log_probs(engine)
    with engine.disable_adapter():
        assert (log_probs(engine) - trained).abs().max() > 0.1
    if not noted_by_us:
        (actor / "adapter_config.json").unlink()
    folder = merged(actor)
    torch.testing.assert_close(log_probs_of(folder), trained, rtol=1e-4, atol=1e-4)
    assert not [path for path in folder.iterdir() if "adapter" in path.name]


def test_an_adapter_is_rounded_once(save: Save) -> None:
    _, actor = save(lora_rank=4, lora_alpha=12)
    exact, rounded = (load_file(merged(actor, dtype) / "model.safetensors") for dtype in ("fp32", "bf16"))
    for name, weight in rounded.items():
        assert torch.equal(weight, exact[name].bfloat16())


@pytest.fixture
def adapter(model_folder: Path, tmp_path: Path) -> Callable[..., Path]:
    """An adapter's folder to go on from, of some kind."""

    def make(**settings: Any) -> Path:
        config = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=12, target_modules=["q_proj", "up_proj"], **settings)
        get_peft_model(AutoModelForCausalLM.from_pretrained(model_folder), config).save_pretrained(tmp_path / "adapter")
        return tmp_path / "adapter"

    return make


@pytest.mark.parametrize(
    "kind",
    [{"use_rslora": True}, {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"q_proj": 10}}, {"use_dora": True}],
    ids=["rslora", "patterns", "dora"],
)
def test_a_given_adapter_is_folded_in_as_its_kind_wants(
    save: Save, adapter: Callable[..., Path], kind: dict[str, Any]
) -> None:
    engine, actor = save(lora_rank=4, lora_adapter_path=str(adapter(**kind)))
    torch.testing.assert_close(log_probs_of(merged(actor)), log_probs(engine), rtol=1e-4, atol=1e-4)


def test_what_cannot_be_folded_in_is_refused_in_one_line(
    save: Save, adapter: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    _, actor = save(lora_rank=4, lora_adapter_path=str(adapter(use_dora=True)))
    (actor / "adapter_config.json").unlink()
    assert "weights that its configuration does not explain" in refusal(actor, capsys)
    (actor / "lora_train_meta.json").unlink()
    assert "has a LoRA adapter of unknown rank and alpha" in refusal(actor, capsys)
    assert not (actor.parent / "refused").exists()


def test_an_adapter_alone_is_refused(save: Save, capsys: pytest.CaptureFixture[str]) -> None:
    _, actor = save(lora_rank=4, save_lora_only=True)
    assert "holds the adapter alone" in refusal(actor, capsys)
