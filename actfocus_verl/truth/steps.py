"""The episodes of a measurement as a training step: the columns that methods read, and the true advantages."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, TypeVar

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from actfocus_verl.columns import (
    ANCHORS,
    ENTROPY,
    GROUP_IDS,
    HINDSIGHT_LOG_PROBS,
    INFLUENCE,
    NEXT_ANCHORS,
    RELEVANCE,
    STATES,
    TOKEN_ROLES,
    TRAINING_STEP,
    TURN_IDS,
    TURN_REWARDS,
)
from actfocus_verl.credit.hindsight import informed_prompts
from actfocus_verl.credit.influence import UNKNOWN, MovingInfluence, answer_entropies
from actfocus_verl.credit.signals import LOGIT_SIGNALS, entropy
from actfocus_verl.credit.tokens import TokenRole
from actfocus_verl.errors import ConfigurationError
from actfocus_verl.rollout import Trajectory, feedback_columns
from actfocus_verl.truth.decomposition import Changes, Floats
from actfocus_verl.truth.segments import Segment

TURN_COUNTS: Final = "turn_counts"

_T = TypeVar("_T")

Progress = Callable[[str, int, int], None]
"""Called with a stage, what is done of it, and the total."""

TokenBatch = tuple[Tensor, Tensor]
"""Token ids (b, L), right-padded with 0, and for each row the position of its first response token (b,)."""


@dataclass(frozen=True)
class MeasuredStep:
    """B episodes, T tokens the longest response; the episodes of a board are a prompt group."""

    columns: dict[str, Tensor]
    """As in training: (B, T) per token, (B, K) per turn, (B,) per episode; 0 (turn ids: -1) beyond a response."""
    prompts: Sequence[Sequence[int]]
    """Per episode: the token ids of its first prompt."""
    segments: Tensor
    """(B, T), int64: the number of the segment that a sampled token is in; -1 elsewhere."""
    changes: Sequence[Changes]
    """Per episode: how much each of its segments changed the expected return."""
    feedback: Sequence[Mapping[str, Tensor]] = ()
    """Per episode: `rollout.feedback_columns`; empty where nobody kept the contexts with feedback."""

    @property
    def returns(self) -> Tensor:
        """(B,), float32."""
        returns: Tensor = self.columns["rm_scores"].sum(dim=1)
        return returns

    @cached_property
    def lengths(self) -> list[int]:
        """Per episode: tokens of its response up to the last sampled one, at least 1."""
        ends = torch.where(self.segments >= 0, torch.arange(1, self.segments.shape[1] + 1), 1)
        return [int(length) for length in ends.amax(dim=1)]

    def of_segments(self, values: Callable[[Changes], Floats]) -> Tensor:
        """(B, T), float32: a value of each segment at its tokens, 0 elsewhere."""
        rows = [torch.tensor([*values(each).tolist(), 0.0]) for each in self.changes]
        return torch.stack([row[places] for row, places in zip(rows, self.segments, strict=True)])


def measured_step(
    trajectories: Sequence[Trajectory],
    groups: Sequence[int],
    segments: Sequence[Sequence[Segment]],
    changes: Sequence[Changes],
    max_context_tokens: int,
) -> MeasuredStep:
    """The step of these episodes; groups: the number of each one's board.

    max_context_tokens: a longer context with feedback, its reply included, is left out.
    """
    columns = {
        "responses": _padded([each.response_ids for each in trajectories]),
        "response_mask": _padded([each.response_mask for each in trajectories]),
        TOKEN_ROLES: _padded([each.token_roles for each in trajectories]),
        TURN_IDS: _padded([each.turn_ids for each in trajectories], -1),
        TURN_REWARDS: _padded([each.turn_rewards for each in trajectories], dtype=torch.float32),
        TURN_COUNTS: torch.tensor([each.turns for each in trajectories]),
        ANCHORS: _padded([each.anchors for each in trajectories]),
        NEXT_ANCHORS: _padded([each.next_anchors for each in trajectories]),
        STATES: _padded([each.states for each in trajectories]),
        GROUP_IDS: torch.tensor(list(groups)),
    }
    scores = torch.zeros(columns["responses"].shape, dtype=torch.float32)
    for row, each in enumerate(trajectories):
        scores[row, len(each.response_ids) - 1] = each.episode_return
    columns["rm_scores"] = scores
    return MeasuredStep(
        columns=columns,
        prompts=[each.prompt_ids for each in trajectories],
        segments=_padded([token_segments(*each) for each in zip(trajectories, segments, strict=True)], -1),
        changes=changes,
        feedback=[_feedback(each, max_context_tokens) for each in trajectories if each.informed],
    )


def _feedback(trajectory: Trajectory, max_tokens: int) -> dict[str, Tensor]:
    lengths = [len(reply.token_ids) for reply in trajectory.replies]
    columns = feedback_columns(trajectory.informed, lengths, max_tokens=max_tokens)
    return {name: torch.tensor(values, dtype=torch.int64) for name, values in columns.items()}


def token_segments(trajectory: Trajectory, segments: Sequence[Segment]) -> list[int]:
    """For each response token of R the number of the segment it is in; -1 where it was not sampled."""
    starts = [(segment.start.turn, segment.start.tokens, number) for number, segment in enumerate(segments)]
    numbers, read = [], dict.fromkeys(trajectory.turn_ids, 0)
    for turn in trajectory.turn_ids:
        before = [number for of, tokens, number in starts if of == turn and tokens <= read[turn]]
        numbers.append(before[-1] if turn >= 0 else -1)
        read[turn] += 1
    return numbers


@torch.no_grad()
def with_logits(
    model: torch.nn.Module,
    frozen: torch.nn.Module,
    step: MeasuredStep,
    temperature: float,
    needed: Collection[str] | None = None,
    progress: Progress = lambda *_: None,
) -> dict[str, Tensor]:
    """The step's columns with those that the actor's and the frozen reference's passes give.

    Log-probs and entropy are those of the sampling distribution, at `temperature`; the reference's signals are those of
    its raw logits, as in training.

    needed: columns that methods read, of those that take passes of their own; None: all.

    Raises ConfigurationError where the two have different vocabularies.
    """
    _require_same_vocabulary(model, frozen)
    shape = step.segments.shape
    names = ("old_log_probs", "ref_log_prob", ENTROPY, *LOGIT_SIGNALS)
    columns = {name: torch.zeros(shape, dtype=torch.float32) for name in names}
    for row, length in _counted(list(enumerate(step.lengths)), "log-probs", progress):
        ids, logits_TV = response_logits(model, step, [row])
        scaled_TV = logits_TV[0, :length].float() / temperature
        found = {"old_log_probs": _log_probs(scaled_TV, ids), ENTROPY: entropy(scaled_TV)}
        frozen_TV = (logits_TV if frozen is model else response_logits(frozen, step, [row])[1])[0, :length].float()
        found["ref_log_prob"] = _log_probs(frozen_TV / temperature, ids)
        found |= {name: signal(frozen_TV) for name, signal in LOGIT_SIGNALS.items()}
        for name, values in found.items():
            columns[name][row, :length] = values.cpu()
    if needed is None or RELEVANCE in needed:
        columns[RELEVANCE] = relevance(model, step, progress)
    if step.feedback and (needed is None or HINDSIGHT_LOG_PROBS in needed):
        columns[HINDSIGHT_LOG_PROBS] = _hindsight(model, step, columns["old_log_probs"], temperature, progress)
        columns[TRAINING_STEP] = torch.ones(shape[0], dtype=torch.int64)
    return {**step.columns, **columns, **_influence({**step.columns, **columns})}


def _log_probs(logits_TV: Tensor, ids: Tensor) -> Tensor:
    """(T,): of the first T of ids (1, T')."""
    chosen: Tensor = logits_TV.log_softmax(dim=-1).gather(1, ids[0, : len(logits_TV), None])[:, 0]
    return chosen


def _hindsight(
    model: torch.nn.Module, step: MeasuredStep, old_log_probs: Tensor, temperature: float, progress: Progress
) -> Tensor:
    """(B, T): the log-probs of replies with the feedback on them in their prompt, `old_log_probs` in turns without."""
    found = old_log_probs.clone()
    device = next(model.parameters()).device
    episodes = list(enumerate(zip(step.prompts, step.feedback, strict=True)))
    for row, (prompt, feedback) in _counted(episodes, "log-probs with feedback", progress):
        own = {name: step.columns[name][row] for name in ("responses", "response_mask", TURN_IDS)}
        for places, informed in informed_prompts({"prompts": torch.tensor(prompt), **own, **feedback}).values():
            ids = torch.cat([informed, own["responses"][places]]).to(device)
            logits_TV = model(input_ids=ids[None, :-1], use_cache=False).logits[0, len(informed) - 1 :].float()
            found[row, places] = _log_probs(logits_TV / temperature, ids[None, len(informed) :]).cpu()
    return found


def _require_same_vocabulary(model: Any, frozen: Any) -> None:
    own, other = (each.get_input_embeddings().num_embeddings for each in (model, frozen))
    if own != other:
        problem = f"has a vocabulary of {other}, the policy one of {own}"
        raise ConfigurationError("reference", frozen.name_or_path, problem, "Name the model that it started from")


def _influence(columns: dict[str, Tensor]) -> dict[str, Tensor]:
    """The column that the trainer gives, from this step alone."""
    groups = columns[GROUP_IDS]
    entropies, moving = answer_entropies(columns, groups), MovingInfluence()
    if entropies is not None:
        moving.add_step(entropies.metrics())
    share = UNKNOWN if moving.value is None else moving.value
    return {INFLUENCE: torch.full(groups.shape, share, dtype=torch.float32)}


def relevance(model: Any, step: MeasuredStep, progress: Progress) -> Tensor:
    """(B, T), float32: how much each response token's embedding moves the logits of the actions after it.

    The norm of the gradient of ``sum over ACTION tokens a of (logit_a - mean logit)`` with respect to the embedding.
    """
    found = torch.zeros(step.segments.shape, dtype=torch.float32)
    embed = model.get_input_embeddings()
    episodes = list(enumerate(zip(step.prompts, step.lengths, strict=True)))
    for row, (prompt, length) in _counted(episodes, "relevance", progress):
        action = (step.columns[TOKEN_ROLES][row, :length] == TokenRole.ACTION).nonzero()[:, 0]
        if not len(action):
            continue
        ids = torch.tensor([*prompt, *step.columns["responses"][row, :length].tolist()], device=embed.weight.device)
        with torch.enable_grad():
            leaf = embed(ids[None]).detach().requires_grad_()
            logits_LV = model(inputs_embeds=leaf, use_cache=False).logits[0].float()
            at = action.to(ids.device) + len(prompt)
            of_actions = logits_LV[at - 1]
            score = of_actions.gather(1, ids[at, None]).sum() - of_actions.mean(dim=-1).sum()
            (gradient,) = torch.autograd.grad(score, leaf)
        found[row, :length] = gradient[0, len(prompt) :].norm(dim=-1).cpu()
    return found


def response_logits(model: torch.nn.Module, step: MeasuredStep, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The response ids (b, T) of some rows and the logits (b, T, V) that predict them; arbitrary beyond a response.

    One forward pass over prompt and response, right-padded: the model is causal, so padding changes nothing before it.
    """
    device = next(model.parameters()).device
    responses = step.columns["responses"][list(rows)]
    lengths = [step.lengths[row] for row in rows]
    longest = max(lengths)
    sequences = [
        torch.tensor([*step.prompts[row], *ids[:length].tolist()])
        for row, ids, length in zip(rows, responses, lengths, strict=True)
    ]
    padded = pad_sequence(sequences, batch_first=True).to(device)
    logits = model(input_ids=padded[:, :-1], use_cache=False).logits
    first = torch.tensor([len(step.prompts[row]) - 1 for row in rows], device=device)
    places = (first[:, None] + torch.arange(longest, device=device)).clamp(max=logits.shape[1] - 1)
    chosen = logits[torch.arange(len(rows), device=device)[:, None], places]
    return responses[:, :longest].to(device), chosen


def _counted(parts: Sequence[_T], stage: str, progress: Progress) -> Iterator[_T]:
    """The parts of a stage, of which progress is told once each is done."""
    for done, part in enumerate(parts, start=1):
        yield part
        progress(stage, done, len(parts))


def _padded(rows: Sequence[Sequence[float]], value: int = 0, dtype: torch.dtype = torch.int64) -> Tensor:
    return pad_sequence([torch.tensor(list(row), dtype=dtype) for row in rows], batch_first=True, padding_value=value)


def segment_sums(step: MeasuredStep, column: Tensor) -> list[Floats]:
    """Per episode of S segments, (S,) float64: the sums of a (B, T) column over the tokens of each segment."""
    sums = []
    for row, (places, change) in enumerate(zip(step.segments, step.changes, strict=True)):
        sampled = places >= 0
        of_row = torch.zeros(len(change.kinds), dtype=torch.float64)
        of_row.index_add_(0, places[sampled], column[row, sampled].double())
        sums.append(of_row.numpy())
    return sums
