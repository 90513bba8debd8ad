"""Energy and its kin from verl's real engine: of the raw logits, at the position that predicts the token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM
from verl.workers.utils.padding import response_from_nested

from actfocus_verl.credit.signals import LOGIT_SIGNALS
from actfocus_verl.integration.engine import CALCULATE, CPUEnergyFSDPEngine
from tests.helpers.engines import build_engine, disturb_adapter, infer, make_rows, to_batch

ROWS = make_rows(5)
ENERGY = {CALCULATE["energy"]: True}
ALL = dict.fromkeys(CALCULATE.values(), True)


@pytest.fixture(scope="module")
def slow(model_folder: Path) -> dict[str, list[torch.Tensor]]:
    """The slow way: each sequence alone through the Hugging Face model, its float64 logits by the definitions."""
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32).eval()
    with torch.no_grad():
        logits = [model(row["input_ids"].unsqueeze(0)).logits[0].double() for row in ROWS]
    probabilities = [row.exp() / row.exp().sum(dim=-1, keepdim=True) for row in logits]
    return {
        "energy": [-row.exp().sum(dim=-1).log().float() for row in logits],
        "reference_entropy": [-(p * p.log()).sum(dim=-1).float() for p in probabilities],
        "gauge_free_energy": [p.log().mean(dim=-1).float() for p in probabilities],
    }


@pytest.fixture(scope="module")
def expected(slow: dict[str, list[torch.Tensor]]) -> list[torch.Tensor]:
    return slow["energy"]


def test_the_engine_is_ours(engine: Any) -> None:
    assert type(engine) is CPUEnergyFSDPEngine


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize(
    "micro_batches",
    [
        {"micro_batch_size_per_gpu": 5},
        {"micro_batch_size_per_gpu": 1},
        {"use_dynamic_bsz": True, "max_token_len_per_gpu": 30},  # verl reorders the rows, and restores their order
    ],
    ids=["one", "five", "dynamic"],
)
def test_signals_are_those_of_the_raw_logits(
    engine: Any, slow: dict[str, list[torch.Tensor]], packed: bool, micro_batches: dict[str, Any]
) -> None:
    batch = to_batch(ROWS, use_remove_padding=packed, temperature=0.7, **ALL, **micro_batches)
    outputs = infer(engine, batch)

    assert set(outputs) == {"log_probs", *slow}
    for name, expected in slow.items():
        assert outputs[name].dtype == torch.float32
        for found, row in zip(outputs[name].unbind(), expected, strict=True):
            torch.testing.assert_close(found, row, rtol=1e-5, atol=2e-5)


def test_on_the_response_it_is_of_the_position_that_predicts_the_token(
    engine: Any, expected: list[torch.Tensor]
) -> None:
    batch = to_batch(ROWS, **ENERGY)
    energies = response_from_nested(infer(engine, batch)["energy"], batch["response_mask"])

    for found, whole, row in zip(energies.unbind(), expected, ROWS, strict=True):
        prompt, length = len(row["prompts"]), len(row["responses"])
        predicting = [whole[prompt + token - 1] for token in range(length)]  # token t is predicted at t - 1
        torch.testing.assert_close(found, torch.stack(predicting), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
def test_temperature_changes_log_probs_and_no_signal(engine: Any, packed: bool) -> None:
    hot, cold = (
        infer(engine, to_batch(ROWS, use_remove_padding=packed, temperature=temperature, **ALL))
        for temperature in (0.9, 0.5)
    )
    for name in CALCULATE:
        assert torch.equal(hot[name].values(), cold[name].values())
    assert not torch.allclose(hot["log_probs"].values(), cold["log_probs"].values(), atol=0.1)


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_asking_for_the_energy_changes_no_bit_of_the_rest(engine: Any, packed: bool, temperature: float) -> None:
    settings = {"use_remove_padding": packed, "temperature": temperature, "calculate_entropy": True}
    without = infer(engine, to_batch(ROWS, **settings))
    with_energy = infer(engine, to_batch(ROWS, **settings, **ENERGY))

    assert set(without) == {"log_probs", "entropy"}
    assert set(with_energy) == {"log_probs", "entropy", "energy"}
    for name in without:
        assert torch.equal(with_energy[name].values(), without[name].values())


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize("micro_batch", [5, 1], ids=["whole", "in pieces"])
def test_at_temperature_1_it_comes_from_the_log_prob(
    engine: Any, slow: dict[str, list[torch.Tensor]], monkeypatch: pytest.MonkeyPatch, packed: bool, micro_batch: int
) -> None:
    monkeypatch.delitem(LOGIT_SIGNALS, "energy")  # the definition is not used
    batch = to_batch(ROWS, use_remove_padding=packed, micro_batch_size_per_gpu=micro_batch, **ALL)
    outputs = infer(engine, batch)

    assert list(outputs) == ["log_probs", *slow]
    for name, expected in slow.items():
        assert outputs[name].dtype == torch.float32
        assert torch.equal(outputs[name].offsets(), outputs["log_probs"].offsets())
        torch.testing.assert_close(outputs[name].values(), torch.cat(expected), rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize("banned", [-torch.inf, -1e9])
def test_a_token_that_the_model_rules_out_does_not_spoil_it(engine: Any, packed: bool, banned: float) -> None:
    ruled_out = ROWS[1]["input_ids"][3]
    caught = []

    def rule_out(module: Any, inputs: Any, output: Any) -> None:
        output.logits[..., ruled_out] = banned
        caught.append(output.logits.double())

    hook = engine.module.register_forward_hook(rule_out)
    try:
        batch = to_batch(ROWS, use_remove_padding=packed, micro_batch_size_per_gpu=1, **ENERGY)
        outputs = infer(engine, batch)
    finally:
        hook.remove()
    assert outputs["log_probs"].values().min() < -1e8
    expected = torch.cat([-logits[0].logsumexp(dim=-1) for logits in caught])
    torch.testing.assert_close(outputs["energy"].values(), expected.float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("log_probs", ["bf16", None])
def test_log_probs_that_do_not_suffice(
    engine: Any, expected: list[torch.Tensor], monkeypatch: pytest.MonkeyPatch, log_probs: str | None
) -> None:
    from verl.workers.engine.fsdp import transformer_impl

    if log_probs == "bf16":
        exact = transformer_impl.logprobs_from_logits
        monkeypatch.setattr(transformer_impl, "logprobs_from_logits", lambda **given: exact(**given).bfloat16())
    batch = to_batch(ROWS, **ENERGY, distillation_only=log_probs is None)
    energies = infer(engine, batch)["energy"].values()
    torch.testing.assert_close(energies, torch.cat(expected), rtol=1e-5, atol=1e-5)


def test_energy_carries_no_gradient(engine: Any) -> None:
    with engine.train_mode():
        seen: dict[str, torch.Tensor] = {}

        def loss(
            model_output: dict[str, torch.Tensor], data: Any, dp_group: Any
        ) -> tuple[torch.Tensor, dict[str, Any]]:
            seen.update(model_output)
            return model_output["log_probs"].values().sum(), {}

        engine.forward_backward_batch(to_batch(ROWS, **ENERGY), loss)
    assert seen["log_probs"].requires_grad
    assert not seen["energy"].requires_grad


def test_fused_kernels_are_refused_with_the_remedy(engine: Any) -> None:
    batch = to_batch(ROWS, use_fused_kernels=True, **{CALCULATE["reference_entropy"]: True})
    message = r"use_fused_kernels=True: .* that the reference_entropy needs\. Set it to False"
    with pytest.raises(ValueError, match=message):
        engine.prepare_model_outputs(None, {}, batch, None)


def test_without_the_adapter_it_is_the_energy_of_the_base_model(
    group: None, model_folder: Path, expected: list[torch.Tensor]
) -> None:
    engine = build_engine(model_folder, lora_rank=4)
    disturb_adapter(engine)

    adapted = infer(engine, to_batch(ROWS, **ENERGY))["energy"].values()
    with engine.disable_adapter():
        base = infer(engine, to_batch(ROWS, **ENERGY))["energy"].values()

    torch.testing.assert_close(base, torch.cat(expected), rtol=1e-5, atol=1e-5)
    assert (adapted - base).abs().max() > 0.1
