"""verl's FSDP engine with more per-token outputs: energy and related signals of the logits it computes anyway.

The relevance is a pass of its own (:mod:`actfocus_verl.integration.relevance`).

verl looks an engine up by (device, vendor) before the plain device, so registering a subclass under that key takes over
without touching verl. The subclass behaves like its parent until a batch asks for one of `CALCULATE`.
"""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDict
from torch.distributed.tensor import DTensor
from verl.utils import tensordict_utils as tu
from verl.workers.engine import EngineRegistry
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead, FSDPEngineWithValueHead

from actfocus_verl.credit.signals import LOGIT_SIGNALS
from actfocus_verl.integration.checkpoints import PortableCheckpointMixin
from actfocus_verl.integration.relevance import RelevanceMixin
from actfocus_verl.integration.rotary import RotaryMixin
from actfocus_verl.platforms.fsdp_cpu import CPUBuildMixin, CPUValueBuildMixin
from actfocus_verl.platforms.value_model import ConfiguredAttentionMixin

CALCULATE = {name: f"calculate_{name}" for name in LOGIT_SIGNALS}
"""The flag by which a batch asks for each signal, named as verl's `calculate_entropy` is."""

FSDP_BACKENDS = ["fsdp", "fsdp2"]


class EnergyMixin:
    """Adds signals to the model outputs, such as E_t = -logsumexp of the raw logits at position t, predicting t+1."""

    def prepare_model_outputs(
        self, output: Any, output_args: dict[str, Any], micro_batch: TensorDict, logits_processor_func: Any
    ) -> dict[str, torch.Tensor]:
        """Return the parent's outputs plus the signals asked for: float32, nested (B, j) like `log_probs`.

        Taken from the logits before verl scales them by the temperature, and before the log-prob kernel may reuse their
        storage. Raises ValueError with fused kernels, which never form the logits.
        """
        wanted = [
            name
            for name, flag in CALCULATE.items()
            if tu.get_non_tensor_data(data=micro_batch, key=flag, default=False)
        ]
        signals = self._signals(wanted, output, output_args, micro_batch) if wanted else {}
        outputs = super().prepare_model_outputs(output, output_args, micro_batch, logits_processor_func)  # type: ignore[misc]
        outputs.update(signals)
        return outputs

    def _signals(
        self, names: list[str], output: Any, output_args: dict[str, Any], micro_batch: TensorDict
    ) -> dict[str, torch.Tensor]:
        if tu.get_non_tensor_data(data=micro_batch, key="use_fused_kernels", default=False):
            raise ValueError(
                "actor_rollout_ref.model.use_fused_kernels=True: fused kernels never form the logits that the "
                f"{' and '.join(names)} needs. Set it to False, or choose a credit without it (credit=uniform)."
            )
        logits = output.logits  # packed: (1, N, V); padded: (B, L, V)
        if isinstance(logits, DTensor):
            logits = logits.full_tensor()
        cu_seqlens = micro_batch["input_ids"].offsets()
        signals = {}
        for name in names:
            if tu.get_non_tensor_data(data=micro_batch, key="use_remove_padding", default=True):
                packed = LOGIT_SIGNALS[name](logits.squeeze(0))
                packed = self._gather_and_unpad_packed(packed, output_args["pad_size"])  # type: ignore[attr-defined]
            else:
                values_BL = LOGIT_SIGNALS[name](logits)
                valid_BL = torch.arange(values_BL.size(1), device=values_BL.device) < cu_seqlens.diff().unsqueeze(1)
                packed = values_BL[valid_BL]
            signals[name] = torch.nested.nested_tensor_from_jagged(packed, cu_seqlens)
        return signals


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
