"""Judges every method on the episodes of a measurement: credit of turns and gradients against the true ones."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch

from actfocus_verl.columns import GROUP_IDS
from actfocus_verl.credit.diagnostics import group_metrics, prompt_groups
from actfocus_verl.credit.signals import ENERGY
from actfocus_verl.credit.weighting import UNIFORM
from actfocus_verl.rollout import Trajectory
from actfocus_verl.truth import finders
from actfocus_verl.truth.decomposition import Changes
from actfocus_verl.truth.gradients import Coordinates, Gradients, board_gradients, gram, inner_products
from actfocus_verl.truth.methods import BASE, TRUTH, Judged, judged_methods, needed_columns
from actfocus_verl.truth.segments import Kind, Segment
from actfocus_verl.truth.steps import MeasuredStep, Progress, measured_step, segment_sums, with_logits

CREDIT_KINDS: Final = (Kind.REASONING, Kind.ACTION, Kind.FORMAT)
MEMORY: Final = 2 << 30
"""Bytes of gradients that are kept at a time, beside the reference's."""
SAMPLED: Final = 1 << 20
"""Parameters that stand for those of a larger model."""

Json = dict[str, Any]


@dataclass(frozen=True)
class Episodes:
    """E played episodes, of one policy: their boards and segments; changes: empty where they were not measured.

    max_context_tokens: see `measured_step`.
    """

    trajectories: Sequence[Trajectory]
    boards: Sequence[int]
    segments: Sequence[Sequence[Segment]]
    changes: Sequence[Changes]
    max_context_tokens: int

    def step(self) -> MeasuredStep:
        return measured_step(self.trajectories, self.boards, self.segments, self.changes, self.max_context_tokens)


def judge(
    model: torch.nn.Module,
    frozen: torch.nn.Module,
    measured: Episodes,
    plain: Episodes,
    *,
    temperature: float,
    batch: int,
    names: Collection[str] | None = None,
    coordinates: int | None = None,
    dtype: str = "float32",
    progress: Progress,
) -> Json:
    """The figures of every method, as JSON.

    The reference gradient is that of the plain episodes: with many of them it is known better than from the measured
    changes, and it shares no noise with what is judged. `reference.cosine` compares the two.

    Args:
        model: the policy.
        frozen: the frozen reference; may be the policy.
        measured: the episodes whose changes are known.
        plain: further episodes on the same boards.
        temperature: of the sampling; > 0.
        batch: boards a training step.
        names: the methods, see `methods.method_names`; None: all.
        coordinates: parameters, drawn at random, whose gradients are compared. None: all, or SAMPLED where all of them
            would take more than MEMORY.
        dtype: of the gradients' passes; bfloat16 is autocast.
        progress: see `Progress`.
    """
    step = measured.step()
    columns = with_logits(model, frozen, step, temperature, needed_columns(names), progress)
    methods, left_out = judged_methods(step, columns, names)
    drawn = finders.resampled_boards(len(set(measured.boards)))
    turns = finders.turns_of(measured.changes, measured.boards)
    rows = {method.name: _credit_figures(method, step, turns, measured.boards, drawn) for method in methods}
    kept = _coordinates(model, coordinates, len(set(measured.boards)))
    gradients = _Gradients(model, kept, temperature, dtype, progress)
    plain_step = plain.step()
    reference = gradients.of(plain_step, [_plain_credit(measured, plain_step, plain.boards)], "reference gradient")[0]
    found, cosine = _gradient_figures(gradients, step, methods, reference, batch, drawn)
    for kind, figures in found.items():
        for name, figure in figures.items():
            rows[name][kind] = figure
    return {
        "batch_boards": batch,
        "parameters": {"compared": kept.size, "all": kept.total, "dtype": dtype},
        "base": " + ".join(BASE),
        "methods": rows,
        "left_out": left_out,
        "reference": {"episodes": len(plain.boards), "cosine": cosine},
        "proxy": _proxy(columns, step),
    }


def _credit_figures(
    method: Judged, step: MeasuredStep, turns: finders.Turns, boards: Sequence[int], drawn: finders.Floats
) -> Json:
    """What a method gives to roles and to turns.

    A method that uses the measurement itself shares its errors, so its agreement with it is not given.
    """
    sums = segment_sums(step, method.credit)
    amounts = segment_sums(step, method.credit.abs())
    total = sum(float(amount.sum()) for amount in amounts)
    mass = {
        kind.value: sum(
            float(amount[[each is kind for each in along.kinds]].sum())
            for amount, along in zip(amounts, step.changes, strict=True)
        )
        / total
        if total
        else None
        for kind in CREDIT_KINDS
    }
    of_turns = [
        value for each, along in zip(sums, step.changes, strict=True) for value in finders.turn_sums(each, along)
    ]
    return {
        "estimator": method.estimator,
        "weighting": method.weighting,
        "remark": method.remark,
        "mass": mass,
        "turns": None if method.remark else finders.turn_figures(np.array(of_turns), turns, drawn),
        "segments": None if method.remark else finders.segment_cosine(sums, step.changes, boards, drawn),
    }


class _Gradients:
    """Gradients of the policy, by board."""

    def __init__(
        self, model: torch.nn.Module, kept: Coordinates, temperature: float, dtype: str, progress: Progress
    ) -> None:
        self._model, self._kept, self._temperature = model, kept, temperature
        self._autocast = dtype == "bfloat16"
        self._progress = progress

    def of(self, step: MeasuredStep, given: Sequence[torch.Tensor], stage: str) -> Gradients:
        """(M, P, D), of M credits (B, T)."""
        groups = step.columns[GROUP_IDS]
        done = 0

        def count(episodes: int) -> None:
            nonlocal done
            done += episodes
            self._progress(stage, done, len(groups))

        given_to = self._model, step, given, groups, self._temperature, count, self._kept
        return board_gradients(*given_to, autocast=self._autocast)


def _coordinates(model: torch.nn.Module, count: int | None, boards: int) -> Coordinates:
    every = Coordinates(model)
    if count is None and every.total * boards * np.float32().nbytes > MEMORY:
        count = SAMPLED
    return every if count is None else Coordinates(model, count)


def _plain_credit(measured: Episodes, step: MeasuredStep, boards: Sequence[int]) -> torch.Tensor:
    """(B, T): R - M_0 on every token of the plain episodes; M_0 comes from continuations, so it is independent of R."""
    start = {board: along.means[0] for board, along in zip(measured.boards, measured.changes, strict=True)}
    base = torch.tensor([start[board] for board in boards], dtype=torch.float32)
    credit: torch.Tensor = (step.segments >= 0) * (step.returns - base)[:, None]
    return credit


def _gradient_figures(
    gradients: _Gradients,
    step: MeasuredStep,
    methods: Sequence[Judged],
    reference: Gradients,
    batch: int,
    drawn: finders.Floats,
) -> tuple[dict[str, dict[str, Json]], Json | None]:
    """`gradient` and `adam`: the figures of all methods, as the gradients are and as Adam divides them.

    And the cosine of the expected gradient of the measured changes with the reference's.
    """
    size = max(1, MEMORY // reference.nbytes)
    of_reference = gram(reference, reference)
    found: dict[str, dict[str, finders.Alignment]] = {"gradient": {}, "adam": {}}
    cosine = None
    for start in range(0, len(methods), size):
        part = methods[start : start + size]
        stage = f"gradients of methods {start + 1} to {start + len(part)} of {len(methods)}"
        for method, of_method in zip(part, gradients.of(step, [each.credit for each in part], stage), strict=True):
            for kind, divided in (("gradient", None), ("adam", batch)):
                products = inner_products(of_method, reference, batch=divided)
                found[kind][method.name] = finders.alignment(products, of_reference, batch, drawn)
                if (method.estimator, method.weighting, kind) == (TRUTH, UNIFORM, "gradient"):
                    cosine = finders.agreement(products, of_reference, drawn)
    return {kind: finders.compared(each, " + ".join(BASE)) for kind, each in found.items()}, cosine


def _proxy(columns: Mapping[str, torch.Tensor], step: MeasuredStep) -> Json:
    """The paper's diagnostic (Sec. 4): Spearman's rho of a board's mean energy and the spread of its returns."""
    groups = prompt_groups(columns[ENERGY], columns, step.returns, columns[GROUP_IDS])
    return {name.removeprefix("diagnose/"): value for name, value in group_metrics(groups).items()}
