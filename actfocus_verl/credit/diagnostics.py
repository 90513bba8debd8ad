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

With ``run.diagnose=true`` also the paper's diagnostic (Sec. 4), over the prompt groups of the step:

===============================  ==============================================================================
``diagnose/groups``              prompt groups of at least two episodes
``diagnose/spearman_all``        Spearman's rho between a group's mean energy, over all its response tokens, and
                                 the standard deviation of its returns; left out where it is undefined: fewer than
                                 ``LEAST_GROUPS`` groups, or one of the two is constant
``diagnose/spearman_reasoning``  the same over the REASONING tokens; groups without such a token are left out
``diagnose/spearman_action``     the same over the ACTION tokens
===============================  ==============================================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

from actfocus_verl.credit.blocks import row_blocks
from actfocus_verl.credit.checks import check_rows, check_same_shape
from actfocus_verl.credit.filters import group_std
from actfocus_verl.credit.signals import LOGIT_SIGNALS
from actfocus_verl.credit.token_weights import all_rows, response_roles
from actfocus_verl.credit.tokens import RESPONSE_ROLES, TokenRole

SIGNAL_QUANTILES: Final[tuple[int, ...]] = (10, 50, 90)
"""Percentages."""

GROUP_PARTS: Final[dict[str, tuple[TokenRole, ...]]] = {
    "all": RESPONSE_ROLES,
    "reasoning": (TokenRole.REASONING,),
    "action": (TokenRole.ACTION,),
}
"""The parts of a group over which the diagnostic averages the energy, and their token roles."""

LEAST_GROUPS: Final = 3
"""Two groups always correlate perfectly."""


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
    check_same_shape("weights", weights, token_roles)
    rows, batch_roles = _valid_roles(columns, valid_rows)
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


def _valid_roles(columns: Mapping[str, Tensor], valid_rows: Tensor | None) -> tuple[Tensor, Tensor]:
    """(B,) bool: the rows that are not padding; and the roles of their tokens, ENVIRONMENT for unsampled tokens."""
    token_roles = columns["token_roles"]
    rows = all_rows(token_roles) if valid_rows is None else valid_rows.bool().to(token_roles.device)
    check_rows("valid_rows", rows, token_roles)
    return rows, response_roles(
        {name: columns[name][rows] for name in ("token_roles", "response_mask") if name in columns}
    )


def _ratio(numerator: Tensor, denominator: float) -> float:
    return float(numerator) / denominator if denominator > 0 else 0.0


@dataclass(frozen=True)
class PromptGroups:
    """Statistics of G prompt groups, in the order of their ids."""

    ids: Tensor
    """(G,), int64, ascending."""
    sizes: Tensor
    """(G,), int64: conversations."""
    means: dict[str, Tensor]
    """By part (``GROUP_PARTS``), (G,), float64: the signal's mean over the group's tokens of that part, so that longer
    episodes count for more; NaN without such a token."""
    return_std: Tensor
    """(G,), float64: unbiased standard deviation of the returns, rounded to six digits to keep ties; NaN for a single
    episode."""


def prompt_groups(
    signal: Tensor,
    columns: Mapping[str, Tensor],
    returns: Tensor,
    group_ids: Tensor,
    valid_rows: Tensor | None = None,
    conversation_ids: Tensor | None = None,
) -> PromptGroups:
    """Mean signal and standard deviation of returns of each prompt group.

    Args:
        signal: (B, T), float: the energy, or another; read at response tokens only.
        columns: ``token_roles``, and ``response_mask`` where there is one: (B, T).
        returns: (B,), float, equal for the rows of a conversation.
        group_ids: (B,), integer, equal for the episodes of a prompt.
        valid_rows: (B,), bool; False marks padding rows. None: all rows are valid.
        conversation_ids: (B,), integer, equal for the rows of one conversation, which counts as one episode. None: each
            row is one.

    Raises:
        ValueError: shapes differ, a return is not finite, or roles and response mask contradict each other.
    """
    token_roles = columns["token_roles"]
    check_same_shape("signal", signal, token_roles)
    if conversation_ids is None:
        conversation_ids = torch.arange(len(token_roles))
    per_row = {"returns": returns, "group_ids": group_ids, "conversation_ids": conversation_ids}
    for name, column in per_row.items():
        check_rows(name, column, token_roles)
    rows, roles = _valid_roles(columns, valid_rows)
    values = signal.detach().to(roles.device)[rows]
    ids, group = torch.unique(group_ids.to(roles.device)[rows], return_inverse=True)
    # NumPy's, because torch.unique does not say where
    once = np.unique(conversation_ids.to(roles.device)[rows].cpu().numpy(), return_index=True)[1]
    of_episode, episode_returns = group[once], returns.to(roles.device)[rows][once]
    deviations = [_return_std(episode_returns[of_episode == number]) for number in range(len(ids))]
    return PromptGroups(
        ids=ids,
        sizes=torch.bincount(of_episode, minlength=len(ids)),
        means={part: _group_means(values, roles, wanted, group, len(ids)) for part, wanted in GROUP_PARTS.items()},
        return_std=torch.tensor(deviations, dtype=torch.float64),
    )


def group_metrics(groups: PromptGroups) -> dict[str, float]:
    """The ``diagnose/`` metrics of the table above."""
    from scipy.stats import spearmanr  # half a second in every process that imports verl, if it were at the top

    several = groups.sizes > 1
    metrics = {"diagnose/groups": float(several.sum())}
    for part, means in groups.means.items():
        known = several & torch.isfinite(means)
        pair = means[known], groups.return_std[known]
        if len(pair[0]) >= LEAST_GROUPS and all(bool((values != values[0]).any()) for values in pair):
            metrics[f"diagnose/spearman_{part}"] = float(spearmanr(*(values.numpy() for values in pair)).statistic)
    return metrics


def _group_means(values: Tensor, roles: Tensor, wanted: tuple[TokenRole, ...], group: Tensor, groups: int) -> Tensor:
    """(groups,) float64: the mean of (B, T) values over each group's tokens of the wanted roles, NaN without any."""
    sums, counts = torch.zeros(2, len(roles), dtype=torch.float64, device=roles.device)
    of_part = torch.tensor([role in wanted for role in TokenRole], device=roles.device)
    for rows in row_blocks(roles):
        chosen = of_part[roles[rows].long()]
        sums[rows] = torch.where(chosen, values[rows].double(), 0.0).sum(dim=1)
        counts[rows] = chosen.sum(dim=1).double()
    zeros = sums.new_zeros(groups)
    means: Tensor = zeros.index_add(0, group, sums) / zeros.index_add(0, group, counts)
    return means.cpu()


def _return_std(returns: Tensor) -> float:
    if len(returns) < 2:
        return float("nan")
    # k and n - k successes have the same; in float arithmetic not quite, and ranks would tell them apart.
    return float(f"{group_std(returns.tolist()):.6g}")
