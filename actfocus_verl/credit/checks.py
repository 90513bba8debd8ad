"""Checks shared by the weightings: each failure is one line that names what was given and what to do."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from actfocus_verl.credit.tokens import TokenRole
from actfocus_verl.errors import ConfigurationError

NORMALIZE_MODES: Final[tuple[str, ...]] = ("batch", "mini_batch", "none")
"""Scopes of :func:`actfocus_verl.credit.weighting.normalize`."""


def check_number(key: str, value: object, *, low: float, high: float = math.inf, open_low: bool = False) -> None:
    """Raise ConfigurationError unless ``value`` is a finite number in [low, high] (or (low, high] if ``open_low``)."""
    if high < math.inf:
        allowed = f"Choose a number in {'(' if open_low else '['}{low:g}, {high:g}]"
    else:
        allowed = f"Choose a number {'above' if open_low else 'of at least'} {low:g}"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConfigurationError(key, value, f"is a {type(value).__name__}, not a number", allowed)
    if not math.isfinite(value):
        raise ConfigurationError(key, value, "is not finite", allowed)
    if value < low or value > high or (open_low and value == low):
        raise ConfigurationError(key, value, "is out of range", allowed)


def check_normalize(mode: object) -> None:
    """Raise ConfigurationError, listing the known modes, unless ``mode`` is one of them."""
    check_choice("normalize", mode, choices=NORMALIZE_MODES)


def check_choice(key: str, value: object, *, choices: Sequence[str]) -> None:
    """Raise ConfigurationError, listing them, unless ``value`` is one of the choices."""
    if value not in choices:
        raise ConfigurationError(key, value, "is unknown", f"Choose one of {', '.join(choices)}")


def check_count(key: str, value: object) -> None:
    """Raise ConfigurationError unless ``value`` is an integer of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigurationError(key, value, "must be a positive integer", "Choose 1 or more")


def check_flag(key: str, value: object) -> None:
    """Raise ConfigurationError unless ``value`` is a bool."""
    if not isinstance(value, bool):
        raise ConfigurationError(key, value, f"is a {type(value).__name__}, not a bool", "Choose true or false")


def check_roles(token_roles: Tensor) -> None:
    """Raise ValueError unless ``token_roles`` is an integer tensor of TokenRole values."""
    if token_roles.is_floating_point() or token_roles.is_complex():
        raise ValueError(f"token_roles has dtype {token_roles.dtype}; pass the integer column of TokenRole values")
    if token_roles.numel() == 0:
        return
    low, high = (int(extreme) for extreme in torch.aminmax(token_roles))
    if low < min(TokenRole) or high > max(TokenRole):
        known = ", ".join(f"{role.value}={role.name}" for role in TokenRole)
        raise ValueError(f"token_roles holds values from {low} to {high}, known are {known}; check the column's origin")


def check_same_shape(name: str, tensor: Tensor, token_roles: Tensor) -> None:
    """Raise ValueError, naming both shapes, unless ``tensor`` has the shape of ``token_roles``."""
    if tensor.shape != token_roles.shape:
        raise ValueError(
            f"{name} has shape {tuple(tensor.shape)} and token_roles has shape {tuple(token_roles.shape)}; "
            "both are aligned with the response and must be equal"
        )


def check_rows(name: str, tensor: Tensor, token_roles: Tensor) -> None:
    """Raise ValueError, naming both shapes, unless ``tensor`` is (B,) for ``token_roles`` of shape (B, ...)."""
    if tensor.shape != token_roles.shape[:1] or token_roles.dim() == 0:
        raise ValueError(
            f"{name} has shape {tuple(tensor.shape)} and token_roles has shape {tuple(token_roles.shape)}; "
            f"{name} holds one value a row"
        )


def check_finite(name: str, values: Tensor, column: Tensor, selected: Tensor, where: str, remedy: str) -> None:
    """Raise ValueError, counting the tokens, if one of ``values`` is NaN or infinite.

    Args:
        values: what was made of ``column``, such that NaN or infinity at a selected token shows in it.
        column: the column to blame, and ``selected``, the bool mask of its tokens that were read.
    """
    if bool(torch.isfinite(values).all()):
        return
    bad = selected & ~torch.isfinite(column)
    raise ValueError(f"{name} is NaN or infinite at {where} tokens: {count_tokens_and_rows(bad)}; {remedy}")


def count_tokens_and_rows(mask: Tensor) -> str:
    """``"3 tokens in 2 rows"`` for a bool mask of shape (..., T)."""
    by_row = mask.reshape(-1, mask.shape[-1]) if mask.dim() else mask.reshape(1, 1)
    return f"{int(by_row.sum())} tokens in {int(by_row.any(dim=-1).sum())} rows"
