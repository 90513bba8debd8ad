"""Token weightings: how the policy gradient is spread over the tokens of a batch.

A weighting gives one non-negative weight a token and never touches the advantages. The life of a weight:

1. ``uniform`` or ``actfocus`` computes raw weights from the roles (and a signal) of the whole training batch;
2. ``normalize`` scales them to mean 1 over the response tokens, so that verl's token mean of ``w * surrogate`` is
   ``sum(w * surrogate) / sum(w)``: Eq. 6;
3. the loss multiplies each token's clipped surrogate with its weight.

The pure functions stand alone; the thin wrappers at the end register them under a name that ``credit.name`` selects.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor

from actfocus_verl.credit.checks import (
    check_normalize,
    check_number,
    check_roles,
    check_rows,
    check_same_shape,
    count_tokens_and_rows,
)
from actfocus_verl.credit.registry import register_weighting
from actfocus_verl.credit.signals import ENERGY, KNOWN_SIGNALS
from actfocus_verl.credit.tokens import TokenRole
from actfocus_verl.errors import ConfigurationError

UNIFORM: Final = "uniform"
ACTFOCUS: Final = "actfocus"


def uniform(token_roles: Tensor) -> Tensor:
    """Weight 1 on every token the policy sampled, 0 on ENVIRONMENT.

    Args:
        token_roles: (B, T) or any shape, integer, values of TokenRole.

    Returns:
        Same shape, float32.
    """
    check_roles(token_roles)
    return (token_roles != TokenRole.ENVIRONMENT).float()


def actfocus(
    signal: Tensor | None,
    token_roles: Tensor,
    *,
    alpha: float = 0.1,
    beta: float = 0.5,
    format_weight: float | None = None,
    eps: float = 1e-8,
) -> Tensor:
    """ActFocus weights (Eq. 5), not yet normalised.

    ::

        w = alpha                                      REASONING
        w = 1 + beta * sigmoid((E - mu) / sigma)       ACTION
        w = format_weight, or alpha where it is None   FORMAT (the paper is silent on tags)
        w = 0                                          ENVIRONMENT

    mu is the mean of E over all ACTION tokens given, and ``sigma = sqrt(population variance + eps)``. Both are computed
    in float64, so that equal energies give z = 0 exactly and hence 1 + beta / 2; the same holds for a single action
    token. A batch without action tokens needs no statistic and has none. The signal is read at ACTION positions only:
    NaN or inf elsewhere reaches nothing. With beta = 0 it is not read at all and may be None.

    Args:
        signal: (B, T) or any shape, the energy E (or another score) of every token; None only with beta = 0.
        token_roles: same shape, integer, values of TokenRole.
        alpha: weight of REASONING tokens, in [0, 1].
        beta: strength of the modulation of ACTION tokens, at least 0.
        format_weight: weight of FORMAT tokens, at least 0; None gives alpha.
        eps: added to the variance, above 0.

    Returns:
        Same shape, float32, without gradient.

    Raises:
        ConfigurationError: a parameter is out of range, or beta > 0 without a signal.
        ValueError: the shapes differ, a role is unknown, or the signal is NaN or infinite at an ACTION token.
    """
    check_actfocus(alpha=alpha, beta=beta, format_weight=format_weight, eps=eps)
    check_roles(token_roles)
    if signal is None and beta > 0:
        raise ConfigurationError("beta", beta, "weighs action tokens by a signal and none was given", "Give the energy")

    by_role = torch.empty(len(TokenRole), dtype=torch.float32, device=token_roles.device)
    by_role[TokenRole.ENVIRONMENT] = 0.0
    by_role[TokenRole.REASONING] = alpha
    by_role[TokenRole.ACTION] = 1.0
    by_role[TokenRole.FORMAT] = alpha if format_weight is None else format_weight
    weights = by_role[token_roles.long()]

    if signal is not None:
        check_same_shape("signal", signal, token_roles)
        if beta > 0:
            action = token_roles == TokenRole.ACTION
            z = _standardised(signal.detach(), action, eps)
            weights[action] = (1.0 + beta * torch.sigmoid(z)).float()
    return weights


def _standardised(signal: Tensor, selected: Tensor, eps: float) -> Tensor:
    """z-scores in float64, shape (number of selected tokens,), of the signal over the selected tokens."""
    values = signal[selected].double()
    if values.numel() == 0:
        return values
    if not bool(torch.isfinite(values).all()):
        bad = count_tokens_and_rows(selected & ~torch.isfinite(signal))
        raise ValueError(
            f"the signal is NaN or infinite at ACTION tokens: {bad}; "
            "look at the logits of the reference pass, and at the alignment of its column with token_roles"
        )
    centred = values - values.mean()  # zeros when all are equal: a float64 sum of equal float32 values is exact
    return centred / torch.sqrt(centred.square().mean() + eps)


def normalize(
    weights: Tensor, token_roles: Tensor, mode: str = "batch", mini_batch_ids: Tensor | None = None
) -> Tensor:
    """Scale weights to mean 1 over the response tokens (the tokens that are not ENVIRONMENT): ``w * N / sum(w)``.

    - ``batch``: N and sum(w) are of the whole batch. Equals Eq. 6 exactly when a step is one mini-batch.
    - ``mini_batch``: every mini-batch by itself, so that Eq. 6 holds in each of them.

    Sums are float64. Weights that are 1 on every response token come out as exactly 1.0, whatever the mode: the sum is
    the count, and their quotient is 1. Where all weights of a (mini-)batch are 0 (alpha = 0 and no action token) they
    stay 0: no gradient, never NaN. ENVIRONMENT tokens come out as 0, whatever was there.

    Args:
        weights: (B, T); in mode ``batch`` any shape. Raw weights.
        token_roles: same shape, integer, values of TokenRole.
        mode: ``batch`` or ``mini_batch``.
        mini_batch_ids: (B,), integer, any values: rows with equal ids share a mini-batch. Needed by ``mini_batch``.

    Returns:
        Same shape, float32.

    Raises:
        ConfigurationError: unknown mode.
        ValueError: shapes differ, ids are missing, or a response token's weight is negative, NaN or infinite.
    """
    check_normalize(mode)
    check_roles(token_roles)
    check_same_shape("weights", weights, token_roles)
    response = token_roles != TokenRole.ENVIRONMENT
    _check_weights(weights, response)
    kept = torch.where(response, weights.detach().double(), 0.0)

    if mode == "batch":
        return (kept * _scale(response.sum(), kept.sum())).float()

    if mini_batch_ids is None:
        raise ValueError("normalize=mini_batch needs mini_batch_ids of shape (B,); give them, or use normalize=batch")
    check_rows("mini_batch_ids", mini_batch_ids, token_roles)
    unique_ids, group = torch.unique(mini_batch_ids.to(kept.device), return_inverse=True)
    per_row = (response.flatten(1).sum(dim=1).double(), kept.flatten(1).sum(dim=1))
    counts, sums = (kept.new_zeros(unique_ids.numel()).index_add(0, group, rows) for rows in per_row)
    row_scale = _scale(counts, sums)[group]
    return (kept * row_scale.view(-1, *[1] * (kept.dim() - 1))).float()


def _scale(counts: Tensor, sums: Tensor) -> Tensor:
    """``counts / sums`` in float64, and 0 where the sum is 0."""
    return torch.where(sums > 0, counts.double() / torch.where(sums > 0, sums, 1.0), 0.0)


def _check_weights(weights: Tensor, response: Tensor) -> None:
    """Raise ValueError unless every weight at a response token is a finite number of at least 0."""
    bad = response & ~(torch.isfinite(weights) & (weights >= 0))
    if bool(bad.any()):
        raise ValueError(
            f"token weights are negative, NaN or infinite at {count_tokens_and_rows(bad)}; "
            "a weighting must return finite weights of at least 0 on every response token"
        )


def check_actfocus(*, alpha: object, beta: object, format_weight: object, eps: object, signal: object = ENERGY) -> None:
    """Raise ConfigurationError, naming key, value and range, unless the parameters of ``actfocus`` can work."""
    check_number("alpha", alpha, low=0.0, high=1.0)
    check_number("beta", beta, low=0.0)
    if format_weight is not None:
        check_number("format_weight", format_weight, low=0.0)
    check_number("eps", eps, low=0.0, open_low=True)
    if signal not in KNOWN_SIGNALS:
        raise ConfigurationError("signal", signal, "is unknown", f"Choose one of {', '.join(KNOWN_SIGNALS)}")


def _actfocus_columns(params: Mapping[str, object]) -> tuple[str, ...]:
    """The signal, unless beta = 0: then action tokens weigh 1 and no reference pass is needed."""
    return () if params["beta"] == 0 else (str(params["signal"]),)


@register_weighting(UNIFORM)
def uniform_weighting(columns: Mapping[str, Tensor]) -> Tensor:
    """``credit.name=uniform``: see :func:`uniform`."""
    return uniform(columns["token_roles"])


@register_weighting(ACTFOCUS, required_columns=_actfocus_columns, check=check_actfocus)
def actfocus_weighting(
    columns: Mapping[str, Tensor],
    *,
    alpha: float = 0.1,
    beta: float = 0.5,
    format_weight: float | None = None,
    signal: str = ENERGY,
    eps: float = 1e-8,
) -> Tensor:
    """``credit.name=actfocus``: see :func:`actfocus`; ``signal`` names the column that holds the energies."""
    return actfocus(
        columns.get(signal), columns["token_roles"], alpha=alpha, beta=beta, format_weight=format_weight, eps=eps
    )
