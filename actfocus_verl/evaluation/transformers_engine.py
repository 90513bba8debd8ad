"""transformers in this process, as a sampler: where vLLM cannot be installed, with whatever device torch has.

Requests that wait together are answered together, in one batch that decodes in lock step. A request's random numbers
are a function of its own seed, so which batch it falls into changes a reply by rounding only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from actfocus_verl.errors import one_line
from actfocus_verl.evaluation.models import load_policy
from actfocus_verl.evaluation.sampling import EvaluationError, ReplyRequest
from actfocus_verl.evaluation.static_decoding import decode
from actfocus_verl.rollout import Reply

DEVICES: Final = {"cpu": "cpu", "gpu": "cuda"}
"""The device of each platform."""

_CHECKED_EVERY: Final = 4
"""Tokens between looks at which rows have ended: on a GPU a look waits for all that was launched."""
_SEED_STEP: Final = -0x61C8864680B583EB
_MIX: Final = (-0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15)
"""Steele et al. 2014, SplitMix64: the increment and the two multipliers, as signed 64-bit integers."""
_MANTISSA: Final = 24


@dataclass(frozen=True)
class Wanted:
    """One row of a batch: the context, the seed, and the longest reply."""

    prompt_ids: Sequence[int]
    seed: int
    max_new_tokens: int


def uniforms(seeds: Tensor, position: Tensor) -> Tensor:
    """(B,), float32 in [0, 1): output number `position` (1,) of SplitMix64 from each of the seeds (B,), int64."""
    state = seeds + (position + 1) * _SEED_STEP
    state = (state ^ _shifted(state, 30)) * _MIX[0]
    state = (state ^ _shifted(state, 27)) * _MIX[1]
    state = state ^ _shifted(state, 31)
    return _shifted(state, 64 - _MANTISSA).to(torch.float32) / float(1 << _MANTISSA)


def _shifted(values: Tensor, bits: int) -> Tensor:
    """A logical shift to the right; torch's own repeats the sign."""
    return (values >> bits) & ((1 << (64 - bits)) - 1)


def choose(logits_BV: Tensor, draws_B: Tensor, temperature: float) -> Tensor:
    """(B,), int64: the token of each row at which its cumulative probability exceeds its draw in [0, 1).

    temperature: 0 is greedy, and reads no draws.
    """
    if temperature == 0:
        return logits_BV.argmax(dim=-1)
    cumulative = (logits_BV.float() / temperature).softmax(dim=-1).cumsum(dim=-1)
    thresholds = draws_B[:, None] * cumulative[:, -1:]
    found: Tensor = torch.searchsorted(cumulative, thresholds, right=True)[:, 0]
    return found.clamp(max=logits_BV.shape[1] - 1)


@torch.inference_mode()
def sample_batch(model: Any, wanted: Sequence[Wanted], *, temperature: float, end_of_turn_id: int) -> list[Reply]:
    """A reply to each, in their order; ends with `end_of_turn_id` unless it is cut off ("length")."""
    device = model.device
    width = max(len(each.prompt_ids) for each in wanted)
    ids = torch.zeros((len(wanted), width), dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, each in enumerate(wanted):
        ids[row, width - len(each.prompt_ids) :] = torch.tensor(list(each.prompt_ids))
        mask[row, width - len(each.prompt_ids) :] = 1
    ids, mask = ids.to(device), mask.to(device)
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    seeds = torch.tensor([each.seed for each in wanted], device=device)
    limits = torch.tensor([each.max_new_tokens for each in wanted], device=device)
    rows = torch.arange(len(wanted), device=device)  # which of `wanted` each row of the batch is
    length = max(each.max_new_tokens for each in wanted)
    if device.type == "cuda":

        def of_all(logits: Tensor, step: Tensor) -> Tensor:
            return choose(logits, uniforms(seeds, step), temperature)

        def ended(tokens: Tensor) -> bool:
            taken = (tokens >= 0).sum(dim=1)
            return bool(((tokens == end_of_turn_id).any(dim=1) | (taken >= limits)).all())

        return _replies(decode(model, ids, mask, of_all, ended, length), wanted, end_of_turn_id)
    sampled = torch.full((len(wanted), length), -1, dtype=torch.int64, device=device)
    output = model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=True, logits_to_keep=1)
    last = positions[:, -1:]
    for step in range(sampled.shape[1]):
        tokens = choose(output.logits[:, -1], uniforms(seeds[rows], torch.tensor([step], device=device)), temperature)
        sampled[rows, step] = tokens
        if step + 1 == sampled.shape[1]:
            break
        if (step + 1) % _CHECKED_EVERY == 0:
            alive = ~(sampled[rows, : step + 1] == end_of_turn_id).any(dim=1) & (limits[rows] > step + 1)
            count = int(alive.sum())
            if count == 0:
                break
            if count <= len(rows) // 2:
                kept = alive.nonzero()[:, 0]
                output.past_key_values.batch_select_indices(kept)
                rows, tokens, mask, last = rows[kept], tokens[kept], mask[kept], last[kept]
        mask = torch.cat([mask, mask.new_ones((len(rows), 1))], dim=1)
        last = last + 1
        output = model(
            input_ids=tokens[:, None],
            attention_mask=mask,
            position_ids=last,
            past_key_values=output.past_key_values,
            use_cache=True,
        )
    return _replies(sampled, wanted, end_of_turn_id)


def _replies(sampled: Tensor, wanted: Sequence[Wanted], end_of_turn_id: int) -> list[Reply]:
    rows = zip(sampled.tolist(), wanted, strict=True)
    return [Reply.cut(row[: each.max_new_tokens], end_of_turn_id) for row, each in rows]


def load_for_sampling(path: str, platform: str) -> Any:
    """The model on the platform's device: float32 on a CPU, on a GPU the precision that its weights are stored in.

    Raises ConfigurationError when the model or the device cannot be used.
    """
    from transformers import AutoConfig

    loaded = load_policy(path, DEVICES[platform])
    stored = AutoConfig.from_pretrained(path).dtype
    return loaded if platform == "cpu" or stored is None else loaded.to(stored)


class TransformersSampler:
    """A `Sampler` on a model in this process. rows: of the largest batch.

    Raises EvaluationError when sampling fails.
    """

    def __init__(self, model: Any, *, temperature: float, end_of_turn_id: int, rows: int) -> None:
        self._model = model
        self._temperature = temperature
        self._end_of_turn_id = end_of_turn_id
        self._rows = rows
        self._waiting: list[tuple[Wanted, asyncio.Future[Reply]]] = []
        self._task: asyncio.Task[None] | None = None

    async def sample(self, request: ReplyRequest) -> Reply:
        """See `Sampler`."""
        answered: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        wanted = Wanted(request.prompt_ids, request.seed, request.max_new_tokens)
        self._waiting.append((wanted, answered))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._serve())
        return await answered

    async def _serve(self) -> None:
        """Answer what waits until nothing does; the longest contexts together, for they cost the most padding."""
        while self._waiting:
            await self._gather()
            self._waiting.sort(key=lambda each: len(each[0].prompt_ids))
            batch, self._waiting = self._waiting[-self._rows :], self._waiting[: -self._rows]
            batch = [each for each in batch if not each[1].done()]  # cancelled
            if not batch:
                continue
            try:
                replies = await asyncio.to_thread(self._sample, [wanted for wanted, _ in batch])
            except RuntimeError as error:  # torch's, out of memory among them
                failure = EvaluationError(f"sampling with transformers failed: {one_line(error, 300)}")
                for _, answered in batch:
                    _settle(answered, failure)
                continue
            for (_, answered), reply in zip(batch, replies, strict=True):
                _settle(answered, reply)

    async def _gather(self) -> None:
        """Let the episodes run that were answered, until none of them asks again."""
        seen = -1
        while seen < len(self._waiting):
            seen = len(self._waiting)
            for _ in range(3):
                await asyncio.sleep(0)

    def _sample(self, wanted: list[Wanted]) -> list[Reply]:
        """A batch that does not fit into the GPU's memory is sampled in halves."""
        try:
            return sample_batch(self._model, wanted, temperature=self._temperature, end_of_turn_id=self._end_of_turn_id)
        except torch.OutOfMemoryError:
            if len(wanted) == 1:
                raise
        torch.cuda.empty_cache()
        half = len(wanted) // 2
        self._rows = max(1, min(self._rows, half))
        return [*self._sample(wanted[:half]), *self._sample(wanted[half:])]


def _settle(answered: asyncio.Future[Reply], result: Reply | EvaluationError) -> None:
    if answered.done():
        return
    if isinstance(result, Reply):
        answered.set_result(result)
    else:
        answered.set_exception(result)
