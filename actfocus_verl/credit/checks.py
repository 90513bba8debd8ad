"""Checks of tensors, shared by the methods: a ValueError in one line says what was given and what to do."""

from __future__ import annotations

import torch
from torch import Tensor

from actfocus_verl.credit.tokens import TokenRole


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
