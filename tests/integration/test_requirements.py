"""What token weights need to take effect: asked by preflight before Ray, and by the trainer for verl's own command."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from verl.workers.engine import EngineRegistry
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead

from actfocus_verl.errors import ConfigurationError
from actfocus_verl.integration.engine import EnergyFSDPEngine
from actfocus_verl.integration.loss import token_weighted_ppo_loss
from actfocus_verl.integration.trainer import TokenCreditTrainerSync
from tests.helpers.losses import actor_config, loss_inputs
from tests.helpers.queue import LocalQueue
from tests.helpers.refusals import configured, refusal
from tests.helpers.trainer import MakeTrainer, to_advantages

CORRECTION = "algorithm.rollout_correction"
AGGREGATION = "actor_rollout_ref.actor.loss_agg_mode"
REFERENCE = "actor_rollout_ref.ref.strategy"


# Rollout corrections that verl leaves out


@pytest.mark.parametrize(("key", "value"), [("rollout_is", "token"), ("rollout_rs", "token_k2")])
def test_a_correction_beside_bypass_mode_is_refused(key: str, value: str) -> None:
    message = refusal(f"{CORRECTION}.{key}={value}", f"{CORRECTION}.bypass_mode=true")
    assert message.startswith(f"{CORRECTION}.{key}='{value}': verl leaves it out with {CORRECTION}.bypass_mode=true")
    assert message.endswith(f"Set {CORRECTION}.bypass_mode=false, or {CORRECTION}.{key}=null")


def test_a_correction_without_the_rollouts_log_probs_is_refused() -> None:
    message = refusal(f"{CORRECTION}.rollout_is=token", "actor_rollout_ref.rollout.calculate_log_probs=false")
    assert "rollout_is='token': verl leaves it out without the rollout's log-probs" in message


@pytest.mark.parametrize("words", [[f"{CORRECTION}.bypass_mode=true"], [f"{CORRECTION}.rollout_is=token"], []])
def test_what_verl_does_passes(words: list[str]) -> None:
    TokenCreditTrainerSync(configured(*words))


# Engines that give no relevance of tokens


@pytest.mark.parametrize(
    ("key", "value", "supported"),
    [("actor.strategy", "fsdp", "fsdp2"), ("model.use_fused_kernels", "true", "false")],
)
def test_a_relevance_that_the_engine_cannot_give_is_refused(key: str, value: str, supported: str) -> None:
    words = ["credit=influence", f"actor_rollout_ref.{key}={value}"]
    configured(*words)
    message = refusal(*words, "credit.level=token")
    assert message.startswith(f"actor_rollout_ref.{key}=")
    assert message.endswith(f"Set actor_rollout_ref.{key}={supported}, or use credit=uniform")


# Divisors other than Eq. 6's


@pytest.mark.parametrize(
    ("mode", "instead"),
    [
        ("seq-mean-token-mean", "a token of an episode of T tokens counts mean(T) / T times as much"),
        ("seq-mean-token-sum", "Eq. 6 times the mean length of the mini-batch's episodes"),
        ("seq-mean-token-sum-norm", "Eq. 6 times a factor"),
        ("token-sum", "Eq. 6 times the number of the mini-batch's tokens"),
    ],
)
def test_another_divisor_is_warned_about_with_what_it_is(
    mode: str, instead: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        TokenCreditTrainerSync(configured(f"{AGGREGATION}={mode}"))
    (message,) = [record.getMessage() for record in caplog.records if AGGREGATION in record.getMessage()]
    assert message.startswith(f"{AGGREGATION}={mode} is not Eq. 6")
    assert instead in message


@pytest.mark.parametrize("words", [[], ["credit=uniform", f"{AGGREGATION}=seq-mean-token-mean"]])
def test_eq_6_and_verls_own_loss_are_not(words: list[str], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        TokenCreditTrainerSync(configured(*words))
    assert AGGREGATION not in caplog.text


@pytest.mark.parametrize(
    ("mode", "settings", "factors"),
    [
        # episodes of 2, 6 and 4 tokens: 12 tokens, 4 on the average
        ("seq-mean-token-mean", {}, (4 / 2, 4 / 6, 4 / 4)),
        ("seq-mean-token-sum", {}, (4.0, 4.0, 4.0)),
        ("seq-mean-token-sum-norm", {"loss_scale_factor": 8}, (0.5, 0.5, 0.5)),
        ("seq-mean-token-sum-norm", {}, (4 / 6, 4 / 6, 4 / 6)),  # the longest of this micro-batch
        ("token-sum", {}, (12.0, 12.0, 12.0)),
    ],
)
def test_the_warnings_are_true(mode: str, settings: dict[str, Any], factors: tuple[float, ...]) -> None:
    """The gradient over that of Eq. 6, an episode each."""

    def gradients(**aggregation: Any) -> list[torch.Tensor]:
        leaves = [torch.full((length,), -1.0, requires_grad=True) for length in (2, 6, 4)]
        rows = [
            {
                "response_mask": torch.ones(len(leaf), dtype=torch.int64),
                "old_log_probs": torch.full((len(leaf),), -1.0),
                "log_probs": leaf,
                "advantages": torch.ones(len(leaf)),
                "token_weights": torch.linspace(0.5, 1.5, len(leaf)),
            }
            for leaf in leaves
        ]
        outputs, data = loss_inputs(rows)
        config = actor_config("token_weighted", **aggregation)
        token_weighted_ppo_loss(config=config, model_output=outputs, data=data)[0].backward()
        return [leaf.grad for leaf in leaves]  # type: ignore[misc]

    for found, exact, factor in zip(
        gradients(loss_agg_mode=mode, **settings), gradients(loss_agg_mode="token-mean"), factors, strict=True
    ):
        torch.testing.assert_close(found, factor * exact)


# Engines of the reference pass


@pytest.mark.parametrize("strategy", ["megatron", "veomni", "torchtitan", "automodel", "fsdp_turbo"])
def test_an_engine_without_signals_is_refused(strategy: str) -> None:
    message = refusal(f"{REFERENCE}={strategy}")
    assert message.startswith(f"{REFERENCE}='{strategy}': this engine returns no energy here: only FSDP on NVIDIA")
    assert message.endswith(f"Set {REFERENCE}=fsdp2, or use credit=uniform and run.diagnose=false, which need none")


def test_the_diagnostic_needs_one_too() -> None:
    words = ("credit=uniform", "run.diagnose=true", "actor_rollout_ref.actor.use_kl_loss=true")
    assert "returns no energy" in refusal(*words, f"{REFERENCE}=megatron")


def test_with_an_adapter_the_actor_is_the_reference() -> None:
    key = "actor_rollout_ref.actor.strategy"
    with pytest.raises(ConfigurationError, match=rf"{key}='veomni': this engine returns no energy"):
        TokenCreditTrainerSync(configured("actor_rollout_ref.model.lora_rank=8", f"{key}=veomni"))


@pytest.mark.parametrize("words", [["credit=uniform"], ["credit=action_only"], ["credit.signal=nll"]])
def test_who_needs_no_signal_takes_any_engine(words: list[str]) -> None:
    TokenCreditTrainerSync(configured(*words, f"{REFERENCE}=megatron"))


@pytest.mark.parametrize(
    ("device", "vendor", "expected"),
    [
        ("cuda", "nvidia", EnergyFSDPEngine),
        ("cuda", "amd", EnergyFSDPEngine),
        ("cuda", "metax", FSDPEngineWithLMHead),
        ("npu", "huawei", FSDPEngineWithLMHead),
    ],
)
def test_whose_accelerator_gets_the_engine(
    monkeypatch: pytest.MonkeyPatch, device: str, vendor: str, expected: type
) -> None:
    monkeypatch.setenv("VERL_ENGINE_DEVICE", device)
    monkeypatch.setenv("VERL_ENGINE_VENDOR", vendor)
    for strategy in ("fsdp", "fsdp2"):
        assert EngineRegistry.get_engine_cls("language_model", strategy) is expected
    if expected is EnergyFSDPEngine:
        TokenCreditTrainerSync(configured())
    else:
        assert refusal().startswith(f"{REFERENCE}='fsdp2': this engine returns no energy here")


def test_a_pass_that_returned_no_signal_is_one_line(
    make_trainer: MakeTrainer, queue: LocalQueue, rows: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a cluster whose nodes have other accelerators than the driver."""
    trainer = make_trainer()
    monkeypatch.setattr("actfocus_verl.integration.method_passes.CALCULATE", {"energy": "unknown_to_the_engine"})
    with pytest.raises(ConfigurationError, match=rf"{REFERENCE}='fsdp2': this engine returns no energy here"):
        to_advantages(trainer, queue.fill(rows))
