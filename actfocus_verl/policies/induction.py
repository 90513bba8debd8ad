"""Weights to start from with which a small network repeats what it has read.

An induction head (Olsson et al. 2022, "In-context Learning and Induction Heads") looks for an earlier place of the last
token and says what came next there. It takes two heads that are of no use without each other: one tells every position
which token stands before it, one of a later layer looks the own token up among those. A network of a million parameters
does not find the two within thousands of demonstrations; it remembers names instead of reading them, and knows none
that it was not taught.
"""

from __future__ import annotations

import math
from typing import Any, Final

import torch

_PREVIOUS: Final = (8.0, 6.0, 4.0, 4.0)
"""Biases of the first head, by pair of dimensions, the fastest turning pairs first."""
_SLOW: Final = 2e-3
"""Radians a token: pairs that turn more slowly hardly tell where a token stands, so they can compare what it is."""
_OTHERS: Final = 0.1
"""Factor on what all other heads and the MLPs add to the residual stream at first, which would drown the embeddings."""
_WRITTEN, _SOUGHT, _SAID = 0.2, 1.41, 2.0
"""Factors on what the first head writes, on the second one's queries and keys, and on what that one writes."""


def start_with_induction(model: Any) -> None:
    """Give a freshly made Qwen2 model, in place, an induction head: head 0 of its first two layers.

    Three sets of orthonormal directions of the residual stream (n, n and d of them, for n slow dimensions of a head of
    d) carry it: B, in which tokens are compared; C, where the first head writes B's view of the token before; D, in
    which the token found is said again. With tied embeddings, D's view of it raises its own logit.

    Raises ValueError for a model of one layer, or too narrow for the three sets.
    """
    config = model.config
    width, size = config.hidden_size, config.hidden_size // config.num_attention_heads
    turns = [config.rope_parameters["rope_theta"] ** (-2 * pair / size) for pair in range(size // 2)]
    slow = [pair for pair, turn in enumerate(turns) if turn < _SLOW]
    rows = [*slow, *(pair + size // 2 for pair in slow)]
    if config.num_hidden_layers < 2 or not rows or 2 * len(rows) + size > width:
        raise ValueError(f"{config.num_hidden_layers} layers of width {width} have no room for an induction head")
    directions = torch.linalg.qr(torch.randn(width, width))[0]
    compared, written, said = directions.split([len(rows), len(rows), width - 2 * len(rows)])
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight *= _OTHERS
            layer.mlp.down_proj.weight *= _OTHERS
        first, second = (_emptied(layer.self_attn, size) for layer in model.model.layers[:2])
        for pair, bias in enumerate(_PREVIOUS):  # the keys of one token earlier, turned as far as the queries
            first.k_proj.bias[pair] = bias
            first.q_proj.bias[pair] = bias * math.cos(turns[pair])
            first.q_proj.bias[pair + size // 2] = -bias * math.sin(turns[pair])
        first.v_proj.weight[rows] = compared
        first.o_proj.weight[:, rows] = _WRITTEN * written.T
        second.q_proj.weight[rows] = _SOUGHT * compared
        second.k_proj.weight[rows] = _SOUGHT * written
        second.v_proj.weight[:size] = said[:size]
        second.o_proj.weight[:, :size] = _SAID * said[:size].T


def _emptied(attention: Any, size: int) -> Any:
    """The attention with nothing in its head 0."""
    for projection in (attention.q_proj, attention.k_proj, attention.v_proj):
        projection.weight[:size] = 0
        projection.bias[:size] = 0
    attention.o_proj.weight[:, :size] = 0
    return attention
