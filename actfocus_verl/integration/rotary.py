"""Rotary frequencies in float32 for every dtype of the weights.

verl casts a whole model to `fsdp_config.model_dtype` once it is loaded. With bf16 that rounds the frequencies of the
rotary embedding by up to 0.4 %, which at position 2,500 is an angle of several radians: log-probs and energies are then
of another model than the one that sampled. transformers itself keeps them in float32, and so do we.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import nn

_LOGGER = logging.getLogger(__name__)
_FREQUENCIES = "inv_freq"
"""transformers' name of these buffers, prefixed by the kind of layer where there are several."""


class RotaryMixin:
    """A model of verl's FSDP engine whose rotary frequencies are not rounded. Mix in before the engine class."""

    def _build_module(self) -> nn.Module:
        module: nn.Module = super()._build_module()  # type: ignore[misc]
        restore_frequencies(module)
        return module


def restore_frequencies(module: nn.Module) -> None:
    """Recompute the rotary frequencies of a transformers model in float32, where they are in another dtype.

    A model whose code does not allow it keeps the rounded ones, with a warning.
    """
    _restore(module, owner=module)


def _restore(module: nn.Module, owner: Any) -> None:
    """owner: the innermost model of transformers around `module`, which knows how to initialise it."""
    owner = module if hasattr(module, "_init_weights") else owner
    for child in module.children():
        _restore(child, owner)
    rounded = [
        name
        for name, buffer in module.named_buffers(recurse=False)
        if _FREQUENCIES in name and buffer.is_floating_point() and buffer.dtype != torch.float32
    ]
    if not rounded:
        return
    for name in rounded:
        setattr(module, name, getattr(module, name).float())
    before = {name: getattr(module, name).clone() for name in rounded}
    owner._init_weights(module)  # as when it is loaded: these buffers are in no checkpoint
    on_device = [name for name in rounded if not before[name].is_meta]  # verl fills the others from the first rank
    if any(torch.equal(before[name], getattr(module, name)) for name in on_device):
        kind = type(module).__name__
        _LOGGER.warning("the rotary frequencies of %s stay rounded: set fsdp_config.model_dtype=fp32", kind)
