"""Weightings by the entropy of the sampling policy: of its most uncertain tokens, or of its turns (AEM, EMPG).

AEM and EMPG modulate the advantage of a turn by the entropy of that turn relative to others. A positive factor on the
advantage is a token weight. EMPG also adds to the advantage, which no weight can do: it returns that part beside its
weights. See docs/methods.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import numpy as np
import torch
from torch import Tensor

from actfocus_verl.checks import require_choice, require_flag, require_number
from actfocus_verl.credit.checks import check_finite, check_roles, check_rows, check_same_shape
from actfocus_verl.credit.registry import register_weighting
from actfocus_verl.credit.tokens import TokenRole
from actfocus_verl.credit.turns import Turns

ENTROPY_QUANTILE: Final = "entropy_quantile"
AEM: Final = "aem"
EMPG: Final = "empg"

SCOPES: Final[tuple[str, ...]] = ("group", "trajectory", "batch")
"""Which turns AEM compares with each other."""
STRONGEST: Final = 20.0
"""Limit of the exponents: a factor of exp(20) between two tokens makes the lighter one negligible."""
_ENTROPY_REMEDY: Final = "check the logits of the old policy's log-prob pass"
EMPG_EPS: Final = 1e-8
"""Added to EMPG's range of entropies, as its authors do."""


def entropy_quantile(entropy: Tensor, token_roles: Tensor, *, fraction: float = 0.2) -> Tensor:
    """Weight 1 on the ``fraction`` of the sampled tokens with the highest entropy, 0 on the others.

    The threshold is the entropy of the token at rank ``ceil(fraction * N)`` among all N sampled tokens given; tokens
    equal to it are kept too, so the order of rows cannot matter.

    Args:
        entropy: (B, T) or any shape, of the sampling policy, in nats; read at sampled tokens only.
        token_roles: same shape, integer, values of TokenRole.
        fraction: in (0, 1]; 1 keeps every token.

    Returns:
        Same shape, float32.

    Raises:
        ConfigurationError: ``fraction`` is out of range.
        ValueError: shapes differ, a role is unknown, or an entropy at a sampled token is NaN or infinite.
    """
    check_entropy_quantile(fraction=fraction)
    response = _response(entropy, token_roles)
    values = entropy.detach()[response].float()
    count = values.numel()
    if count == 0:
        return response.float()
    check_finite("entropy", values, entropy, response, "sampled", _ENTROPY_REMEDY)
    rank = count - max(1, math.ceil(round(fraction * count, 6)))  # round: 0.1 * 30 is a little more than 3
    threshold = float(np.partition(values.cpu().numpy(), rank)[rank])  # torch's kthvalue is many times slower
    return (response & (entropy.float() >= threshold)).float()  # both in float32, so that the threshold is kept


def aem(
    entropy: Tensor,
    token_roles: Tensor,
    turn_ids: Tensor,
    group_ids: Tensor | None = None,
    *,
    lam: float = 1.0,
    gate: float = 0.1,
    scope: str = "group",
) -> Tensor:
    """AEM's factor on the advantage (arXiv 2605.00425), the same for all tokens of a turn.

    ::

        H(i,t)  = mean entropy of the tokens of turn t of episode i
        H~(i,t) = (H(i,t) - min) / (max - min)                      over all turns of the prompt group
        w(i,t)  = exp(-lam * H~(i,t)) / mean exp(-lam * H~)         over all turns of the prompt group
        w       = 1 in a group where max - min < gate

    The mean of w over a group's turns is 1, every turn counting once, whatever its length.

    Args:
        entropy: (B, T), of the sampling policy, in nats.
        token_roles: (B, T), integer, values of TokenRole.
        turn_ids: (B, T), integer: see :class:`~actfocus_verl.credit.turns.Turns`.
        group_ids: (B,), integer, equal for the episodes of a prompt; needed by ``scope="group"`` only.
        lam: strength; 0 gives weights of 1, a negative value reverses the direction (an ablation of the paper).
        gate: smallest range of entropies, in nats, that is modulated at all; >= 0.
        scope: ``group``, or the paper's ablations ``trajectory`` (one episode's turns) and ``batch``.

    Returns:
        (B, T), float32; 0 at ENVIRONMENT tokens.

    Raises:
        ConfigurationError: a parameter is out of range.
        ValueError: shapes differ, a role is unknown, a sampled token has no turn, an entropy at a sampled token is NaN
            or infinite, or group ids are missing.
    """
    check_aem(lam=lam, gate=gate, scope=scope)
    turns, entropies = _turn_entropies(entropy, token_roles, turn_ids)
    groups = _groups(token_roles, group_ids, scope)
    relative, ranges = _relative(entropies, turns.present, groups, eps=0.0)
    weights = _mean_one(torch.exp(-lam * relative), turns.present, groups)
    gated = (ranges < gate)[groups].unsqueeze(1)
    return turns.to_tokens(torch.where(gated, 1.0, weights))


def empg(
    advantages: Tensor | None,
    entropy: Tensor,
    token_roles: Tensor,
    turn_ids: Tensor,
    *,
    k: float = 1.0,
    k_future: float = 1.0,
    zeta: float = 0.1,
    center: bool = True,
) -> Tensor | tuple[Tensor, Tensor]:
    """EMPG (arXiv 2509.09265): a factor g on the advantage, and what is added to it; the same for a turn's tokens.

    ::

        H~     = (H - min) / (max - min + 1e-8)          H: mean entropy of a turn; min and max over the batch's turns
        g(t)   = exp(-k * H~(t)) / mean exp(-k * H~)     mean over the batch's turns
        bonus  = zeta * exp(-k_future * H~(t + 1))       0 for the last turn of an episode
        c      = mean over the batch's turns of (g * mean A of the turn's tokens + bonus); 0 without center
        shift  = (bonus - c) / g                         so that g * (A + shift) is EMPG's advantage g * A + bonus - c

    Args:
        advantages: (B, T), of the estimator; read at sampled tokens, and with ``center`` only: else it may be None.
        entropy: (B, T), of the sampling policy, in nats.
        token_roles: (B, T), integer, values of TokenRole.
        turn_ids: (B, T), integer: see :class:`~actfocus_verl.credit.turns.Turns`.
        k: strength of g, in [0, 20]; 0 gives weights of 1.
        k_future: how fast the bonus falls with the entropy of the next turn, in [0, 20].
        zeta: size of the bonus, >= 0.
        center: whether to subtract c.

    Returns:
        The weights g, (B, T), float32, 0 at ENVIRONMENT tokens; and, with a bonus or centring, the shift, likewise.

    Raises:
        ConfigurationError: a parameter is out of range.
        ValueError: as for :func:`aem`, or an advantage at a sampled token is NaN or infinite.
    """
    check_empg(k=k, k_future=k_future, zeta=zeta, center=center)
    turns, entropies = _turn_entropies(entropy, token_roles, turn_ids)
    whole_batch = _groups(token_roles, None, "batch")
    relative, _ = _relative(entropies, turns.present, whole_batch, EMPG_EPS)
    scale = _mean_one(torch.exp(-k * relative), turns.present, whole_batch)
    weights = turns.to_tokens(scale)
    if zeta == 0 and not center:
        return weights
    added = zeta * turns.following(torch.exp(-k_future * relative))
    if center:
        if advantages is None:
            raise ValueError("center subtracts the mean advantage of the batch's turns; give the advantages")
        check_same_shape("advantages", advantages, token_roles)
        means = turns.mean(advantages)
        check_finite("advantages", means, advantages, turns.bins > 0, "sampled", "check the estimator's inputs")
        modified = torch.where(turns.present, scale * means + added, 0.0)
        added = added - modified.sum() / turns.present.sum().clamp(min=1)
    return weights, turns.to_tokens(added / scale)


def _response(entropy: Tensor, token_roles: Tensor) -> Tensor:
    """Bool mask of the sampled tokens, after checking the two columns."""
    check_roles(token_roles)
    check_same_shape("entropy", entropy, token_roles)
    return token_roles != TokenRole.ENVIRONMENT


def _turn_entropies(entropy: Tensor, token_roles: Tensor, turn_ids: Tensor) -> tuple[Turns, Tensor]:
    """The turns and their mean entropies (B, K), float64."""
    turns = Turns.of(turn_ids, _response(entropy, token_roles))
    entropies = turns.mean(entropy)
    check_finite("entropy", entropies, entropy, turns.bins > 0, "sampled", _ENTROPY_REMEDY)
    return turns, entropies


def _groups(token_roles: Tensor, group_ids: Tensor | None, scope: str) -> Tensor:
    """(B,), int64: which rows are compared, as consecutive numbers from 0."""
    rows = torch.arange(token_roles.shape[0], device=token_roles.device)
    if scope == "trajectory":
        return rows
    if scope == "batch":
        return torch.zeros_like(rows)
    if group_ids is None:
        raise ValueError("scope=group compares the episodes of a prompt; give group_ids of shape (B,)")
    check_rows("group_ids", group_ids, token_roles)
    groups: Tensor = torch.unique(group_ids.to(token_roles.device), return_inverse=True)[1]
    return groups


def _relative(values: Tensor, present: Tensor, groups: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Min-max of (B, K) values over the turns of each group, 0 where all are equal; and the ranges, one per group."""
    low = _extreme(torch.where(present, values, math.inf), groups, "amin", math.inf)
    high = _extreme(torch.where(present, values, -math.inf), groups, "amax", -math.inf)
    ranges = torch.where(high >= low, high - low, 0.0)
    width = torch.where(ranges > 0, ranges + eps, 1.0)
    relative = (values - low[groups].unsqueeze(1)) / width[groups].unsqueeze(1)
    return torch.where(present, relative, 0.0), ranges


def _extreme(values: Tensor, groups: Tensor, reduce: str, start: float) -> Tensor:
    """Smallest (``amin``) or largest (``amax``) of (B, K) values in each group, ``start`` for a group without turns."""
    by_row = torch.nn.functional.pad(values, (0, 1), value=start)  # a row may have no turn at all
    by_row = by_row.amin(dim=1) if reduce == "amin" else by_row.amax(dim=1)
    return values.new_full((len(groups),), start).scatter_reduce_(0, groups, by_row, reduce)


def _mean_one(values: Tensor, present: Tensor, groups: Tensor) -> Tensor:
    """(B, K) values divided by their mean over the turns of each group."""
    zeros = values.new_zeros(len(groups))
    sums = zeros.index_add(0, groups, torch.where(present, values, 0.0).sum(dim=1))
    counts = zeros.index_add(0, groups, present.sum(dim=1).double())
    means = sums / counts
    return values / means[groups].unsqueeze(1)


def check_entropy_quantile(*, fraction: object) -> None:
    """Raise ConfigurationError unless ``fraction`` is a number in (0, 1]."""
    require_number("fraction", fraction, low=0.0, high=1.0, open_low=True)


def check_aem(*, lam: object, gate: object, scope: object) -> None:
    """Raise ConfigurationError, naming key, value and range, unless the parameters of ``aem`` can work."""
    require_number("lam", lam, low=-STRONGEST, high=STRONGEST)
    require_number("gate", gate, low=0.0)
    require_choice("scope", scope, choices=SCOPES)


def check_empg(*, k: object, k_future: object, zeta: object, center: object) -> None:
    """Raise ConfigurationError, naming key, value and range, unless the parameters of ``empg`` can work."""
    require_number("k", k, low=0.0, high=STRONGEST)
    require_number("k_future", k_future, low=0.0, high=STRONGEST)
    require_number("zeta", zeta, low=0.0)
    require_flag("center", center)


@register_weighting(ENTROPY_QUANTILE, required_columns=("entropy",), check=check_entropy_quantile, granularity="token")
def entropy_quantile_weighting(columns: Mapping[str, Tensor], *, fraction: float = 0.2) -> Tensor:
    """``credit.name=entropy_quantile``: see :func:`entropy_quantile`."""
    return entropy_quantile(columns["entropy"], columns["token_roles"], fraction=fraction)


def _aem_columns(params: Mapping[str, object]) -> tuple[str, ...]:
    return ("entropy", "turn_ids", "group_ids") if params["scope"] == "group" else ("entropy", "turn_ids")


@register_weighting(AEM, required_columns=_aem_columns, check=check_aem, granularity="turn")
def aem_weighting(
    columns: Mapping[str, Tensor], *, lam: float = 1.0, gate: float = 0.1, scope: str = "group"
) -> Tensor:
    """``credit.name=aem``: see :func:`aem`."""
    return aem(
        columns["entropy"],
        columns["token_roles"],
        columns["turn_ids"],
        columns.get("group_ids"),
        lam=lam,
        gate=gate,
        scope=scope,
    )


def _empg_columns(params: Mapping[str, object]) -> tuple[str, ...]:
    return ("entropy", "turn_ids", "advantages") if params["center"] else ("entropy", "turn_ids")


@register_weighting(EMPG, required_columns=_empg_columns, check=check_empg, granularity="turn")
def empg_weighting(
    columns: Mapping[str, Tensor],
    *,
    k: float = 1.0,
    k_future: float = 1.0,
    zeta: float = 0.1,
    center: bool = True,
) -> Tensor | tuple[Tensor, Tensor]:
    """``credit.name=empg``: see :func:`empg`."""
    return empg(
        columns.get("advantages"),
        columns["entropy"],
        columns["token_roles"],
        columns["turn_ids"],
        k=k,
        k_future=k_future,
        zeta=zeta,
        center=center,
    )
