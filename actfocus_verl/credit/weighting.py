"""Token weightings: how the policy gradient is spread over the tokens of a batch.

A weighting gives one non-negative weight per token; none in this file touches the advantages. The life of a weight:

1. ``uniform`` or ``actfocus`` (or one of :mod:`~actfocus_verl.credit.entropy_weighting`) computes raw weights from the
   roles (and a signal) of the whole training batch;
2. ``normalize`` scales them to mean 1 over the response tokens, so that verl's token mean of ``w * surrogate`` is
   ``sum(w * surrogate) / sum(w)``: Eq. 6;
3. the loss multiplies each token's clipped surrogate with its weight.

The pure functions stand alone; the thin wrappers at the end register them under a name that ``credit.name`` selects.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor

from actfocus_verl.checks import require_choice, require_number
from actfocus_verl.credit.blocks import row_blocks
from actfocus_verl.credit.checks import check_finite, check_roles, check_rows, check_same_shape, count_tokens_and_rows
from actfocus_verl.credit.registry import NORMALIZE_MODES, register_weighting
from actfocus_verl.credit.signals import ENERGY, GAUGE_FREE_ENERGY, REFERENCE_ENTROPY
from actfocus_verl.credit.tokens import TokenRole
from actfocus_verl.errors import ConfigurationError

UNIFORM: Final = "uniform"
ACTFOCUS: Final = "actfocus"
ACTION_ONLY: Final = "action_only"

NLL: Final = "nll"
LOG_PROB_SHIFT: Final = "log_prob_shift"
ACTFOCUS_SIGNALS: Final[dict[str, tuple[str, ...]]] = {
    ENERGY: (ENERGY,),
    "entropy": (REFERENCE_ENTROPY,),
    NLL: ("old_log_probs",),
    LOG_PROB_SHIFT: ("old_log_probs", "ref_log_prob"),
    GAUGE_FREE_ENERGY: (GAUGE_FREE_ENERGY,),
}
"""What ``credit.signal`` may name (the paper's Table 4, and one more), and the columns each is read from."""


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
    token. A batch without action tokens has no statistics and needs none. The signal is read at ACTION positions only:
    NaN or inf elsewhere has no effect. With beta = 0 it is not read at all and may be None.

    Args:
        signal: (B, T) or any shape, the energy E (or another score) of every token; None only with beta = 0.
        token_roles: same shape, integer, values of TokenRole.
        alpha: weight of REASONING tokens, in [0, 1].
        beta: strength of the modulation of ACTION tokens, >= 0.
        format_weight: weight of FORMAT tokens, >= 0; None gives alpha.
        eps: added to the variance, > 0.

    Returns:
        Same shape, float32, without gradient.

    Raises:
        ConfigurationError: a parameter is out of range, or beta > 0 without a signal.
        ValueError: the shapes differ, a role is unknown, or the signal is NaN or infinite at an ACTION token.
    """
    check_actfocus(alpha=alpha, beta=beta, format_weight=format_weight, eps=eps)
    check_roles(token_roles)
    if signal is None and beta > 0:
        raise ConfigurationError(
            "beta", beta, "weights action tokens by a signal, and none was given", "Pass the energy"
        )

    by_role = torch.empty(len(TokenRole), dtype=torch.float32, device=token_roles.device)
    by_role[TokenRole.ENVIRONMENT] = 0.0
    by_role[TokenRole.REASONING] = alpha
    by_role[TokenRole.ACTION] = 1.0
    by_role[TokenRole.FORMAT] = alpha if format_weight is None else format_weight
    weights = by_role.index_select(0, token_roles.long().reshape(-1)).view(token_roles.shape)

    if signal is not None:
        check_same_shape("signal", signal, token_roles)
        if beta > 0:
            action = token_roles == TokenRole.ACTION
            z = _standardised(signal.detach(), action, eps)
            weights.masked_scatter_(action, (1.0 + beta * torch.sigmoid(z)).float())
    return weights


def _standardised(signal: Tensor, selected: Tensor, eps: float) -> Tensor:
    """z-scores in float64, shape (number of selected tokens,), of the signal over the selected tokens."""
    values = signal[selected].double()
    if values.numel() == 0:
        return values
    remedy = "check the logits of the pass that gives it, and the alignment of its column with token_roles"
    check_finite("the signal", values, signal, selected, "ACTION", remedy)
    centred = values - values.mean()  # zeros when all are equal: a float64 sum of equal float32 values is exact
    return centred / torch.sqrt(centred.square().mean() + eps)


def normalize(
    weights: Tensor, token_roles: Tensor, mode: str = "batch", mini_batch_ids: Tensor | None = None
) -> Tensor:
    """Scale weights to mean 1 over the response tokens (the tokens that are not ENVIRONMENT): ``w * N / sum(w)``.

    - ``batch``: N and sum(w) are of the whole batch. Equals Eq. 6 exactly when a step is one mini-batch.
    - ``mini_batch``: every mini-batch by itself, so that Eq. 6 holds in each of them.
    - ``none``: weights stay as they are, for methods that define their scale (AEM, EMPG: mean 1 over turns).

    Sums are float64. Weights that are 1 on every response token come out as exactly 1.0 in every mode: the sum is
    the count, and their quotient is 1. Where all weights of a (mini-)batch are 0 (alpha = 0 and no action token) they
    stay 0: no gradient, never NaN. ENVIRONMENT tokens always come out as 0.

    Args:
        weights: (B, T); any shape unless the mode is ``mini_batch``. Raw weights.
        token_roles: same shape, integer, values of TokenRole.
        mode: ``batch``, ``mini_batch`` or ``none``.
        mini_batch_ids: (B,), integer, any values: rows with equal ids share a mini-batch. Needed by ``mini_batch``.

    Returns:
        Same shape, float32.

    Raises:
        ConfigurationError: unknown mode.
        ValueError: shapes differ, ids are missing, or a response token's weight is negative, NaN or infinite.
    """
    require_choice("normalize", mode, choices=NORMALIZE_MODES)
    check_roles(token_roles)
    check_same_shape("weights", weights, token_roles)
    kept, counts, sums = _response_weights(weights.detach(), token_roles)
    if mode == "none":
        return kept.view(token_roles.shape)
    if mode == "batch":
        scale = _scale(counts.sum(), sums.sum()).expand_as(sums)
    else:
        scale = _mini_batch_scale(counts, sums, mini_batch_ids, token_roles)
    if bool((scale != 1.0).any()):
        for rows in row_blocks(kept):
            kept[rows] = (kept[rows].double() * scale[rows].unsqueeze(1)).float()
    return kept.view(token_roles.shape)


def _response_weights(weights: Tensor, token_roles: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Weights with 0 at ENVIRONMENT tokens, float32 (B, T); a row's response tokens and sum of weights, float64 (B,).

    A tensor of fewer than two dimensions is taken as one row. Raises ValueError for invalid weights.
    """
    roles, raw = (column.flatten(1) if column.dim() > 1 else column.reshape(1, -1) for column in (token_roles, weights))
    kept = torch.empty(roles.shape, dtype=torch.float32, device=roles.device)
    counts, sums = torch.zeros(2, len(roles), dtype=torch.float64, device=roles.device)
    usable = True
    for rows in row_blocks(roles):
        response = roles[rows] != TokenRole.ENVIRONMENT
        kept[rows] = torch.where(response, raw[rows].float(), 0.0)
        low, high = torch.aminmax(kept[rows])  # NaN, if there is one
        usable = usable and bool(low >= 0) and bool(high < math.inf)
        counts[rows] = response.sum(dim=1).double()
        sums[rows] = kept[rows].double().sum(dim=1)
    if not usable:
        bad = (roles != TokenRole.ENVIRONMENT) & ~(torch.isfinite(raw) & (raw >= 0))
        raise ValueError(
            f"token weights are negative, NaN or infinite at {count_tokens_and_rows(bad)}; "
            "a weighting must return finite weights >= 0 on every response token"
        )
    return kept, counts, sums


def _mini_batch_scale(counts: Tensor, sums: Tensor, mini_batch_ids: Tensor | None, token_roles: Tensor) -> Tensor:
    """(B,) float64: each row's scale, from the counts and sums (B,) of the rows that share its mini-batch."""
    if mini_batch_ids is None:
        raise ValueError("normalize=mini_batch needs mini_batch_ids of shape (B,); give them, or use normalize=batch")
    check_rows("mini_batch_ids", mini_batch_ids, token_roles)
    unique_ids, group = torch.unique(mini_batch_ids.to(sums.device), return_inverse=True)
    of_group = [sums.new_zeros(unique_ids.numel()).index_add(0, group, rows) for rows in (counts, sums)]
    return _scale(*of_group)[group]


def _scale(counts: Tensor, sums: Tensor) -> Tensor:
    """``counts / sums`` in float64, and 0 where the sum is 0."""
    return torch.where(sums > 0, counts / torch.where(sums > 0, sums, 1.0), 0.0)


def check_actfocus(*, alpha: object, beta: object, format_weight: object, eps: object, signal: object = ENERGY) -> None:
    """Raise ConfigurationError, naming key, value and range, unless the parameters of ``actfocus`` can work."""
    require_number("alpha", alpha, low=0.0, high=1.0)
    require_number("beta", beta, low=0.0)
    if format_weight is not None:
        require_number("format_weight", format_weight, low=0.0)
    require_number("eps", eps, low=0.0, open_low=True)
    require_choice("signal", signal, choices=ACTFOCUS_SIGNALS)


def read_signal(columns: Mapping[str, Tensor], signal: str) -> Tensor:
    """A signal of ``ACTFOCUS_SIGNALS`` for every token, from the columns it needs. ActFocus upweights high values.

    ::

        energy, gauge_free_energy, entropy    the reference's: see credit.signals
        nll                                   -log pi_old(y_t)
        log_prob_shift                        log pi_old(y_t) - log pi_ref(y_t)
    """
    if signal == NLL:
        return -columns["old_log_probs"]
    if signal == LOG_PROB_SHIFT:
        return columns["old_log_probs"] - columns["ref_log_prob"]
    (column,) = ACTFOCUS_SIGNALS[signal]
    return columns[column]


def _actfocus_columns(params: Mapping[str, object]) -> tuple[str, ...]:
    """The signal's columns, unless beta = 0: then action tokens weigh 1 and no reference pass is needed."""
    return () if params["beta"] == 0 else ACTFOCUS_SIGNALS[str(params["signal"])]


@register_weighting(UNIFORM)
def uniform_weighting(columns: Mapping[str, Tensor]) -> Tensor:
    """``credit.name=uniform``: see :func:`uniform`."""
    return uniform(columns["token_roles"])


@register_weighting(ACTFOCUS, required_columns=_actfocus_columns, check=check_actfocus, granularity="token")
def actfocus_weighting(
    columns: Mapping[str, Tensor],
    *,
    alpha: float = 0.1,
    beta: float = 0.5,
    format_weight: float | None = None,
    signal: str = ENERGY,
    eps: float = 1e-8,
) -> Tensor:
    """``credit.name=actfocus``: see :func:`actfocus` and, for ``signal``, :func:`read_signal`."""
    values = read_signal(columns, signal) if beta > 0 else None
    return actfocus(values, columns["token_roles"], alpha=alpha, beta=beta, format_weight=format_weight, eps=eps)


@register_weighting(ACTION_ONLY, granularity="token")
def action_only_weighting(columns: Mapping[str, Tensor]) -> Tensor:
    """``credit.name=action_only``: ActFocus with alpha = beta = 0. Action tokens weigh 1, everything else 0."""
    return actfocus(None, columns["token_roles"], alpha=0.0, beta=0.0)
