"""What each token of a response is.

This module is imported by the rollout room and by worker processes that never touch a tensor, so it imports nothing
but the standard library.

Life cycle: the rollout labels every token of a response with a :class:`TokenRole` while it plays the episode; the
labels travel beside verl's own columns as the integer column ``token_roles``, shape (B, T); the weighting and the
diagnostics of this room read them on the driver.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final


class TokenRole(IntEnum):
    """Role of one token of a response; the integer is what is stored in the ``token_roles`` column.

    ENVIRONMENT is 0 on purpose: padding, prompts and observations share the value a zero-filled tensor has, and none of
    them ever receives a policy gradient.
    """

    ENVIRONMENT = 0
    """Not sampled by the policy: an observation, the chat template between two turns, or padding."""
    REASONING = 1
    """Sampled, and neither an action nor part of the required format: the text inside ``<think>``, stray text."""
    ACTION = 2
    """Sampled, and at least one character lies inside the answer's content of a reply that parses."""
    FORMAT = 3
    """Sampled, and part of the required format: tags and special tokens."""


RESPONSE_ROLES: Final[tuple[TokenRole, ...]] = (TokenRole.REASONING, TokenRole.ACTION, TokenRole.FORMAT)
"""The roles of tokens the policy sampled, in the order in which reports list them."""
