"""Every kept response token, flat, with its value under each weighting; and shares by role."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from actfocus_verl.columns import FEEDBACK, INFLUENCE, TRAINING_STEP, given_by
from actfocus_verl.credit.influence import UNKNOWN
from actfocus_verl.credit.registry import WeightingSpec, build_weighting, known_weightings
from actfocus_verl.credit.token_weights import compute_token_credit
from actfocus_verl.credit.tokens import RESPONSE_ROLES, TokenRole
from actfocus_verl.credit.weighting import UNIFORM
from actfocus_verl.diagnosis.influence import influence_of
from actfocus_verl.diagnosis.samples import INFLUENCE_READS, StepSample
from actfocus_verl.reporting.statistics import cluster_interval

AS_TRAINED: Final = "as trained"
"""The weights and advantages that the run recorded, beside the recomputed weightings."""

_MEASURED_FROM: Final = {INFLUENCE: INFLUENCE_READS, TRAINING_STEP: ()}
"""Columns that a run does not keep, and those that they are computed from."""

ROLE_NAMES: Final = tuple(role.name.lower() for role in RESPONSE_ROLES)

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Tokens:
    """The N response tokens of all kept episodes, in the order of steps, episodes and positions."""

    sample: IntArray
    """(N,): index of the step's sample."""
    row: IntArray
    """(N,): episode in it."""
    position: IntArray
    """(N,): index in the response."""
    role: IntArray
    """(N,): values of TokenRole."""
    cluster: IntArray
    """(N,): number of the prompt group, unique over steps: the independent unit."""
    mass: Mapping[str, FloatArray]
    """Per weighting, (N,): w |A|, the factor on the norm of the token's score. Empty without advantages."""
    left_out: Mapping[str, str]
    """Weightings that cannot be computed, and why."""

    def __len__(self) -> int:
        return len(self.role)


def flat_tokens(samples: Sequence[StepSample]) -> Tokens:
    """Put the response tokens of all samples in one row, with w |A| under every weighting that can be computed.

    Weights are those of `compute_token_credit` with the weighting's defaults, from one step's kept episodes at a time:
    what a weighting takes from the batch (the mean energy of action tokens, a quantile) is taken from them.
    """
    responses = [sample.columns["token_roles"] != TokenRole.ENVIRONMENT for sample in samples]
    places = [mask.nonzero().T.numpy() for mask in responses]  # row-major, as boolean indexing is
    names = [[(sample.step, group) for group in sample.groups] for sample in samples]
    numbers = {name: number for number, name in enumerate(sorted({name for step in names for name in step}))}
    mass, left_out = _masses(samples, responses)
    return Tokens(
        sample=np.repeat(np.arange(len(samples)), [place.shape[1] for place in places]),
        row=np.concatenate([place[0] for place in places]),
        position=np.concatenate([place[1] for place in places]),
        role=_flat([sample.columns["token_roles"] for sample in samples], responses).astype(np.int64),
        cluster=np.concatenate(
            [np.array([numbers[name] for name in step])[place[0]] for step, place in zip(names, places, strict=True)]
        ),
        mass=mass,
        left_out=left_out,
    )


def _masses(samples: Sequence[StepSample], responses: Sequence[Tensor]) -> tuple[dict[str, FloatArray], dict[str, str]]:
    columns = set.intersection(*(set(sample.columns) for sample in samples)) | {"group_ids"}
    if "advantages" not in columns:
        return {}, {}
    mass, left_out = {}, {}
    if "token_weights" in columns:
        recorded = [sample.columns["token_weights"] * sample.columns["advantages"].abs() for sample in samples]
        mass[AS_TRAINED] = _flat(recorded, responses)
    for name in sorted(known_weightings(), key=lambda name: (name != UNIFORM, name)):  # what the others compare with
        spec = build_weighting({"name": name})
        needed = (each for name in spec.required_columns for each in _MEASURED_FROM.get(name, (name,)))
        missing = [column for column in needed if column not in columns]
        if given_by(FEEDBACK, missing):
            continue  # only runs with that weighting have them
        if missing:
            left_out[name] = f"the run kept no {' and no '.join(missing)}"
        else:
            mass[name] = _flat([_mass(sample, spec) for sample in samples], responses)
    return mass, left_out


def _mass(sample: StepSample, spec: WeightingSpec) -> Tensor:
    """(B, T): w |A + shift|, the shift being 0 for all weightings but EMPG."""
    of_rows = {"group_ids": sample.group_ids}
    if INFLUENCE in spec.required_columns:
        share = None if sample.answers is None else influence_of(sample.answers.metrics())
        of_rows[INFLUENCE] = torch.full((len(sample.groups),), UNKNOWN if share is None else share)
    of_rows[TRAINING_STEP] = torch.full((len(sample.groups),), sample.step)
    found = compute_token_credit({**sample.columns, **of_rows}, spec)
    advantages = sample.columns["advantages"]
    shifted = advantages if found.advantage_shift is None else advantages + found.advantage_shift
    return found.weights.double() * shifted.abs()


def _flat(columns: Sequence[Tensor], responses: Sequence[Tensor]) -> FloatArray:
    chosen = [column[mask] for column, mask in zip(columns, responses, strict=True)]
    return torch.cat(chosen).double().numpy()


def role_shares(amounts: FloatArray, roles: IntArray, clusters: IntArray) -> dict[str, Any]:
    """Per role: its share of the sum of the amounts and a 95 % bootstrap interval over clusters.

    Args:
        amounts: (N,), >= 0.
        roles: (N,), values of TokenRole.
        clusters: (N,): tokens of one cluster may depend on each other. Those that sum to 0 have no share and are not
            drawn.

    Returns:
        By role name: share, low, high; None where the total is 0, or the interval is undefined.
    """
    totals = _sums(clusters, amounts)
    counted = totals > 0
    shares = {}
    for role, name in zip(RESPONSE_ROLES, ROLE_NAMES, strict=True):
        of_role = _sums(clusters, np.where(roles == role, amounts, 0.0))
        shares[name] = _ratio("share", of_role[counted], totals[counted])
    return shares


def role_means(values: FloatArray, roles: IntArray, clusters: IntArray) -> dict[str, Any]:
    """Per role: the mean of its (N,) values and a 95 % bootstrap interval over clusters; None without any."""
    means = {}
    for role, name in zip(RESPONSE_ROLES, ROLE_NAMES, strict=True):
        chosen = roles == role
        totals, counts = _sums(clusters[chosen], values[chosen]), _sums(clusters[chosen])
        means[name] = _ratio("mean", totals[counts > 0], counts[counts > 0])
    return means


def token_figures(tokens: Tokens) -> dict[str, Any]:
    """Response tokens per episode, and the share of each role (the paper's Table 1)."""
    episodes = np.unique(np.stack([tokens.sample, tokens.row]), axis=1, return_index=True)[1]
    played, total = _sums(tokens.cluster[episodes]), _sums(tokens.cluster)
    return {
        "an_episode": _ratio("mean", total[total > 0], played[total > 0]),
        "share": role_shares(np.ones(len(tokens)), tokens.role, tokens.cluster),
    }


def _sums(clusters: IntArray, values: FloatArray | None = None) -> FloatArray:
    """Sum of the values in each cluster, or its number of tokens; 0 for numbers that no token has."""
    sums: FloatArray = np.bincount(clusters, weights=values).astype(np.float64)
    return sums


def _ratio(name: str, totals: FloatArray, counts: FloatArray) -> dict[str, float | None]:
    if not len(totals):
        return {name: None, "low": None, "high": None}
    interval = cluster_interval(totals, counts)
    ends = [end if math.isfinite(end) else None for end in interval]
    return {name: float(totals.sum() / counts.sum()), "low": ends[0], "high": ends[1]}
