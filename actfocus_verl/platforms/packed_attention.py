"""Attention over a packed row of sequences on a CPU, registered with transformers as `packed_sdpa`.

verl's `use_remove_padding` packs a micro-batch into one row without padding, and counts on flash-attention, which has
no CPU kernel, to keep the sequences apart. Here each sequence is one call of torch's causal kernel: no padding, no
mask, and no work above the diagonal.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Final

import torch
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

PACKED_SDPA: Final = "packed_sdpa"


def packed_sdpa_forward(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    position_ids: torch.Tensor | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Return (1, N, heads, D) attention outputs of a row in which every sequence begins at position 0.

    Args:
        query: (1, heads, N, D). key, value: (1, key-value heads, N, D).
        attention_mask: None for a packed row; a padded batch has one and goes to transformers' own `sdpa`.
        position_ids: (1, N) long.

    Raises ValueError for a sliding window, which the causal kernel does not support.
    """
    if attention_mask is not None or position_ids is None or query.size(0) != 1:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    if sliding_window is not None:
        raise ValueError(
            f"attn_implementation={PACKED_SDPA} has no sliding window, but this model's is {sliding_window}. "
            "Set attn_implementation=sdpa and use_remove_padding=false."
        )
    lengths = sequence_lengths(position_ids.squeeze(0))
    outputs = [
        functional.scaled_dot_product_attention(
            *parts, dropout_p=dropout, scale=scaling, is_causal=True, enable_gqa=key.size(1) != query.size(1)
        )
        for parts in zip(query.split(lengths, 2), key.split(lengths, 2), value.split(lengths, 2), strict=True)
    ]
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous(), None


def sequence_lengths(position_ids_N: torch.Tensor) -> list[int]:
    """Return the lengths of the sequences packed into a row: each begins where the position is 0, the first at once."""
    begins = (position_ids_N == 0).nonzero().squeeze(1).tolist()
    edges = [0, *(begin for begin in begins if begin > 0), position_ids_N.numel()]
    return [end - start for start, end in pairwise(edges)]


def packed_sdpa_mask(*args: Any, attention_mask: torch.Tensor | None = None, **kwargs: Any) -> torch.Tensor | None:
    """Return no mask for a packed row, whose positions suffice; transformers' own for a padded batch."""
    return None if attention_mask is None else sdpa_mask(*args, attention_mask=attention_mask, **kwargs)


def register() -> None:
    """Make `attn_implementation=packed_sdpa` known to transformers in this process."""
    AttentionInterface.register(PACKED_SDPA, packed_sdpa_forward)
    AttentionMaskInterface.register(PACKED_SDPA, packed_sdpa_mask)
