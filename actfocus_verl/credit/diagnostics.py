"""What the weights did in a step, as flat metrics for the logger.

All statistics are over response tokens (not ENVIRONMENT, not masked, not in padding rows); N is their number.

========================================  =====================================================================
``credit/action_token_share``             ACTION tokens / N; 0 when N = 0
``credit/effective_sample_size``          Kish: (sum w)^2 / sum w^2, divided by N; 1 for equal weights, 0 when all are 0
``credit/mean_weight/<role>``             mean weight; left out when the role has no token
``credit/<signal>/<role>/p10, p50, p90``  quantiles (linear interpolation) of the finite values; left out without any
``credit/gradient_mass/<role>``           share of sum w|A|, or of sum w without advantages; 0 for a role without
                                          tokens, and 0 everywhere when the total is 0
========================================  =====================================================================

``<signal>`` is each of ``LOGIT_SIGNALS`` (energy and the like) whose column is there.
``<role>`` is ``reasoning``, ``action`` or ``format``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import torch
from torch import Tensor

from actfocus_verl.credit.checks import check_rows, check_same_shape
from actfocus_verl.credit.signals import LOGIT_SIGNALS
from actfocus_verl.credit.token_weights import all_rows, response_roles
from actfocus_verl.credit.tokens import RESPONSE_ROLES, TokenRole

SIGNAL_QUANTILES: Final[tuple[int, ...]] = (10, 50, 90)
"""Percentages."""


def credit_metrics(
    weights: Tensor,
    columns: Mapping[str, Tensor],
    advantages: Tensor | None = None,
    valid_rows: Tensor | None = None,
) -> dict[str, float]:
    """The metrics of the table above.

    Args:
        weights: (B, T), float: the ``token_weights`` column.
        columns: ``token_roles`` always; ``response_mask``, ``energy`` and other signals where there are some: (B, T).
        advantages: (B, T), float, unweighted; None: gradient mass is the share of the weights alone.
        valid_rows: (B,), bool; False marks padding rows. None: all rows are valid.

    Raises:
        ValueError: shapes differ, or roles and response mask contradict each other.
    """
    token_roles = columns["token_roles"]
    rows = all_rows(token_roles) if valid_rows is None else valid_rows.bool().to(token_roles.device)
    check_rows("valid_rows", rows, token_roles)
    check_same_shape("weights", weights, token_roles)
    kept = {name: columns[name][rows] for name in ("token_roles", "response_mask") if name in columns}
    batch_roles = response_roles(kept)
    response = batch_roles != TokenRole.ENVIRONMENT

    roles = batch_roles[response]  # (N,), and so are the following
    w = weights.detach()[rows][response].double()
    mass = w if advantages is None else w * _tokens("advantages", advantages, token_roles, rows, response).abs()
    signals = {
        name: _tokens(name, columns[name], token_roles, rows, response) for name in LOGIT_SIGNALS if name in columns
    }

    metrics = {
        "credit/action_token_share": _ratio((roles == TokenRole.ACTION).sum(), roles.numel()),
        "credit/effective_sample_size": _ratio(w.sum().square(), float(w.square().sum()) * roles.numel()),
    }
    total_mass = float(mass.sum())
    for role in RESPONSE_ROLES:
        name, selected = role.name.lower(), roles == role
        if bool(selected.any()):
            metrics[f"credit/mean_weight/{name}"] = float(w[selected].mean())
        metrics[f"credit/gradient_mass/{name}"] = _ratio(mass[selected].sum(), total_mass)
        for signal, values in signals.items():
            metrics |= _quantiles(f"credit/{signal}/{name}", values[selected])
    return metrics


def _tokens(name: str, column: Tensor, token_roles: Tensor, rows: Tensor, response: Tensor) -> Tensor:
    """(N,) float64: the column at the response tokens of the valid rows."""
    check_same_shape(name, column, token_roles)
    return column.detach().to(token_roles.device)[rows][response].double()


def _quantiles(prefix: str, values: Tensor) -> dict[str, float]:
    finite = values[torch.isfinite(values)]
    if finite.numel() == 0:
        return {}
    # NumPy's, because torch.quantile refuses more than 2^24 values: 2,048 rows of 8,192 tokens.
    results = np.quantile(finite.cpu().numpy(), [percent / 100 for percent in SIGNAL_QUANTILES])
    return {f"{prefix}/p{percent}": float(value) for percent, value in zip(SIGNAL_QUANTILES, results, strict=True)}


def _ratio(numerator: Tensor, denominator: float) -> float:
    return float(numerator) / denominator if denominator > 0 else 0.0
