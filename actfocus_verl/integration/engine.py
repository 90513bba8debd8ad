"""verl's FSDP engine with more per-token outputs: energy and related signals of the logits it computes anyway.

The relevance is a pass of its own (:mod:`actfocus_verl.integration.relevance`).

verl looks an engine up by (device, vendor) before the plain device, so registering a subclass under that key takes over
without touching verl. The subclass behaves like its parent until a batch asks for one of `CALCULATE`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import torch
from tensordict import TensorDict
from torch.distributed.tensor import DTensor
from verl.utils import tensordict_utils as tu
from verl.workers.engine import EngineRegistry
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead, FSDPEngineWithValueHead

from actfocus_verl.credit.signals import ENERGY, LOGIT_SIGNALS
from actfocus_verl.integration.checkpoints import PortableCheckpointMixin
from actfocus_verl.integration.relevance import RelevanceMixin
from actfocus_verl.integration.rotary import RotaryMixin
from actfocus_verl.platforms.fsdp_cpu import CPUBuildMixin, CPUValueBuildMixin
from actfocus_verl.platforms.value_model import ConfiguredAttentionMixin

CALCULATE = {name: f"calculate_{name}" for name in LOGIT_SIGNALS}
"""The flag by which a batch asks for each signal, named as verl's `calculate_entropy` is."""

FSDP_BACKENDS = ["fsdp", "fsdp2"]

_LEAST_LOG_PROB: Final = -100.0
"""Above it the identity is as exact as the log-probs: float32 numbers of this size are 1e-5 apart."""


class EnergyMixin:
    """Adds signals to the model outputs, such as E_t = -logsumexp of the raw logits at position t, predicting t+1."""

    def prepare_model_outputs(
        self, output: Any, output_args: dict[str, Any], micro_batch: TensorDict, logits_processor_func: Any
    ) -> dict[str, torch.Tensor]:
        """Return the parent's outputs plus the signals asked for: float32, nested (B, j) like `log_probs`.

        Taken from the logits before verl scales them by the temperature, and before the log-prob kernel may reuse their
        storage. At temperature 1 the energy costs one number per position: verl's log-prob is the label's logit minus
        the logsumexp of the very logits, so `E = log_prob - logit_of_the_label`. Raises ValueError with fused kernels,
        which never form the logits.
        """
        wanted = [
            name
            for name, flag in CALCULATE.items()
            if tu.get_non_tensor_data(data=micro_batch, key=flag, default=False)
        ]
        if not wanted:
            return super().prepare_model_outputs(output, output_args, micro_batch, logits_processor_func)  # type: ignore[misc,no-any-return]
        rows = self._rows(wanted, output, output_args, micro_batch)
        from_log_probs = ENERGY in wanted and output_args.get("temperature_is_one", False)
        label_logits = rows.label_logits() if from_log_probs else None
        signals = {name: rows.signal(name) for name in wanted if name != ENERGY or label_logits is None}
        outputs: dict[str, torch.Tensor] = super().prepare_model_outputs(  # type: ignore[misc]
            output, output_args, micro_batch, logits_processor_func
        )
        if label_logits is not None:
            energy = _energy_of(outputs.get("log_probs"), label_logits)
            # nothing but a backward pass writes to the logits at this temperature
            signals[ENERGY] = rows.signal(ENERGY) if energy is None else energy
        cu_seqlens = micro_batch["input_ids"].offsets()
        nested = {name: torch.nested.nested_tensor_from_jagged(signals[name], cu_seqlens) for name in wanted}
        outputs.update(nested)
        return outputs

    def _rows(self, names: list[str], output: Any, output_args: dict[str, Any], micro_batch: TensorDict) -> _Rows:
        if tu.get_non_tensor_data(data=micro_batch, key="use_fused_kernels", default=False):
            raise ValueError(
                "actor_rollout_ref.model.use_fused_kernels=True: fused kernels never form the logits that the "
                f"{' and '.join(names)} needs. Set it to False, or choose a credit without it (credit=uniform)."
            )
        logits = output.logits.detach()  # packed: (1, N, V); padded: (B, L, V)
        if isinstance(logits, DTensor):
            logits = logits.full_tensor()
        labels = output_args["input_ids_rmpad_rolled"]
        if tu.get_non_tensor_data(data=micro_batch, key="use_remove_padding", default=True):
            gather = partial(self._gather_and_unpad_packed, pad_size=output_args["pad_size"])  # type: ignore[attr-defined]
            return _Rows(logits.squeeze(0), labels, gather)
        lengths = micro_batch["input_ids"].offsets().diff()
        valid_BL = torch.arange(logits.size(1), device=logits.device) < lengths.unsqueeze(1)
        labels_BL = labels.new_zeros(valid_BL.shape).masked_scatter(valid_BL, labels)
        return _Rows(logits, labels_BL, lambda values_BL: values_BL[valid_BL])


@dataclass(frozen=True)
class _Rows:
    """A micro-batch's logits and how a number per row becomes the packed (total tokens,) that verl nests."""

    logits: torch.Tensor
    """(N, V) packed, or (B, L, V) padded; without gradient."""
    labels: torch.Tensor
    """(N,) or (B, L): the token that each row predicts."""
    pack: Callable[[torch.Tensor], torch.Tensor]

    def signal(self, name: str) -> torch.Tensor:
        return self.pack(LOGIT_SIGNALS[name](self.logits))

    def label_logits(self) -> torch.Tensor:
        """The logit of every row's label, float32."""
        return self.pack(self.logits.gather(-1, self.labels.unsqueeze(-1)).squeeze(-1).float())


def _energy_of(log_probs: torch.Tensor | None, label_logits: torch.Tensor) -> torch.Tensor | None:
    """`log_prob - logit` of every label, (total tokens,) float32; None where that loses more than float32 rounding.

    log_probs: jagged (B, j). In bf16 they are off by up to 0.06. The difference of two large numbers keeps few digits,
    and that of two infinite ones (a label that the model rules out) none.
    """
    if log_probs is None or log_probs.dtype != torch.float32:
        return None
    values = log_probs.values().detach()
    if not bool((values > _LEAST_LOG_PROB).all()):  # false for NaN
        return None
    return values - label_logits


@EngineRegistry.register(model_type="language_model", backend=FSDP_BACKENDS, device="cuda", vendor=["nvidia", "amd"])
class EnergyFSDPEngine(RelevanceMixin, EnergyMixin, RotaryMixin, PortableCheckpointMixin, FSDPEngineWithLMHead):
    """Actor and reference on NVIDIA and AMD GPUs."""


@EngineRegistry.register(model_type="language_model", backend=FSDP_BACKENDS, device="cpu")
class CPUEnergyFSDPEngine(
    RelevanceMixin, EnergyMixin, RotaryMixin, PortableCheckpointMixin, CPUBuildMixin, FSDPEngineWithLMHead
):
    """Actor and reference on a CPU."""


@EngineRegistry.register(model_type="value_model", backend=FSDP_BACKENDS, device="cpu")
class CPUValueFSDPEngine(RotaryMixin, PortableCheckpointMixin, CPUValueBuildMixin, FSDPEngineWithValueHead):
    """The critic on a CPU."""


@EngineRegistry.register(model_type="value_model", backend=FSDP_BACKENDS, device="cuda", vendor=["nvidia", "amd"])
class ValueFSDPEngine(RotaryMixin, PortableCheckpointMixin, ConfiguredAttentionMixin, FSDPEngineWithValueHead):
    """The critic on NVIDIA and AMD GPUs."""
