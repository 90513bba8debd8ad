"""verl's FSDP engine with one more per-token output: the energy of the logits it computes anyway.

verl looks an engine up by (device, vendor) before the plain device, so registering a subclass under that key takes over
without touching verl. The subclass behaves like its parent until a batch asks for `calculate_energy`.
"""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDict
from torch.distributed.tensor import DTensor
from verl.utils import tensordict_utils as tu
from verl.workers.engine import EngineRegistry
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead, FSDPEngineWithValueHead

from actfocus_verl.credit.signals import energy
from actfocus_verl.platforms.fsdp_cpu import CPUBuildMixin, CPUValueBuildMixin

CALCULATE_ENERGY = "calculate_energy"
FSDP_BACKENDS = ["fsdp", "fsdp2"]


class EnergyMixin:
    """Adds `energy` to the model outputs: E_t = -logsumexp of the raw logits at position t, which predict token t+1."""

    def prepare_model_outputs(
        self, output: Any, output_args: dict[str, Any], micro_batch: TensorDict, logits_processor_func: Any
    ) -> dict[str, torch.Tensor]:
        """Return the parent's outputs plus, on request, `energy`: float32, nested (B, j) like `log_probs`.

        Taken from the logits before verl scales them by the temperature, and before the log-prob kernel may reuse their
        storage. Raises ValueError with fused kernels, which never form the logits.
        """
        if not tu.get_non_tensor_data(data=micro_batch, key=CALCULATE_ENERGY, default=False):
            return super().prepare_model_outputs(output, output_args, micro_batch, logits_processor_func)  # type: ignore[misc]
        energies = self._energy(output, output_args, micro_batch)
        outputs = super().prepare_model_outputs(output, output_args, micro_batch, logits_processor_func)  # type: ignore[misc]
        outputs["energy"] = energies
        return outputs

    def _energy(self, output: Any, output_args: dict[str, Any], micro_batch: TensorDict) -> torch.Tensor:
        if tu.get_non_tensor_data(data=micro_batch, key="use_fused_kernels", default=False):
            raise ValueError(
                "actor_rollout_ref.model.use_fused_kernels=True: fused kernels never form the logits that the energy "
                "needs. Set it to False, or choose a credit that needs no energy (credit=uniform)."
            )
        logits = output.logits  # packed: (1, N, V); padded: (B, L, V)
        if isinstance(logits, DTensor):
            logits = logits.full_tensor()
        cu_seqlens = micro_batch["input_ids"].offsets()
        if tu.get_non_tensor_data(data=micro_batch, key="use_remove_padding", default=True):
            packed = energy(logits.squeeze(0))
            packed = self._gather_and_unpad_packed(packed, output_args["pad_size"])  # type: ignore[attr-defined]
        else:
            energies_BL = energy(logits)
            lengths_B = cu_seqlens.diff()
            valid_BL = torch.arange(energies_BL.size(1), device=energies_BL.device) < lengths_B.unsqueeze(1)
            packed = energies_BL[valid_BL]
        return torch.nested.nested_tensor_from_jagged(packed, cu_seqlens)


@EngineRegistry.register(model_type="language_model", backend=FSDP_BACKENDS, device="cuda", vendor="nvidia")
class EnergyFSDPEngine(EnergyMixin, FSDPEngineWithLMHead):
    """Actor and reference on NVIDIA GPUs."""


@EngineRegistry.register(model_type="language_model", backend=FSDP_BACKENDS, device="cpu")
class CPUEnergyFSDPEngine(EnergyMixin, CPUBuildMixin, FSDPEngineWithLMHead):
    """Actor and reference on a CPU."""


@EngineRegistry.register(model_type="value_model", backend=FSDP_BACKENDS, device="cpu")
class CPUValueFSDPEngine(CPUValueBuildMixin, FSDPEngineWithValueHead):
    """The critic on a CPU."""
