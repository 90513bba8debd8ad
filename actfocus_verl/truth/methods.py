"""The methods that are judged: pairs of advantage estimator and weighting, and the credit they give to each token.

The table follows the registries, so a new method has its row. Estimators and weightings have the settings of their
presets in configs/. What a method takes from the batch (z-scores, quantiles) it takes from all measured episodes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from typing import Any, Final, NamedTuple

import torch
from omegaconf import OmegaConf
from torch import Tensor

from actfocus_verl.columns import GROUP_IDS, INFLUENCE, TURN_IDS, TURN_REWARDS, VALUES
from actfocus_verl.credit.episodes import Episodes
from actfocus_verl.credit.estimation import ESTIMATORS, Step, build_estimator
from actfocus_verl.credit.registry import WeightingSpec, build_weighting, known_weightings
from actfocus_verl.credit.token_weights import compute_token_credit
from actfocus_verl.credit.weighting import ACTFOCUS, UNIFORM
from actfocus_verl.errors import ConfigurationError
from actfocus_verl.truth.steps import TURN_COUNTS, MeasuredStep

GRPO: Final = "grpo"
TRUTH: Final = "truth"
BASE: Final = (GRPO, UNIFORM)
"""What the others are compared with."""

VARIANTS: Final[Mapping[str, Mapping[str, Any]]] = {
    "placebo": {"placebo": True},
    "by token": {"level": "token"},
    "by token placebo": {"level": "token", "placebo": True},
}
_VARIANTS_OF: Final = {ACTFOCUS: ("placebo",), INFLUENCE: ("by token", "by token placebo")}
_WITH_ALL: Final = (UNIFORM, ACTFOCUS, INFLUENCE)
"""Weightings that every estimator is judged with."""

_STD_EPS: Final = 1e-6


@dataclass(frozen=True)
class Judged:
    """One row of the table.

    remark: what of the measurement it uses, which no training has; empty: nothing. credit: (B, T), float32, 0 outside
    the sampled tokens.
    """

    estimator: str
    weighting: str
    remark: str
    credit: Tensor

    @property
    def name(self) -> str:
        return _name(self.estimator, self.weighting)


def method_names() -> list[str]:
    """Every pair that may be judged, as the table calls it."""
    return [pair.name for pair in _pairs()]


def chosen_methods(text: str | None) -> frozenset[str] | None:
    """The methods of a comma-separated list, and the base; None for None, which stands for all.

    Raises ConfigurationError for a name that the table does not have.
    """
    if text is None:
        return None
    known, chosen = method_names(), [" ".join(name.split()) for name in text.split(",")]
    for name in chosen:
        if name not in known:
            remedy = f"Choose from: {', '.join(known)}"
            raise ConfigurationError("methods", name, "is not a method that can be judged", remedy)
    return frozenset([_Pair(*BASE).name, *chosen])


def needed_columns(names: Collection[str] | None = None) -> set[str]:
    """What the weightings of these methods read; None: of all."""
    return {column for pair in _pairs(names) for column in pair.spec().required_columns}


def judged_methods(
    step: MeasuredStep, columns: Mapping[str, Tensor], names: Collection[str] | None = None
) -> tuple[list[Judged], dict[str, str]]:
    """The methods with the credit that each gives, and why others of the registries could not be judged.

    columns: the step's, and those of the log-prob passes. names: those to judge; None: all. First GRPO with every
    weighting, then every estimator, and last the true advantages, with uniform weights, ActFocus and influence.
    """
    found: list[Judged] = []
    left_out: dict[str, str] = {}
    for pair in _pairs(names):
        try:
            advantages, remark = _advantages(pair.estimator, step, columns)
            spec = pair.spec()
            given = {**columns, "advantages": advantages}
            missing = [name for name in spec.required_columns if name not in given]
            if missing:
                raise _NotJudgedError(f"needs {' and '.join(missing)}")
        except _NotJudgedError as reason:
            left_out[pair.name] = str(reason)
            continue
        credit = compute_token_credit(given, spec)
        shifted = advantages if credit.advantage_shift is None else advantages + credit.advantage_shift
        of_tokens = torch.where(step.segments >= 0, credit.weights * shifted, 0.0)
        found.append(Judged(pair.estimator, pair.called, remark, of_tokens))
    return found, left_out


def _name(estimator: str, weighting: str) -> str:
    return f"{estimator} + {weighting}"


class _NotJudgedError(Exception):
    """Why a method has no row."""


class _Pair(NamedTuple):
    """Estimator and weighting; variant: of the weighting, a key of VARIANTS, or empty."""

    estimator: str
    weighting: str
    variant: str = ""

    @property
    def called(self) -> str:
        """The weighting with the name of its variant."""
        return f"{self.weighting} {self.variant}".strip()

    @property
    def name(self) -> str:
        return _name(self.estimator, self.called)

    def spec(self) -> WeightingSpec:
        """The weighting with the settings of its preset, and the variant's over them."""
        preset = _preset("credit", self.weighting)["credit"]
        return build_weighting({**preset, "name": self.weighting, **VARIANTS.get(self.variant, {})})


def _pairs(names: Collection[str] | None = None) -> list[_Pair]:
    """Those of the names; None: all."""
    every = [
        _Pair(GRPO, weighting, variant)
        for weighting in sorted(known_weightings(), key=lambda name: (name not in _WITH_ALL, name))
        for variant in ("", *_VARIANTS_OF.get(weighting, ()))
    ]
    for estimator in (*sorted(ESTIMATORS.known()), TRUTH):
        every += [_Pair(estimator, weighting) for weighting in _WITH_ALL]
    return [pair for pair in every if names is None or pair.name in names]


def _advantages(name: str, step: MeasuredStep, columns: Mapping[str, Tensor]) -> tuple[Tensor, str]:
    """(B, T), float32, of an estimator with the settings of its preset; and a remark for the reader."""
    if name == TRUTH:
        return step.of_segments(lambda changes: changes.values), "the measured changes"
    mask = columns["response_mask"]
    if name == GRPO:
        return group_advantages(step.returns[:, None], columns[GROUP_IDS], by_std=True) * mask, ""
    settings = _preset("algorithm", name)
    spec = build_estimator(name, settings["estimator"])
    assert spec is not None
    if spec.definition.by_tree:
        raise _NotJudgedError("needs forked episodes")
    given = dict(columns)
    remark = ""
    if VALUES in spec.required_columns:
        given[VALUES] = step.of_segments(lambda changes: changes.means[:-1])
        remark = "a critic of the measured values"
    missing = [column for column in spec.required_columns if column not in given]
    if missing:
        raise _NotJudgedError(f"needs {' and '.join(missing)}")
    valid_rows = torch.ones(len(mask), dtype=torch.bool)
    turns = Episodes.of(columns[TURN_IDS], mask, columns[TURN_REWARDS], columns[TURN_COUNTS], valid_rows)
    by_std = bool(settings["algorithm"].get("norm_adv_by_std_in_grpo", True))
    estimated = spec(
        Step(
            rewards=columns["rm_scores"],
            scores=columns["rm_scores"],
            response_mask=mask,
            group_ids=columns[GROUP_IDS],
            valid_rows=valid_rows,
            columns=given,
            gamma=float(settings["algorithm"].get("gamma", 1.0)),
            lam=float(settings["algorithm"].get("lam", 1.0)),
            by_std=by_std,
            grpo=partial(_grpo, columns[GROUP_IDS], by_std),
            turns=turns,
        )
    )
    advantages = estimated.advantages
    if estimated.update_set is not None:
        advantages = torch.where(estimated.update_set, advantages, 0.0)
    return advantages.float(), remark


def _preset(group: str, name: str) -> defaultdict[str, dict[str, Any]]:
    """The sections of configs/<group>/<name>.yaml by name; empty ones where it has none, or where there is no file."""
    sections: defaultdict[str, dict[str, Any]] = defaultdict(dict)
    file = files("actfocus_verl_configs") / group / f"{name}.yaml"
    if file.is_file():
        read: Any = OmegaConf.to_container(OmegaConf.create(file.read_text(encoding="utf-8")))
        sections.update({key: value for key, value in read.items() if isinstance(value, dict)})
    return sections


def group_advantages(returns: Tensor, group_ids: Tensor, *, by_std: bool) -> Tensor:
    """GRPO's advantage of (B, 1) returns, as verl computes it: (R - mean) / (unbiased std + 1e-6) of the group."""
    advantages = torch.zeros_like(returns)
    for group in torch.unique(group_ids):
        rows = group_ids == group
        centred = returns[rows] - returns[rows].mean()
        advantages[rows] = centred / (returns[rows].std() + _STD_EPS) if by_std else centred
    return advantages


def _grpo(group_ids: Tensor, by_std: bool, rewards: Tensor, mask: Tensor) -> Tensor:
    returns = rewards.sum(dim=1, keepdim=True)
    return group_advantages(returns, group_ids, by_std=by_std) * mask
