"""How far the policy has moved since it sampled a batch, by token role and by token weight.

With an asynchronous schedule (docs/schedules.md) tokens were sampled by older weights than those that are trained. All
statistics are over response tokens (not ENVIRONMENT, not masked, not in padding rows); N is their number, w a token's
weight, r its importance weight (1 where nothing is corrected), pi the policy before the update and mu the one that
sampled the token.

====================================  =========================================================================
``staleness/log_ratio_sq/<role>``     mean of (log pi - log mu)^2, in nats^2; left out when the role has no token
``staleness/clipped_share/<role>``    share of tokens whose r was cut off at the threshold; left out without one
``staleness/effective_sample_size``   Kish, of w r: (sum w r)^2 / sum (w r)^2, divided by N; with r = 1 it is
                                      ``credit/effective_sample_size``
``staleness/age``                     mean versions of the weights between a token's episode and the update
``staleness/weighted_age``            sum w age / sum w: above ``staleness/age`` the weighting prefers old episodes
====================================  =========================================================================

A token's age is that of the oldest weights its episode was sampled by: an episode that was interrupted for an update
has tokens of several versions, and which token is of which is not recorded.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from actfocus_verl.credit.checks import check_rows, check_same_shape
from actfocus_verl.credit.token_weights import all_rows, response_roles
from actfocus_verl.credit.tokens import RESPONSE_ROLES, TokenRole


def staleness_metrics(
    weights: Tensor,
    columns: Mapping[str, Tensor],
    ages: Tensor,
    valid_rows: Tensor | None = None,
    *,
    threshold: float | None = None,
) -> dict[str, float]:
    """The metrics of the table above.

    Args:
        weights: (B, T), float, >= 0: the column ``token_weights``.
        columns: ``token_roles``; ``response_mask``, ``old_log_probs``, ``rollout_log_probs`` and
            ``rollout_is_weights`` where there are some: (B, T). Without both log-probs there is no log-ratio.
        ages: (B,), versions of each row's episode, >= 0.
        valid_rows: (B,), bool; False marks padding rows. None: all rows are valid.
        threshold: where importance weights are cut off; None: they are not.

    Raises:
        ValueError: shapes differ, or roles and response mask contradict each other.
    """
    roles_of_all = columns["token_roles"]
    check_same_shape("weights", weights, roles_of_all)
    check_rows("ages", ages, roles_of_all)
    rows = all_rows(roles_of_all) if valid_rows is None else valid_rows.bool()
    check_rows("valid_rows", rows, roles_of_all)
    roles = response_roles({name: columns[name][rows] for name in ("token_roles", "response_mask") if name in columns})
    response = roles != TokenRole.ENVIRONMENT

    def tokens(name: str) -> Tensor | None:
        """(N,) float64"""
        if name not in columns:
            return None
        check_same_shape(name, columns[name], roles_of_all)
        return columns[name][rows][response].double()

    of_token = roles[response]
    w = weights[rows][response].double()
    age = ages.double()[rows].unsqueeze(1).expand(roles.shape)[response]
    importance, current, sampling = tokens("rollout_is_weights"), tokens("old_log_probs"), tokens("rollout_log_probs")

    product = w if importance is None else w * importance
    metrics = {"staleness/effective_sample_size": _ratio(product.sum().square(), product.square().sum() * len(w))}
    if len(w):
        metrics["staleness/age"] = float(age.mean())
    if float(w.sum()) > 0:
        metrics["staleness/weighted_age"] = _ratio((w * age).sum(), w.sum())
    for role in RESPONSE_ROLES:
        chosen = of_token == role
        if not bool(chosen.any()):
            continue
        name = role.name.lower()
        if current is not None and sampling is not None:
            metrics[f"staleness/log_ratio_sq/{name}"] = float((current - sampling)[chosen].square().mean())
        if importance is not None and threshold is not None:
            metrics[f"staleness/clipped_share/{name}"] = float((importance[chosen] >= threshold).double().mean())
    return metrics


def _ratio(numerator: Tensor, denominator: Tensor) -> float:
    return float(numerator / denominator) if float(denominator) > 0 else 0.0
