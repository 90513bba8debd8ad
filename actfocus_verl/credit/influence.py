"""How much the reasoning decides the answer, measured without rewards, and a weighting that is set by it.

A turn's reward depends on its answer alone, the ACTION tokens of its reply. A reasoning token has learning signal as
far as it changes what the answer will be: the share of the answer's entropy that the reasoning decides,

::

    influence = I(answer; reasoning | state) / H(answer | state) = 1 - H(answer | state, reasoning) / H(answer | state)

It is measured on the first turn of an episode: there, and nowhere else, all episodes of a prompt group have answered in
the same state. See docs/methods.md, `credit=influence`, for later turns, tool calls and long answers.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from actfocus_verl.checks import require_choice, require_number
from actfocus_verl.columns import ENTROPY, INFLUENCE, RELEVANCE, RESPONSES, TOKEN_ROLES, TURN_IDS
from actfocus_verl.credit.checks import check_finite, check_roles, check_rows, check_same_shape
from actfocus_verl.credit.registry import register_weighting
from actfocus_verl.credit.token_weights import response_roles
from actfocus_verl.credit.tokens import TokenRole
from actfocus_verl.credit.turns import Turns

ANSWER_ENTROPY: Final = "credit/influence/answer_entropy"
GIVEN_REASONING: Final = "credit/influence/answer_entropy_given_reasoning"
REPEATED: Final = "credit/influence/repeated_answers"
METRICS: Final = (ANSWER_ENTROPY, GIVEN_REASONING, REPEATED)
"""Metrics of a step: see :class:`AnswerEntropies`."""
ALPHA: Final = "credit/influence/alpha"
"""Metric: :attr:`MovingInfluence.value` after the step."""

ROLE: Final = "role"
TOKEN: Final = "token"
LEVELS: Final = (ROLE, TOKEN)
"""Whether all reasoning tokens have one weight, or each its own."""

DECAY: Final = 0.9
"""Of the moving averages over steps."""

UNKNOWN: Final = 1.0
"""The influence where nothing was measured: the weights are uniform then."""

_MOST: Final = 2 / 3
"""From this share on the sentence says that the reasoning, or that the action tokens decide."""


@dataclass(frozen=True)
class AnswerEntropies:
    """Of the first answers in a batch, in nats; means over the prompt groups with at least two of them."""

    answer: float
    """H(answer | state): the plug-in entropy of a group's n answers, plus Miller and Madow's (distinct - 1) / 2n."""
    given_reasoning: float
    """H(answer | state, reasoning): sum of the entropies at a reply's ACTION tokens, averaged over the group's replies.
    NaN if one of these is not finite."""
    repeated: float
    """Share of the answers that another episode of the group gave too, in [0, 1]."""

    def metrics(self) -> dict[str, float]:
        """Flat metrics for the logger."""
        return dict(zip(METRICS, (self.answer, self.given_reasoning, self.repeated), strict=True))


def answer_entropies(columns: Mapping[str, Tensor], group_ids: Tensor) -> AnswerEntropies | None:
    """The entropies of the first answers, with and without the reasoning before them.

    An answer is the sequence of ids of the ACTION tokens of turn 0. A reply without any, because it was cut off or did
    not parse, has the empty answer, which counts like every other. A row without a sampled token in turn 0 (its first
    turn was replayed from another episode) has no answer.

    Args:
        columns: of B rows, one per episode, its first one: ``token_roles``, ``turn_ids``, ``responses`` (token ids) and
            ``entropy`` (of the sampling policy, in nats), (B, T), and ``response_mask`` where there is one. Entropies
            and ids are read at ACTION tokens of turn 0 only.
        group_ids: (B,), integer, equal for the episodes of a prompt.

    Returns:
        None when there is nothing to compare: no group has two answers, or no first reply has a REASONING token.

    Raises:
        ValueError: shapes differ, or roles and response mask contradict each other.
    """
    for name in (TURN_IDS, RESPONSES, ENTROPY):
        check_same_shape(name, columns[name], columns[TOKEN_ROLES])
    check_rows("group_ids", group_ids, columns[TOKEN_ROLES])
    columns = _first_turns(columns)
    roles = response_roles(columns)
    first = (roles != TokenRole.ENVIRONMENT) & (columns[TURN_IDS] == 0)
    if not bool((first & (roles == TokenRole.REASONING)).any()):
        return None
    action = first & (roles == TokenRole.ACTION)
    entropies = torch.where(action, columns[ENTROPY].detach().double(), 0.0).sum(dim=1).tolist()
    answers = torch.split(columns[RESPONSES][action], action.sum(dim=1).tolist())
    groups: dict[int, list[tuple[tuple[int, ...], float]]] = defaultdict(list)
    for row in first.any(dim=1).nonzero().flatten().tolist():
        groups[int(group_ids[row])].append((tuple(answers[row].tolist()), entropies[row]))
    compared = [members for members in groups.values() if len(members) > 1]
    if not compared:
        return None
    return AnswerEntropies(
        answer=_mean([_entropy([answer for answer, _ in members]) for members in compared]),
        given_reasoning=_mean([_mean([entropy for _, entropy in members]) for members in compared]),
        repeated=_mean([_repeated([answer for answer, _ in members]) for members in compared]),
    )


def _first_turns(columns: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The columns up to the end of the longest first turn, so that the cost is not that of whole episodes."""
    first = (columns[TURN_IDS] == 0) & (columns[TOKEN_ROLES] != TokenRole.ENVIRONMENT)
    places = first.any(dim=0).nonzero()
    width = int(places.max()) + 1 if len(places) else 0
    names = (TOKEN_ROLES, TURN_IDS, RESPONSES, ENTROPY, "response_mask")
    return {name: columns[name][:, :width] for name in names if name in columns}


def _entropy(answers: Sequence[tuple[int, ...]]) -> float:
    size, counts = len(answers), Counter(answers).values()
    plug_in = -math.fsum(count / size * math.log(count / size) for count in counts)
    return plug_in + (len(counts) - 1) / (2 * size)


def _repeated(answers: Sequence[tuple[int, ...]]) -> float:
    return sum(count for count in Counter(answers).values() if count > 1) / len(answers)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if all(map(math.isfinite, values)) else math.nan


class MovingInfluence:
    """The influence from moving averages of both entropies, over the steps in which they could be measured.

    Its state follows from the steps' metrics alone, so a resumed run restores it from its own log.
    """

    def __init__(self, decay: float = DECAY) -> None:
        self._decay = decay
        self._answer = self._given_reasoning = 0.0

    def add_step(self, metrics: Mapping[str, Any]) -> None:
        """Add a step by its metrics, as :meth:`AnswerEntropies.metrics` has them, or read from metrics.jsonl.

        A step does not count without a repeated answer: then the sample says nothing about the answers' entropy, except
        that it is large. Neither does one with an entropy that is not finite (null in the file).
        """
        answer, given_reasoning = metrics.get(ANSWER_ENTROPY), metrics.get(GIVEN_REASONING)
        if answer is None or given_reasoning is None or not metrics.get(REPEATED):
            return
        if not math.isfinite(answer) or not math.isfinite(given_reasoning):
            return
        self._answer = self._decay * self._answer + float(answer)
        self._given_reasoning = self._decay * self._given_reasoning + float(given_reasoning)

    @property
    def value(self) -> float | None:
        """``1 - mean H(answer | state, reasoning) / mean H(answer | state)``, in [0, 1].

        The means are bias-corrected; the correction is the same factor in both and cancels. None while nothing was
        measured, or all answers of each group were equal: then there is no decision to attribute.
        """
        if self._answer == 0:
            return None
        return max(0.0, 1.0 - self._given_reasoning / self._answer)


def _is_finite(value: Any) -> bool:
    return value is not None and math.isfinite(value)


def verdict(metrics: Mapping[str, Any]) -> str | None:
    """One sentence on whether the reasoning or the action tokens decide the answer, and what follows for ``credit``.

    Args:
        metrics: a step's metrics, or a line of metrics.jsonl.

    Returns:
        None where nothing was measured.
    """
    answer, given_reasoning, share = (metrics.get(name) for name in (ANSWER_ENTROPY, GIVEN_REASONING, ALPHA))
    if not _is_finite(answer) or not _is_finite(given_reasoning):
        return None
    if not metrics.get(REPEATED):
        return (
            "whether the reasoning or the action tokens decide the answer is unknown: no first answer to a prompt "
            "occurs twice, so the entropy of the answers cannot be estimated"
        )
    if answer == 0 or share is None:
        return "all first answers to a prompt are equal: neither the reasoning nor the action tokens decide anything"
    entropies = f"its entropy is {answer:.2f} nats, {given_reasoning:.2f} given the reasoning"
    if share >= _MOST:
        return (
            f"the reasoning decides {share:.0%} of the first answer ({entropies}): credit=actfocus turns that down; "
            "try credit=influence or credit=uniform"
        )
    if share <= 1 - _MOST:
        return (
            f"the action tokens decide {1 - share:.0%} of the first answer ({entropies}): credit=actfocus and "
            "credit=influence turn the rest down"
        )
    return (
        f"the reasoning decides {share:.0%} of the first answer, the action tokens the rest ({entropies}): "
        "credit=influence weights the reasoning by that share"
    )


def influence(
    influences: Tensor,
    token_roles: Tensor,
    relative: Tensor | None = None,
    *,
    floor: float = 0.1,
    format_weight: float = 1.0,
) -> Tensor:
    """Weight 1 on ACTION tokens, and on REASONING tokens the share of the answer that the reasoning decides.

    ::

        w = clip(influence * rho, floor, 1)   REASONING
        w = 1                                 ACTION
        w = format_weight                     FORMAT
        w = 0                                 ENVIRONMENT

    Args:
        influences: (B,), float: the measured share, in [0, 1].
        token_roles: (B, T), integer, values of TokenRole.
        relative: (B, T), float: rho, see :func:`relative_relevance`; None: 1.
        floor: least weight of REASONING tokens, in [0, 1]; 1 is uniform.
        format_weight: weight of FORMAT tokens, >= 0.

    Returns:
        (B, T), float32.

    Raises:
        ConfigurationError: a parameter is out of range.
        ValueError: the shapes do not fit, a role is unknown, or an influence is NaN.
    """
    check_influence(floor=floor, format_weight=format_weight)
    check_roles(token_roles)
    check_rows(INFLUENCE, influences, token_roles)
    if bool(influences.isnan().any()):
        raise ValueError("influence is NaN; check the logits of the old policy's log-prob pass")
    weights = (token_roles != TokenRole.ENVIRONMENT).float()
    weights.masked_fill_(token_roles == TokenRole.FORMAT, format_weight)
    reasoning = influences.detach().float().unsqueeze(1)
    if relative is not None:
        check_same_shape("relative", relative, token_roles)
        reasoning = reasoning * relative
    return torch.where(token_roles == TokenRole.REASONING, reasoning.clamp(floor, 1.0), weights)


def relative_relevance(relevance: Tensor, token_roles: Tensor, turn_ids: Tensor) -> Tensor:
    """rho: the relevance of a REASONING token over the largest one in its turn's reasoning, in [0, 1].

    0 in a turn without relevance, whose episode has no action token, and outside the reasoning.

    Args:
        relevance: (B, T), float, >= 0: the norm of the gradient of ``sum over ACTION tokens a of (logit_a - mean
            logit)`` with respect to a token's input embedding; read at REASONING tokens only.
        token_roles: (B, T), integer, values of TokenRole.
        turn_ids: (B, T), integer: see :class:`~actfocus_verl.credit.turns.Turns`; likewise.

    Returns:
        (B, T), float32.

    Raises:
        ValueError: shapes differ, a role is unknown, or a REASONING token has no turn or no finite relevance.
    """
    check_roles(token_roles)
    check_same_shape(RELEVANCE, relevance, token_roles)
    reasoning = token_roles == TokenRole.REASONING
    turns = Turns.of(turn_ids, reasoning)
    values = torch.where(reasoning, relevance.detach().float(), 0.0)
    check_finite(RELEVANCE, values, relevance, reasoning, "REASONING", "check the actor's logits")
    largest = values.new_zeros(len(values), turns.lengths.shape[1] + 1)
    largest.scatter_reduce_(1, turns.bins.long(), values, "amax")
    return values / turns.to_tokens(largest[:, 1:]).clamp(min=torch.finfo(torch.float32).tiny)


def check_influence(*, floor: object, format_weight: object, level: object = ROLE) -> None:
    """Raise ConfigurationError, naming key, value and range, unless the parameters of ``influence`` can work."""
    require_choice("level", level, choices=LEVELS)
    require_number("floor", floor, low=0.0, high=1.0)
    require_number("format_weight", format_weight, low=0.0)


def _columns(params: Mapping[str, object]) -> tuple[str, ...]:
    return (INFLUENCE,) if params["level"] == ROLE else (INFLUENCE, RELEVANCE, TURN_IDS)


@register_weighting(INFLUENCE, required_columns=_columns, check=check_influence, granularity="token")
def influence_weighting(
    columns: Mapping[str, Tensor], *, level: str = ROLE, floor: float = 0.1, format_weight: float = 1.0
) -> Tensor:
    """``credit.name=influence``: see :func:`influence`. level: ``role`` for rho = 1, or ``token``."""
    roles, relative = columns[TOKEN_ROLES], None
    if level == TOKEN:
        relative = relative_relevance(columns[RELEVANCE], roles, columns[TURN_IDS])
    return influence(columns[INFLUENCE], roles, relative, floor=floor, format_weight=format_weight)
