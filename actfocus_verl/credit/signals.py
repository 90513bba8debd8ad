"""Signals: one number per token, read off a model's own logits.

A signal says something about the moment at which a token was chosen (how sure the frozen reference was, how spread its
distribution was). A weighting reads it from the column of the same name. Energy is the signal of the paper.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

ENERGY: Final = "energy"
"""Name of the energy column, and of the signal in ``credit.signal``."""

KNOWN_SIGNALS: Final[tuple[str, ...]] = (ENERGY,)
"""The columns a weighting may ask for as its signal."""

CHUNK_ELEMENTS: Final = 2**24
"""Logits converted to float32 at a time: 64 MiB, about 110 positions of a vocabulary of 151,936."""


@torch.no_grad()
def energy(logits: Tensor) -> Tensor:
    """Free energy of the logits: ``E = -logsumexp(logits, dim=-1)`` (Eq. 4).

    Lower is more confident. The value depends on the absolute scale of the logits, and not on the token that was
    sampled; give it raw logits, before any temperature, at the position that predicts the token.

    ``torch.logsumexp`` keeps a temporary as large as its input, and half-precision input would need a float32 copy on
    top: 40 GB for 65,536 positions of a vocabulary of 151,936. So rows are reduced in chunks of at most
    ``CHUNK_ELEMENTS`` logits (at least one row), and the extra memory does not grow with the number of positions.
    Rows are independent, so chunking changes no value. A non-contiguous view such as ``logits[:, :-1]`` is walked,
    never copied.

    Args:
        logits: (..., V), floating point, any number of leading dimensions.

    Returns:
        (...), float32, without gradient: weights are constants of the loss.

    Raises:
        ValueError: ``logits`` is not floating point, has no dimension, or has an empty vocabulary.
    """
    if not logits.is_floating_point() or logits.dim() == 0 or logits.shape[-1] == 0:
        raise ValueError(
            f"energy needs floating-point logits of shape (..., vocabulary), got {logits.dtype} of shape "
            f"{tuple(logits.shape)}; pass the raw output of the language-model head"
        )
    energies = torch.empty(logits.shape[:-1], dtype=torch.float32, device=logits.device)
    _fill_energy(logits, energies)
    return energies


def _fill_energy(logits: Tensor, out: Tensor) -> None:
    """Write the energies of ``logits`` (..., V) into ``out`` (...), a contiguous float32 tensor."""
    if logits.numel() == 0:
        return
    if logits.dim() > 2 and not logits.is_contiguous():  # flattening would copy: walk the first dimension instead
        for part, part_out in zip(logits, out, strict=True):
            _fill_energy(part, part_out)
        return
    rows = logits.reshape(-1, logits.shape[-1])
    rows_out = out.view(-1)
    chunk_rows = max(1, CHUNK_ELEMENTS // logits.shape[-1])
    for start in range(0, rows.shape[0], chunk_rows):
        chunk = slice(start, start + chunk_rows)
        rows_out[chunk] = -torch.logsumexp(rows[chunk].float(), dim=-1)
