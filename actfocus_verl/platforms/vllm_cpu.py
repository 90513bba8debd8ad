"""verl's vLLM server on a CPU, through verl's own hooks: a replica, a server and a worker extension.

vLLM prepacks linear weights for oneDNN on a CPU and drops the originals, so verl's weight sync, which loads into the
originals, fails from the second step on. vLLM's layerwise reload restores the originals' shapes, loads, and packs
again; the extension wraps every sync in it. `ACTFOCUS_VLLM_PREPACK=0` switches packing off instead.
"""

from __future__ import annotations

import os
from typing import Any

import ray
import torch
from verl.workers.rollout.vllm_rollout.bucketed_weight_transfer import BucketedWeightReceiver
from verl.workers.rollout.vllm_rollout.utils import vLLMColocateWorkerExtension
from verl.workers.rollout.vllm_rollout.vllm_async_server import vLLMHttpServer, vLLMReplica

from actfocus_verl.platforms.light_actor import light_actor

PREPACK_VARIABLE = "ACTFOCUS_VLLM_PREPACK"


def prepack_enabled() -> bool:
    """Whether vLLM may keep its packed oneDNN weights (the default)."""
    return os.environ.get(PREPACK_VARIABLE, "1") != "0"


class CPUWorkerExtension(vLLMColocateWorkerExtension):
    """Receives verl's weight buckets in a CPU worker."""

    def __new__(cls, **kwargs: Any) -> CPUWorkerExtension:
        if not prepack_enabled():
            # Read once per layer while weights are processed, so it must be set before the model is built.
            import vllm._custom_ops as custom_ops

            custom_ops._supports_onednn = False
        return super().__new__(cls, **kwargs)

    def update_weights_from_ipc(
        self, peft_config: dict[str, Any] | None = None, base_sync_done: bool = False, use_shm: bool = False
    ) -> None:
        """Receive all buckets, then load them at once.

        verl's version loads straight from the shared segment. On a CPU the loaded tensors would be views of it, and a
        segment with views cannot be closed; so each tensor is copied on receipt.
        """
        if peft_config and base_sync_done:  # an adapter: verl's own path copies already
            super().update_weights_from_ipc(peft_config, base_sync_done, use_shm)
            return
        received: list[tuple[str, torch.Tensor]] = []

        def keep(weights: list[tuple[str, torch.Tensor]], is_last: bool) -> None:
            received.extend((name, tensor.clone()) for name, tensor in weights)

        receiver = BucketedWeightReceiver(zmq_handle=self._get_zmq_handle(), device=self.device, use_shm=use_shm)
        receiver.receive_weights(on_bucket_received=keep)
        self._load(received, peft_config)

    def _load(self, weights: list[tuple[str, torch.Tensor]], peft_config: dict[str, Any] | None) -> None:
        from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

        models = list(self._iter_all_models_with_config())
        for model, _ in models:
            initialize_layerwise_reload(model)
        self._update_weights(weights, peft_config=peft_config, base_sync_done=False)
        for model, model_config in models:
            finalize_layerwise_reload(model, model_config)
            _pack_tied_heads_again(model)


def _pack_tied_heads_again(model: torch.nn.Module) -> None:
    """Pack heads tied to an embedding again: nothing is loaded into them, so their packed copy would stay stale.

    Such a layer has both packed weights and the originals. Drop this when vLLM's reload follows ties.
    """
    for layer in model.modules():
        weight = getattr(layer, "weight", None)
        if hasattr(layer, "cpu_linear") and weight is not None and weight.numel() > 0:
            method: Any = layer.quant_method
            method.process_weights_after_loading(layer)


class CPUvLLMHttpServer(vLLMHttpServer):
    """verl's server with the CPU worker extension, and an engine whose waiting threads sleep.

    The engine shares its cores with the agent loops and all who bring it their requests. OpenMP's threads keep a core
    busy while they wait for one another, and what they wait for may be a thread that lacks this core. The engine's
    process inherits the variable; the trainer, which has the cores to itself, is slower with it.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        super().__init__(*args, **kwargs)

    def _get_worker_extension_cls(self) -> str:
        return f"{CPUWorkerExtension.__module__}.{CPUWorkerExtension.__name__}"


class CPUvLLMReplica(vLLMReplica):
    """verl's replica that launches the CPU server."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.server_class = ray.remote(light_actor(CPUvLLMHttpServer))
