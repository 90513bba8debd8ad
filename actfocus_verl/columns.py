"""The table of columns: data of each token, turn and episode in a training step, its source and its cost.

A method names the columns that it reads; everything else follows from this table: what the trainer fetches, what the
checks before a run ask for, what is recorded, and what the report colours tokens by. Rows are outputs of the agent
loop, B of them; T response tokens, K turns.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

TOKEN_ROLES: Final = "token_roles"
TURN_IDS: Final = "turn_ids"
TURN_REWARDS: Final = "turn_rewards"
ANCHORS: Final = "anchors"
NEXT_ANCHORS: Final = "next_anchors"
STATES: Final = "states"
REPLAYED: Final = "replayed"
GROUP_IDS: Final = "group_ids"
ANSWER_SCORES: Final = "answer_scores"
CLIP_SCALES: Final = "clip_scales"
VALUES: Final = "values"
TOKEN_WEIGHTS: Final = "token_weights"
TRAINING_STEP: Final = "training_step"
ENTROPY: Final = "entropy"
HINDSIGHT_LOG_PROBS: Final = "hindsight_log_probs"
INFLUENCE: Final = "influence"
RELEVANCE: Final = "relevance"
RESPONSES: Final = "responses"
"""verl's column of token ids, (B, T). It is not in the table: no weighting reads it."""

SOLVED: Final = -1
"""In `next_anchors`, which are hashes >= 0 otherwise: the turn solved the world."""


@dataclass(frozen=True)
class Giver:
    """A part of a step that writes columns."""

    name: str
    cost: str = ""
    """Cost per step, where a run may do without it."""


ANY_LOOP: Final = Giver("any agent loop")
"""The trainer makes columns that a loop leaves out from its mask and `credit.action_span`."""
OWN_LOOP: Final = Giver("an agent loop that knows turns, as this package's does")
ACTOR: Final = Giver("the actor's log-prob pass")
REFERENCE: Final = Giver("a frozen reference", "one forward pass per step, and its weights in memory (none with LoRA)")
CRITIC: Final = Giver("a critic", "its training, and one forward pass per step")
PROBES: Final = Giver("the actor, probed for the world's known answer", "one more log-prob pass per step")
FEEDBACK: Final = Giver("the actor, shown what followed each turn", "one more log-prob pass per step")
EMBEDDINGS: Final = Giver(
    "the actor, differentiated by its input embeddings", "one forward and one backward pass per step"
)
ESTIMATOR: Final = Giver("the advantage estimator")
MEASUREMENT: Final = Giver("the first answers of the prompt groups")
WEIGHTING: Final = Giver("the token weighting")
COUNTER: Final = Giver("the count of steps")
TRAINER: Final = Giver("the trainer")


@dataclass(frozen=True)
class Column:
    """One column of a training batch."""

    name: str
    dtype: str
    """`int64` or `float32`."""
    per: Literal["token", "turn", "episode"]
    """(B, T), (B, K) or (B,)."""
    given_by: Giver
    content: str
    """What it holds, in brief."""
    on_request: bool = False
    """Whether only methods that declare it get it; other columns are passed on whenever the step has them."""
    recorded: bool = False
    """Whether `rollouts/<step>.jsonl` records it when the step has it."""
    label: str = ""
    """Its name in the report; empty: tokens are not coloured by it."""
    colour: Literal["sequential", "diverging"] = "sequential"
    """The kind of colour scale."""


_TABLE: Final = (
    Column("response_mask", "int64", "token", ANY_LOOP, "1 on the tokens the policy sampled", recorded=True),
    Column(TOKEN_ROLES, "int64", "token", ANY_LOOP, "0 ENVIRONMENT, 1 REASONING, 2 ACTION, 3 FORMAT", recorded=True),
    Column(TURN_IDS, "int64", "token", ANY_LOOP, "turn a token was sampled in, from 0; -1 outside", recorded=True),
    Column("rollout_log_probs", "float32", "token", ANY_LOOP, "log-prob as the rollout engine had it", on_request=True),
    Column("rm_scores", "float32", "token", ANY_LOOP, "the episode's return, at its last token", on_request=True),
    Column(GROUP_IDS, "int64", "episode", TRAINER, "equal for the episodes of a prompt"),
    Column(
        TOKEN_WEIGHTS,
        "float32",
        "token",
        WEIGHTING,
        "factor of the token's loss",
        on_request=True,
        recorded=True,
        label="weight",
    ),
    Column("energy", "float32", "token", REFERENCE, "`-logsumexp` of its raw logits", recorded=True, label="energy"),
    Column(
        "reference_entropy",
        "float32",
        "token",
        REFERENCE,
        "its entropy in nats",
        recorded=True,
        label="reference entropy",
    ),
    Column(
        "gauge_free_energy",
        "float32",
        "token",
        REFERENCE,
        "`-logsumexp` of its centred logits",
        recorded=True,
        label="gauge-free energy",
    ),
    Column("ref_log_prob", "float32", "token", REFERENCE, "log-prob of the frozen reference", recorded=True),
    Column("old_log_probs", "float32", "token", ACTOR, "log-prob of the policy that sampled", recorded=True),
    Column(ENTROPY, "float32", "token", ACTOR, "entropy of its distribution, in nats", recorded=True),
    Column(
        RELEVANCE,
        "float32",
        "token",
        EMBEDDINGS,
        "norm of the action logits' gradient by its embedding",
        on_request=True,
        recorded=True,
        label="relevance",
    ),
    Column(
        HINDSIGHT_LOG_PROBS,
        "float32",
        "token",
        FEEDBACK,
        "its log-prob with its turn's feedback in the prompt",
        on_request=True,
        recorded=True,
    ),
    Column(
        VALUES,
        "float32",
        "token",
        CRITIC,
        "the critic's value before the token",
        on_request=True,
        recorded=True,
        label="value",
        colour="diverging",
    ),
    Column(
        "advantages",
        "float32",
        "token",
        ESTIMATOR,
        "as the estimator gave them, not weighted",
        recorded=True,
        label="advantage",
        colour="diverging",
    ),
    Column("returns", "float32", "token", ESTIMATOR, "the critic's target", on_request=True),
    Column(
        CLIP_SCALES,
        "float32",
        "token",
        ESTIMATOR,
        "factor of the token's clip range (`algorithm=a2tgpo`)",
        on_request=True,
    ),
    Column(
        INFLUENCE,
        "float32",
        "episode",
        MEASUREMENT,
        "share of an answer that the reasoning decides; one value for all",
        on_request=True,
    ),
    Column(
        TRAINING_STEP,
        "int64",
        "episode",
        COUNTER,
        "number of the training step, from 1; one value for all",
        on_request=True,
    ),
    Column(TURN_REWARDS, "float32", "turn", OWN_LOOP, "the environment's rewards and penalties", on_request=True),
    Column(ANCHORS, "int64", "turn", OWN_LOOP, "hash of the state the turn saw", on_request=True),
    Column(
        NEXT_ANCHORS, "int64", "turn", OWN_LOOP, "hash of the state the turn led to; -1 for success", on_request=True
    ),
    Column(STATES, "int64", "turn", OWN_LOOP, "hash of the tokens the turn was sampled after", on_request=True),
    Column(REPLAYED, "int64", "turn", OWN_LOOP, "1 for a turn shared with the episode forked from", on_request=True),
    Column(
        ANSWER_SCORES,
        "float32",
        "turn",
        PROBES,
        "mean log-prob of the known answer before the turn; NaN without",
        on_request=True,
    ),
)

COLUMNS: Final[dict[str, Column]] = {column.name: column for column in _TABLE}
"""Every column by its name, grouped by giver."""

PASSED_ON: Final = tuple(column.name for column in _TABLE if column.per == "token" and not column.on_request)
"""The token columns that every weighting and the diagnostics get, as far as the step has them."""

RECORDED: Final = tuple(column.name for column in _TABLE if column.recorded)

COLOURED: Final = tuple(column for column in _TABLE if column.label)


def given_by(giver: Giver, names: Iterable[str]) -> list[str]:
    """The names that this part of a step gives, in the given order."""
    return [name for name in names if name in COLUMNS and COLUMNS[name].given_by is giver]


def of_turns(names: Iterable[str]) -> list[str]:
    """The names of turn columns, in the given order."""
    return [name for name in names if name in COLUMNS and COLUMNS[name].per == "turn"]
