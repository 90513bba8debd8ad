"""A weighting by what the policy thinks of its own tokens once it knows what followed them (SERL, RLSD).

The sampled tokens are scored a second time with the turn's feedback in the prompt; the trainer gives these log-probs.
See docs/methods.md, `credit=hindsight`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor

from actfocus_verl.checks import require_choice, require_integer, require_number
from actfocus_verl.columns import HINDSIGHT_LOG_PROBS, TOKEN_ROLES, TRAINING_STEP, TURN_IDS
from actfocus_verl.credit.checks import check_finite, check_roles, check_rows, check_same_shape
from actfocus_verl.credit.registry import register_weighting
from actfocus_verl.credit.tokens import TokenRole
from actfocus_verl.credit.weighting import uniform

HINDSIGHT: Final = "hindsight"
ADVANTAGES: Final = "advantages"
OLD_LOG_PROBS: Final = "old_log_probs"
ACTION: Final = "action"
ALL: Final = "all"
TOKENS: Final = (ACTION, ALL)
"""Which tokens are weighted: those of actions (SERL), or all that were sampled (RLSD)."""


def hindsight(
    advantages: Tensor,
    old_log_probs: Tensor,
    hindsight_log_probs: Tensor,
    token_roles: Tensor,
    strengths: Tensor,
    *,
    clip: float = 0.2,
    tokens: str = ACTION,
) -> Tensor:
    """Weights by the change of a token's log-prob through the feedback (SERL, arXiv 2605.19447; RLSD, 2604.03128).

    ::

        d = log pi(y | x, feedback) - log pi(y | x)
        w = (1 - lam) + lam * clip(exp(sign(A) * d), 1 - clip, 1 + clip)   ACTION tokens; with ALL every sampled token
        w = 1                                                              other sampled tokens
        w = 0                                                              ENVIRONMENT

    Where d or A is 0, w is exactly 1.

    Args:
        advantages: (B, T), float, of the estimator; read at weighted tokens only, like the next two.
        old_log_probs: (B, T), float, log-probs of the policy that sampled, in nats.
        hindsight_log_probs: (B, T), float, the same policy's with the feedback in the prompt; equal to
            ``old_log_probs`` in a turn without feedback.
        token_roles: (B, T), integer, values of TokenRole.
        strengths: (B,), float: lam, in [0, 1].
        clip: in [0, 1]; 0 gives weights of 1.
        tokens: one of ``TOKENS``.

    Returns:
        (B, T), float32.

    Raises:
        ConfigurationError: a parameter is out of range.
        ValueError: shapes differ, a role is unknown, or a column is NaN or infinite at a weighted token.
    """
    check_hindsight(clip=clip, tokens=tokens)
    check_roles(token_roles)
    check_rows("strengths", strengths, token_roles)
    weighted = token_roles == TokenRole.ACTION if tokens == ACTION else token_roles != TokenRole.ENVIRONMENT
    kind = "ACTION" if tokens == ACTION else "sampled"
    read = []
    for name, column in (
        (ADVANTAGES, advantages),
        (OLD_LOG_PROBS, old_log_probs),
        (HINDSIGHT_LOG_PROBS, hindsight_log_probs),
    ):
        check_same_shape(name, column, token_roles)
        read.append(column.detach()[weighted].float())
        check_finite(name, read[-1], column, weighted, kind, "check the logits of the pass that gives it")
    sign, before, after = read[0].sign(), read[1], read[2]
    ratio = torch.exp(sign * (after - before)).clamp(1.0 - clip, 1.0 + clip)
    lam = strengths.float().unsqueeze(1).expand(token_roles.shape)[weighted]
    return uniform(token_roles).masked_scatter_(weighted, 1.0 + lam * (ratio - 1.0))


def informed_prompts(row: Mapping[str, Tensor]) -> dict[int, tuple[Tensor, Tensor]]:
    """The turns of an episode to score again: places of the reply in the response, int64, and the prompt before it.

    A turn without feedback is none of them, nor is one that was not sampled here.

    row: `prompts`, `responses`, `response_mask`, `turn_ids` and `rollout.feedback_columns` of one episode, each flat.
    """
    found, start = {}, 0
    sequence = torch.cat([row["prompts"], row["responses"]])
    sampled = row["response_mask"].bool()
    for turn, length in enumerate(row["feedback_lengths"].tolist()):
        ids = row["feedback_ids"][start : start + length]
        start += length
        places = (sampled & (row[TURN_IDS] == turn)).nonzero().flatten()
        if len(ids) and len(places):
            found[turn] = (places, torch.cat([sequence[: int(row["feedback_starts"][turn])], ids]))
    return found


def has_faded(params: Mapping[str, Any], step: int) -> bool:
    """Whether the strength of `credit=hindsight` with these parameters is 0 in a training step, from 1."""
    steps = params["decay_steps"]
    return steps is not None and bool(step > steps)


def check_hindsight(
    *, clip: object, tokens: object = ACTION, lam: object = 1.0, decay_steps: object | None = None
) -> None:
    """Raise ConfigurationError, naming key, value and range, unless the parameters of ``hindsight`` can work."""
    require_number("lam", lam, low=0.0, high=1.0)
    require_number("clip", clip, low=0.0, high=1.0)
    require_choice("tokens", tokens, choices=TOKENS)
    if decay_steps is not None:
        require_integer("decay_steps", decay_steps, low=1)


def _columns(params: Mapping[str, object]) -> tuple[str, ...]:
    """None with ``lam=0``, which is uniform and needs no pass."""
    if params["lam"] == 0:
        return ()
    columns = (ADVANTAGES, OLD_LOG_PROBS, HINDSIGHT_LOG_PROBS)
    return columns if params["decay_steps"] is None else (*columns, TRAINING_STEP)


@register_weighting(HINDSIGHT, required_columns=_columns, check=check_hindsight, granularity="token")
def hindsight_weighting(
    columns: Mapping[str, Tensor],
    *,
    lam: float = 0.5,
    decay_steps: int | None = 50,
    clip: float = 0.2,
    tokens: str = ACTION,
) -> Tensor:
    """``credit.name=hindsight``: see :func:`hindsight`.

    Its strength is lam in the first step, and falls linearly to 0 over ``decay_steps`` steps; None: it stays.
    """
    roles = columns[TOKEN_ROLES]
    if lam == 0:
        return uniform(roles)
    strengths = torch.full((len(roles),), lam, dtype=torch.float64)
    if decay_steps is not None:
        strengths *= (1.0 - (columns[TRAINING_STEP].double() - 1.0) / decay_steps).clamp(min=0.0)
    return hindsight(
        columns[ADVANTAGES],
        columns[OLD_LOG_PROBS],
        columns[HINDSIGHT_LOG_PROBS],
        roles,
        strengths,
        clip=clip,
        tokens=tokens,
    )
