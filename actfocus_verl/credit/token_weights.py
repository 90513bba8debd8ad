"""From the columns of a training batch to the ``token_weights`` column: what the trainer calls once a step.

It runs on the driver over the whole batch, so that the result depends on neither data parallelism nor micro-batches.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from actfocus_verl.credit.checks import check_roles, check_rows, check_same_shape, count_tokens_and_rows
from actfocus_verl.credit.registry import WeightingSpec
from actfocus_verl.credit.tokens import TokenRole
from actfocus_verl.credit.weighting import normalize


def compute_token_weights(
    columns: Mapping[str, Tensor],
    weighting: WeightingSpec,
    *,
    valid_rows: Tensor | None = None,
    mini_batch_ids: Tensor | None = None,
) -> Tensor:
    """Normalised weights of every token of a training batch.

    Padding rows are taken out before the weighting sees the batch, so they are in no statistic, whatever the weighting
    does and whatever they hold. A token with ``response_mask`` 0 counts as ENVIRONMENT.

    Args:
        columns: tensors of B rows. ``token_roles`` (B, T) always; ``response_mask`` (B, T) if there is one; and those
            of ``weighting.required_columns``. What they hold outside the response is never read.
        weighting: from :func:`~actfocus_verl.credit.registry.build_weighting`.
        valid_rows: (B,), bool; False marks padding rows, which get weight 0. None: all rows are valid.
        mini_batch_ids: (B,), integer; needed with ``normalize: mini_batch``. Values at padding rows do not matter.

    Returns:
        (B, T), float32: mean 1 over the response tokens of the (mini-)batch, 0 elsewhere.

    Raises:
        ValueError: a required column is missing, shapes differ, roles and response mask contradict each other, the
            signal is not finite at an ACTION token, or the weighting returned unusable weights.
    """
    _check_columns(columns, weighting)
    token_roles = columns["token_roles"]
    rows = all_rows(token_roles) if valid_rows is None else valid_rows.bool().to(token_roles.device)
    check_rows("valid_rows", rows, token_roles)

    batch = _Columns({name: column[rows.to(column.device)] for name, column in columns.items()})
    batch["token_roles"] = response_roles(batch)
    raw = weighting(batch)
    if not isinstance(raw, Tensor):
        raise ValueError(f"weighting {weighting.name} returned a {type(raw).__name__}; it must return a (B, T) tensor")
    check_same_shape(f"the result of weighting {weighting.name}", raw, batch["token_roles"])

    ids = None if mini_batch_ids is None else mini_batch_ids.to(rows.device)
    if ids is not None:
        check_rows("mini_batch_ids", ids, token_roles)
        ids = ids[rows]
    weights = torch.zeros(token_roles.shape, dtype=torch.float32, device=token_roles.device)
    weights[rows] = normalize(raw, batch["token_roles"], weighting.normalize, ids)
    return weights


def response_roles(columns: Mapping[str, Tensor]) -> Tensor:
    """``token_roles`` with ENVIRONMENT wherever ``response_mask`` (if there is one) is 0.

    Raises:
        ValueError: shapes differ, or ENVIRONMENT tokens are marked as sampled: then the two columns are misaligned, and
            the division by the number of response tokens in the loss would no longer be a division by sum(w).
    """
    token_roles = columns["token_roles"]
    check_roles(token_roles)
    if "response_mask" not in columns:
        return token_roles
    check_same_shape("response_mask", columns["response_mask"], token_roles)
    sampled = columns["response_mask"].bool().to(token_roles.device)
    contradicting = sampled & (token_roles == TokenRole.ENVIRONMENT)
    if bool(contradicting.any()):
        raise ValueError(
            f"response_mask marks {count_tokens_and_rows(contradicting)} as sampled whose role is ENVIRONMENT; "
            "mark padding rows in valid_rows, and check that both columns are aligned with the response"
        )
    return torch.where(sampled, token_roles, int(TokenRole.ENVIRONMENT))


def all_rows(token_roles: Tensor) -> Tensor:
    """(B,) bool, all True."""
    return torch.ones(token_roles.shape[:1], dtype=torch.bool, device=token_roles.device)


def _check_columns(columns: Mapping[str, Tensor], weighting: WeightingSpec) -> None:
    missing = [name for name in ("token_roles", *weighting.required_columns) if name not in columns]
    if missing:
        raise ValueError(
            f"credit.name={weighting.name} needs the columns {', '.join(missing)}, the batch has "
            f"{', '.join(sorted(columns))}; energy and ref_log_prob come from the reference pass"
        )


class _Columns(dict[str, Tensor]):
    """A batch's columns; reading one that is not there says how to get it."""

    def __missing__(self, name: str) -> Tensor:
        raise ValueError(
            f"the weighting reads the column {name!r}, the batch has {', '.join(sorted(self))}; if the trainer can "
            f"compute it, declare it: @register_weighting(..., required_columns=({name!r},))"
        )
