"""Signals: one number per token, computed from a model's logits.

A signal describes the choice of a token (how confident the frozen reference was, how spread out its
distribution was). A weighting reads it from the column of the same name. Energy is the signal of the paper.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

ENERGY: Final = "energy"
REFERENCE_ENTROPY: Final = "reference_entropy"
GAUGE_FREE_ENERGY: Final = "gauge_free_energy"

CHUNK_ELEMENTS: Final = 2**24
"""Logits converted to float32 per chunk: 64 MiB, about 110 positions of a vocabulary of 151,936.

On an H100 a quarter of it takes 2.5 times as long, for more launches, and four times as much saves 13 %
(docs/performance.md).
"""


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
    return _by_position(ENERGY, logits, _energy)


@torch.no_grad()
def entropy(logits: Tensor) -> Tensor:
    """Shannon entropy of ``softmax(logits)`` in nats: 0 when one token is certain, ``ln V`` when all are equal.

    Higher is less confident. It depends on the distribution alone: a constant added to all logits changes nothing.
    Arguments, result, memory and errors are those of :func:`energy`.
    """
    return _by_position("entropy", logits, _entropy)


@torch.no_grad()
def gauge_free_energy(logits: Tensor) -> Tensor:
    """Energy of the centred logits: ``E' = -logsumexp(logits - mean(logits), dim=-1)``.

    A constant added to all logits of a position changes :func:`energy` and not the distribution, so a model is free to
    put anything there. Centring takes that freedom away. What is left is a property of the distribution p:
    ``E' = mean over the vocabulary of log p = -(ln V + KL(uniform || p))``, at most ``-ln V``, and the lower the more
    confident, as with energy. The tail of p counts for much more in it than in the entropy.

    The mean is over all logits that are not -inf, including rows of the head without a token. Arguments, result, memory
    and errors are those of :func:`energy`.
    """
    return _by_position(GAUGE_FREE_ENERGY, logits, _gauge_free_energy)


LOGIT_SIGNALS: Final[dict[str, Callable[[Tensor], Tensor]]] = {
    ENERGY: energy,
    REFERENCE_ENTROPY: entropy,
    GAUGE_FREE_ENERGY: gauge_free_energy,
}
"""The columns that the reference pass computes from its logits, and how."""


def _energy(rows: Tensor) -> Tensor:
    return -torch.logsumexp(rows, dim=-1)


def _entropy(rows: Tensor) -> Tensor:
    # entr(p) = -p ln p is 0 at p = 0, where p * logit would be 0 * -inf.
    terms: Tensor = torch.special.entr(torch.softmax(rows, dim=-1))
    return terms.sum(dim=-1)


def _gauge_free_energy(rows: Tensor) -> Tensor:
    possible = ~torch.isneginf(rows)
    mean = torch.where(possible, rows, 0.0).sum(dim=-1, keepdim=True) / possible.sum(dim=-1, keepdim=True)
    return -torch.logsumexp(rows - mean, dim=-1)


def _by_position(name: str, logits: Tensor, reduce_rows: Callable[[Tensor], Tensor]) -> Tensor:
    """``reduce_rows`` ((n, V) float32 to (n,)) over all positions of ``logits`` (..., V), a chunk at a time."""
    if not logits.is_floating_point() or logits.dim() == 0 or logits.shape[-1] == 0:
        raise ValueError(
            f"{name} needs floating-point logits of shape (..., vocabulary), got {logits.dtype} of shape "
            f"{tuple(logits.shape)}; pass the raw output of the language-model head"
        )
    result = torch.empty(logits.shape[:-1], dtype=torch.float32, device=logits.device)
    _fill(logits, result, reduce_rows)
    return result


def _fill(logits: Tensor, out: Tensor, reduce_rows: Callable[[Tensor], Tensor]) -> None:
    """Write the reduction of ``logits`` (..., V) into ``out`` (...), a contiguous float32 tensor."""
    if logits.numel() == 0:
        return
    if logits.dim() > 2 and not logits.is_contiguous():  # flattening would copy: walk the first dimension instead
        for part, part_out in zip(logits, out, strict=True):
            _fill(part, part_out, reduce_rows)
        return
    rows = logits.reshape(-1, logits.shape[-1])
    rows_out = out.view(-1)
    chunk_rows = max(1, CHUNK_ELEMENTS // logits.shape[-1])
    for start in range(0, rows.shape[0], chunk_rows):
        chunk = slice(start, start + chunk_rows)
        rows_out[chunk] = reduce_rows(rows[chunk].float())
