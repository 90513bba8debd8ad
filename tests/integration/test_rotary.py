"""Rotary frequencies stay float32 in verl's engine with weights in bf16, and what they are worth at long positions."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, Qwen2Config, Qwen2ForCausalLM

from actfocus_verl.integration import rotary
from actfocus_verl.integration.engine import CALCULATE, CPUValueFSDPEngine
from actfocus_verl.integration.rotary import RotaryMixin, restore_frequencies
from tests.helpers.engines import VOCABULARY, build_engine, infer, to_batch
from tests.helpers.tokenizer import build_tokenizer

POSITIONS = 2500


@pytest.fixture(scope="module")
def bf16_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three layers with Qwen2.5's rotary base, its weights rounded to bf16: only the frequencies can still differ."""
    folder = tmp_path_factory.mktemp("bf16")
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        initializer_range=0.08,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        Qwen2ForCausalLM(config).bfloat16().save_pretrained(folder)
    build_tokenizer(vocab_size=VOCABULARY).save_pretrained(folder)
    return folder


def outputs(folder: Path, model_dtype: str) -> dict[str, torch.Tensor]:
    """Energies and log-probs of verl's reference engine over one long row, which computes in float32."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, VOCABULARY, (POSITIONS,), generator=generator)
    mask = torch.ones(POSITIONS - 1, dtype=torch.long)
    row = {"prompts": ids[:1], "responses": ids[1:], "input_ids": ids, "position_ids": torch.arange(POSITIONS)}
    engine = build_engine(folder, model_dtype=model_dtype, forward_only=True)
    batch = to_batch([row | {"response_mask": mask, "loss_mask": mask}], **{CALCULATE["energy"]: True})
    return {name: values.values() for name, values in infer(engine, batch).items()}


def test_a_reference_in_bf16_has_the_energies_of_the_model(
    group: None, bf16_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """docs/use_with_your_verl_run.md quotes what verl's own rounding does here."""
    expected, found = outputs(bf16_model, "fp32"), outputs(bf16_model, "bf16")
    for name, values in expected.items():
        torch.testing.assert_close(found[name], values, rtol=1e-5, atol=1e-5)

    monkeypatch.setattr(rotary, "restore_frequencies", lambda module: None)
    rounded = outputs(bf16_model, "bf16")
    largest = (rounded["log_probs"] - expected["log_probs"])[:-1].abs().max()
    assert 1.0 < float(largest) < 3.0  # nats
    assert float((rounded["energy"] - expected["energy"]).abs().max()) > 2 * float(expected["energy"].std())


def test_the_critic_is_built_with_them_too() -> None:
    assert issubclass(CPUValueFSDPEngine, RotaryMixin)


@pytest.mark.parametrize("rope", [None, {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0}], ids=["plain", "yarn"])
def test_kinds_of_scaling(rope: dict[str, Any] | None) -> None:
    parameters = rope or {"rope_type": "default", "rope_theta": 1e6}
    config = Qwen2Config(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2, vocab_size=8
    )
    config.rope_parameters = parameters | ({"original_max_position_embeddings": 1024} if rope else {})
    assert_restored(Qwen2ForCausalLM(config))


def test_several_kinds_of_layers() -> None:
    config = Gemma3TextConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2, head_dim=16, vocab_size=8
    )
    assert_restored(Gemma3ForCausalLM(config))


def assert_restored(model: nn.Module) -> None:
    expected = {name: buffer.clone() for name, buffer in model.named_buffers() if "inv_freq" in name}
    assert expected
    weights = {name: weight.bfloat16() for name, weight in model.named_parameters()}
    model.bfloat16()
    restore_frequencies(model)
    found = dict(model.named_buffers())
    for name, buffer in expected.items():
        assert torch.equal(found[name], buffer), name
    for name, weight in model.named_parameters():
        assert torch.equal(weight, weights[name]), name


def test_in_float32_nothing_is_touched() -> None:
    model = nn.Module()
    model.inv_freq = nn.Buffer(torch.rand(4))  # of no model that could initialise it
    before = model.inv_freq
    restore_frequencies(model)
    assert model.inv_freq is before


def test_a_model_that_does_not_say_how_is_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    class Rotary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inv_freq = nn.Buffer(torch.rand(4).bfloat16())

        def _init_weights(self, module: nn.Module) -> None:
            """As of a model whose code forgets it."""

    with caplog.at_level(logging.WARNING):
        restore_frequencies(Rotary())
    assert "frequencies of Rotary stay rounded: set fsdp_config.model_dtype=fp32" in caplog.text
