"""The placebo: each role keeps its weights, but they are shuffled among its tokens.

A weighting can help because of where it puts the gradient, or merely because it moves some between the roles or makes
it sparser. The placebo keeps the latter and removes the former: what a method gains over its placebo is information.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from actfocus_verl.credit.tokens import RESPONSE_ROLES


def shuffle_within_roles(values: Tensor, token_roles: Tensor, seed: Sequence[int]) -> Tensor:
    """The values of each role's tokens in a random order; ENVIRONMENT tokens keep theirs.

    One permutation per role is drawn from the seed, over the role's tokens in the order of the batch. So another order
    of rows gives another shuffle, and columns shuffled with one seed stay together.

    Args:
        values: (B, T) or any shape.
        token_roles: same shape, values of TokenRole.
        seed: integers >= 0.

    Returns:
        A new tensor of the same shape and dtype.
    """
    shuffled = values.clone()
    for role in RESPONSE_ROLES:
        selected = token_roles == role
        of_role = values[selected]
        order = np.random.default_rng([*seed, role.value]).permutation(of_role.numel())
        shuffled[selected] = of_role[torch.from_numpy(order).to(of_role.device)]
    return shuffled
