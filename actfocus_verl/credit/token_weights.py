"""From the columns of a training batch to the ``token_weights`` column: called by the trainer once per step.

It runs on the driver over the whole batch, so that the result depends on neither data parallelism nor micro-batches.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from actfocus_verl.columns import COLUMNS
from actfocus_verl.credit.checks import check_finite, check_roles, check_rows, check_same_shape, count_tokens_and_rows
from actfocus_verl.credit.placebo import shuffle_within_roles
from actfocus_verl.credit.registry import WeightingSpec
from actfocus_verl.credit.tokens import TokenRole
from actfocus_verl.credit.weighting import normalize


class TokenCredit(NamedTuple):
    """A weighting's result for a training batch."""

    weights: Tensor
    """(B, T), float32: 0 outside the response; mean 1 over the response tokens of the (mini-)batch, unless
    ``normalize: none``."""
    advantage_shift: Tensor | None
    """(B, T), float32, 0 outside the response: added to the advantages that the weights multiply. None, for all
    weightings but EMPG: they stay as they are."""


def compute_token_credit(
    columns: Mapping[str, Tensor],
    weighting: WeightingSpec,
    *,
    valid_rows: Tensor | None = None,
    mini_batch_ids: Tensor | None = None,
    placebo_seed: Sequence[int] = (0,),
) -> TokenCredit:
    """Normalised weights of every token of a training batch, and what is added to its advantages.

    Padding rows are removed before the weighting sees the batch, so they enter no statistic. A token with
    ``response_mask`` 0 counts as ENVIRONMENT.

    Args:
        columns: tensors of B rows. ``token_roles`` (B, T) always; ``response_mask`` (B, T) if there is one; and those
            of ``weighting.required_columns``. Values outside the response are never read.
        weighting: from :func:`~actfocus_verl.credit.registry.build_weighting`.
        valid_rows: (B,), bool; False marks padding rows, which get weight 0. None: all rows are valid.
        mini_batch_ids: (B,), integer; needed with ``normalize: mini_batch``. Values at padding rows do not matter.
        placebo_seed: integers >= 0, read only with ``placebo: true``: the run's seed and the step.

    Raises:
        ValueError: a required column is missing, shapes differ, roles and response mask contradict each other, a column
            is not finite where it is read, or the weighting returned unusable weights.
    """
    _check_columns(columns, weighting)
    token_roles = columns["token_roles"]
    rows = all_rows(token_roles) if valid_rows is None else valid_rows.bool().to(token_roles.device)
    check_rows("valid_rows", rows, token_roles)
    ids = None if mini_batch_ids is None else mini_batch_ids.to(rows.device)
    if ids is not None:
        check_rows("mini_batch_ids", ids, token_roles)
        ids = _select(ids, rows)

    batch = _ValidColumns(columns, rows)
    roles = batch["token_roles"]
    result = weighting(batch)
    raw, shift = result if isinstance(result, tuple) else (result, None)
    _check_result(raw, f"the result of weighting {weighting.name}", roles)
    if shift is not None:
        shift = _checked_shift(shift, f"the advantage shift of weighting {weighting.name}", roles)
    if weighting.placebo:  # with one seed a token's shift goes where its weight goes
        raw = shuffle_within_roles(raw, roles, placebo_seed)
        shift = None if shift is None else shuffle_within_roles(shift, roles, placebo_seed)

    weights = normalize(raw, roles, weighting.normalize, ids)
    return TokenCredit(_restore(weights, rows), None if shift is None else _restore(shift, rows))


def compute_token_weights(
    columns: Mapping[str, Tensor],
    weighting: WeightingSpec,
    *,
    valid_rows: Tensor | None = None,
    mini_batch_ids: Tensor | None = None,
) -> Tensor:
    """The weights of :func:`compute_token_credit`, (B, T), float32; same arguments and errors."""
    return compute_token_credit(columns, weighting, valid_rows=valid_rows, mini_batch_ids=mini_batch_ids).weights


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
    response = token_roles != TokenRole.ENVIRONMENT
    if torch.equal(sampled, response):
        return token_roles
    contradicting = sampled & ~response
    if bool(contradicting.any()):
        raise ValueError(
            f"response_mask marks {count_tokens_and_rows(contradicting)} as sampled, but their role is ENVIRONMENT; "
            "mark padding rows in valid_rows, and check that both columns are aligned with the response"
        )
    return torch.where(sampled, token_roles, int(TokenRole.ENVIRONMENT))


def all_rows(token_roles: Tensor) -> Tensor:
    """(B,) bool, all True."""
    return torch.ones(token_roles.shape[:1], dtype=torch.bool, device=token_roles.device)


class _ValidColumns(Mapping[str, Tensor]):
    """A batch's columns without its padding rows; the error for a missing one says how to get it.

    Rows are selected when a column is read, and not at all without padding rows: copies of all columns at once would be
    as large as the batch (docs/performance.md).
    """

    def __init__(self, columns: Mapping[str, Tensor], rows: Tensor) -> None:
        self._columns = columns
        self._rows = rows
        read = [name for name in ("token_roles", "response_mask") if name in columns]
        self._token_roles = response_roles({name: _select(columns[name], rows) for name in read})

    def __getitem__(self, name: str) -> Tensor:
        if name == "token_roles":
            return self._token_roles
        if name not in self._columns:
            raise ValueError(
                f"the weighting reads the column {name!r}, the batch has {', '.join(sorted(self))}; if the trainer can "
                f"compute it, declare it: @register_weighting(..., required_columns=({name!r},))"
            )
        return _select(self._columns[name], self._rows)

    def get(self, name: str, default: Tensor | None = None) -> Tensor | None:  # type: ignore[override]
        if name not in self:
            return default
        return self[name]

    def __contains__(self, name: object) -> bool:
        return name in self._columns

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)


def _select(column: Tensor, rows: Tensor) -> Tensor:
    """The rows marked True; the column itself when all are."""
    return column if bool(rows.all()) else column[rows.to(column.device)]


def _restore(values: Tensor, rows: Tensor) -> Tensor:
    """The inverse of ``_select``: 0 in the other rows."""
    if bool(rows.all()):
        return values
    restored = values.new_zeros((len(rows), *values.shape[1:]))
    restored[rows] = values
    return restored


def _check_columns(columns: Mapping[str, Tensor], weighting: WeightingSpec) -> None:
    missing = [name for name in ("token_roles", *weighting.required_columns) if name not in columns]
    if missing:
        raise ValueError(
            f"credit.name={weighting.name} needs the columns {', '.join(missing)}, the batch has "
            f"{', '.join(sorted(columns))}" + "".join(f"; {name} comes from {_giver(name)}" for name in missing)
        )


def _giver(name: str) -> str:
    return COLUMNS[name].given_by.name if name in COLUMNS else "no known source: it is not in the table of columns"


def _checked_shift(shift: Tensor, name: str, token_roles: Tensor) -> Tensor:
    """The shift as float32, 0 at ENVIRONMENT tokens; raises ValueError when it is invalid."""
    _check_result(shift, name, token_roles)
    response = token_roles != TokenRole.ENVIRONMENT
    kept = torch.where(response, shift.detach().float(), 0.0)
    extremes = torch.stack(torch.aminmax(kept)) if kept.numel() else kept  # NaN, if there is one
    check_finite(name, extremes, shift, response, "sampled", "check the columns it reads")
    return kept


def _check_result(result: object, name: str, token_roles: Tensor) -> None:
    """Raise ValueError unless ``result`` is a tensor with one value per token."""
    if not isinstance(result, Tensor):
        raise ValueError(f"{name} is a {type(result).__name__}; it must be a (B, T) tensor")
    check_same_shape(name, result, token_roles)
