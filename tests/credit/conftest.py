"""Fixtures of this folder: a fixed seed, and slow, independent implementations of the formulas.

The oracle works on plain Python floats (float64) with one loop over the tokens, and no tensor arithmetic.
"""

import math
from types import SimpleNamespace

import pytest
import torch

ENVIRONMENT, REASONING, ACTION, FORMAT = range(4)


@pytest.fixture(autouse=True)
def _fixed_seed():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def oracle():
    return SimpleNamespace(actfocus=slow_actfocus, normalize=slow_normalize)


def slow_actfocus(signal, roles, *, alpha=0.1, beta=0.5, format_weight=None, eps=1e-8):
    """Eq. 5 on nested lists (rows of tokens)."""
    energies = [
        e for e_row, r_row in zip(signal, roles, strict=True) for e, r in zip(e_row, r_row, strict=True) if r == ACTION
    ]
    mean = math.fsum(energies) / len(energies) if energies else 0.0
    variance = math.fsum((e - mean) ** 2 for e in energies) / len(energies) if energies else 0.0
    sigma = math.sqrt(variance + eps)
    weights = []
    for e_row, r_row in zip(signal, roles, strict=True):
        weights.append([])
        for e, r in zip(e_row, r_row, strict=True):
            if r == ENVIRONMENT:
                weight = 0.0
            elif r == REASONING:
                weight = alpha
            elif r == FORMAT:
                weight = alpha if format_weight is None else format_weight
            else:
                weight = 1.0 + beta / (1.0 + math.exp(-(e - mean) / sigma))
            weights[-1].append(weight)
    return weights


def slow_normalize(weights, roles, groups):
    """Mean 1 over the response tokens of every group of rows; ``groups`` holds one label a row."""
    result = []
    for row, label in enumerate(groups):
        members = [i for i, other in enumerate(groups) if other == label]
        pairs = [(w, r) for i in members for w, r in zip(weights[i], roles[i], strict=True) if r != ENVIRONMENT]
        total = math.fsum(w for w, _ in pairs)
        result.append(
            [
                w * len(pairs) / total if r != ENVIRONMENT and total > 0 else 0.0
                for w, r in zip(weights[row], roles[row], strict=True)
            ]
        )
    return result
