"""The gradients that methods give on the same episodes, and the inner products that say how good they are.

At the policy that sampled, a step's gradient under a method is g = sum over tokens of c_t grad log pi(y_t), c being the
method's credit (advantage times weight). Boards are independent, so everything is kept by board.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from actfocus_verl.truth.steps import MeasuredStep, response_logits

TOKENS_PER_PASS: Final = {"cpu": 4096, "cuda": 8192}
"""Tokens of prompt and response whose activations are kept at a time, by kind of device."""
ADAM_EPS: Final = 1e-8

Floats = NDArray[np.float64]
Gradients = NDArray[np.float32]


@dataclass(frozen=True)
class Products:
    """Inner products of the gradients g_p of one method on P boards.

    with_reference (P, P): <g_p, G_q>, G being the reference's gradients. own (P, P): <g_p, g_q>.
    """

    with_reference: Floats
    own: Floats


class Coordinates:
    """The parameters of a model whose gradients are kept, `size` of the `total` that require one.

    count: that many, drawn at random; None: all. The figures of `finders` are ratios of inner products, and one over a
    random subset of the parameters estimates the one over all.
    """

    def __init__(self, model: torch.nn.Module, count: int | None = None, seed: int = 0) -> None:
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._sizes = [parameter.numel() for parameter in self.parameters]
        self.total = sum(self._sizes)
        self._chosen: list[Tensor] | None = None
        self.size = self.total
        if count is not None and count < self.total:
            drawn = np.random.default_rng(seed).choice(self.total, count, replace=False, shuffle=False)
            ends = np.cumsum(self._sizes)
            parts = np.split(np.sort(drawn), np.searchsorted(np.sort(drawn), ends[:-1]))
            starts = ends - self._sizes
            self._chosen = [
                torch.from_numpy(part - start).to(parameter.device)
                for part, start, parameter in zip(parts, starts, self.parameters, strict=True)
            ]
            self.size = count

    def flat(self, gradients: Sequence[Tensor | None]) -> Gradients:
        """(D,), float32: the kept coordinates of the gradients of `parameters`, 0 where there is none."""
        parts = []
        for number, gradient in enumerate(gradients):
            chosen = None if self._chosen is None else self._chosen[number]
            if gradient is None:
                parts.append(torch.zeros(self._sizes[number] if chosen is None else len(chosen)))
                continue
            values = gradient.detach().float().reshape(-1)
            parts.append((values if chosen is None else values[chosen]).cpu())
        flat: Gradients = torch.cat(parts).numpy()
        return flat


def board_gradients(
    model: torch.nn.Module,
    step: MeasuredStep,
    given: Sequence[Tensor],
    groups: Tensor,
    temperature: float,
    done: Callable[[int], None] = lambda _: None,
    coordinates: Coordinates | None = None,
    *,
    autocast: bool = False,
) -> Gradients:
    """(M, P, D), float32: of M credits `given`, each (B, T), on P boards, for D parameters that require a gradient.

    Divided by the number of sampled tokens of an average board, as verl's token mean is by those of the batch. One
    forward pass over an episode, and a backward pass a credit.

    Args:
        groups: (B,), the board of each episode.
        done: called with the number of episodes after each board.
        coordinates: the parameters; None: all.
        autocast: multiply matrices in bfloat16, as training with verl's mixed precision does.
    """
    kept = Coordinates(model) if coordinates is None else coordinates
    device = kept.parameters[0].device.type
    boards = torch.unique(groups)
    gradients = np.zeros((len(given), len(boards), kept.size), dtype=np.float32)
    for place, board in enumerate(boards):
        of_board = (groups == board).nonzero()[:, 0].tolist()
        credited = [row for row in of_board if any(bool(each[row].any()) for each in given)]
        for rows in passes(step, credited, TOKENS_PER_PASS[device]):
            with torch.autocast(device, torch.bfloat16, enabled=autocast):
                ids, logits = response_logits(model, step, rows)
            log_probs = (logits.float() / temperature).log_softmax(dim=-1).gather(2, ids[..., None])[..., 0]
            for number, credit in enumerate(given):
                of_rows = credit[rows, : log_probs.shape[1]].to(log_probs)
                if not bool((of_rows != 0).any()):
                    continue
                total = torch.where(of_rows != 0, of_rows * log_probs, 0.0).sum()
                found = torch.autograd.grad(total, kept.parameters, retain_graph=True, allow_unused=True)
                gradients[number, place] += kept.flat(found)
        done(len(of_board))
    gradients *= len(boards) / int((step.segments >= 0).sum())
    return gradients


def passes(step: MeasuredStep, rows: Sequence[int], tokens: int) -> list[list[int]]:
    """The rows, those of like length together, in portions of at most so many tokens with padding."""
    lengths = {row: len(step.prompts[row]) + step.lengths[row] for row in rows}
    portions: list[list[int]] = []
    for row in sorted(rows, key=lambda row: lengths[row]):
        if not portions or lengths[row] * (len(portions[-1]) + 1) > tokens:
            portions.append([])
        portions[-1].append(row)
    return portions


def inner_products(gradients: Gradients, reference: Gradients, *, batch: int | None = None) -> Products:
    """The inner products of a method's gradients (P, D) with the reference's (P, D), and of each with themselves.

    batch: None for the gradients as they are. Else they are divided, parameter by parameter, by sqrt(v) + 1e-8 as Adam
    does in the long run, v being the second moment of the mean gradient of `batch` boards; the reference is not.
    """
    if batch is not None:
        mean = gradients.mean(axis=0, dtype=np.float64)
        second = np.square(gradients, dtype=np.float64).mean(axis=0)
        moment = second / batch + (1 - 1 / batch) * mean**2
        gradients = (gradients / (np.sqrt(moment) + ADAM_EPS)).astype(np.float32)
    return Products(gram(gradients, reference), gram(gradients, gradients))


def gram(rows: Gradients, columns: Gradients, block: int = 1 << 18) -> Floats:
    """(P, Q), float64: inner products over D, summed in float64 over blocks of parameters."""
    products = np.zeros((len(rows), len(columns)))
    for start in range(0, rows.shape[1], block):
        products += (rows[:, start : start + block] @ columns[:, start : start + block].T).astype(np.float64)
    return products
