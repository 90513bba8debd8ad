"""Sampling with transformers: its random numbers, the choice of a token, batches, and a whole evaluation."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
import torch

from actfocus_verl.evaluation import transformers_engine
from actfocus_verl.evaluation.sampling import EvaluationError, ReplyRequest
from actfocus_verl.evaluation.static_decoding import decode
from actfocus_verl.evaluation.transformers_engine import TransformersSampler, Wanted, choose, sample_batch, uniforms
from actfocus_verl.rollout import Reply
from tests.helpers.engines import save_tiny_model

END = 7


def split_mix(seed: int, count: int) -> list[float]:
    """SplitMix64 as its authors write it, on Python's integers; the upper 24 bits as a fraction."""
    limit, state, found = 1 << 64, seed % (1 << 64), []
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) % limit
        mixed = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) % limit
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) % limit
        found.append(((mixed ^ (mixed >> 31)) >> 40) / (1 << 24))
    return found


def test_random_numbers_are_splitmix64s() -> None:
    seeds = [0, 1, 2**31 - 1, 123456789]
    found = [uniforms(torch.tensor(seeds), torch.tensor([position])).tolist() for position in range(50)]
    for row, seed in enumerate(seeds):
        assert [each[row] for each in found] == split_mix(seed, 50)


def test_a_token_is_chosen_as_often_as_it_is_likely() -> None:
    probabilities = torch.tensor([0.0, 0.1, 0.0, 0.6, 0.3, 0.0])
    draws = (torch.arange(1000) + 0.5) / 1000
    found = choose(probabilities.log().expand(1000, -1), draws, 1.0)
    assert torch.bincount(found, minlength=6).tolist() == [0, 100, 0, 600, 300, 0]
    cooler = (probabilities**2 / (probabilities**2).sum() * 1000).tolist()
    found = choose(probabilities.log().expand(1000, -1), draws, 0.5)
    assert torch.bincount(found, minlength=6).tolist() == pytest.approx(cooler, abs=1)
    assert choose(probabilities.log()[None], torch.tensor([0.05]), 0.0).tolist() == [3]
    edges = choose(probabilities.log().expand(2, -1), torch.tensor([0.0, 1 - 2**-24]), 1.0)
    assert edges.tolist() == [1, 4]  # never a token without probability


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def model(folder: Path) -> torch.nn.Module:
    from actfocus_verl.evaluation.models import load_policy

    loaded: torch.nn.Module = load_policy(str(folder), "cpu")
    return loaded


def slow_reply(model: torch.nn.Module, wanted: Wanted, temperature: float, end: int = END) -> list[int]:
    """One row alone, every token from the whole context, without a cache."""
    ids, draws, reply = list(wanted.prompt_ids), split_mix(wanted.seed, wanted.max_new_tokens), []
    for draw in draws:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids])).logits[0, -1]
        if temperature == 0:
            token = int(logits.argmax())
        else:
            cumulative = np.cumsum((logits / temperature).softmax(dim=-1).double().numpy())
            token = int((cumulative > draw).argmax())
        ids.append(token)
        reply.append(token)
        if token == end:
            break
    return reply


@pytest.mark.parametrize("temperature", [1.0, 0.0])
def test_a_batch_is_its_rows_alone(model: torch.nn.Module, temperature: float) -> None:
    rng = torch.Generator().manual_seed(3)
    lengths = [3, 9, 1, 14, 6, 2]
    wanted = [
        Wanted(torch.randint(8, 40, (length,), generator=rng).tolist(), 1000 + row, 2 + 5 * (row % 4))
        for row, length in enumerate(lengths)
    ]
    replies = sample_batch(model, wanted, temperature=temperature, end_of_turn_id=END)
    slow = [slow_reply(model, each, temperature) for each in wanted]
    assert [reply.token_ids for reply in replies] == slow
    for each, reply in zip(wanted, replies, strict=True):
        assert reply.finish_reason == ("stop" if reply.token_ids[-1] == END else "length")
        assert len(reply.token_ids) <= each.max_new_tokens


def test_decoding_in_place_gives_the_same_replies(model: torch.nn.Module) -> None:
    """What a GPU replays as a graph, here step by step."""
    wanted = [Wanted([9, 11, *range(12, 12 + row)], 50 + row, 17) for row in range(5)]
    ids, mask = torch.zeros((5, 6), dtype=torch.int64), torch.zeros((5, 6), dtype=torch.int64)
    for row, each in enumerate(wanted):
        ids[row, 6 - len(each.prompt_ids) :] = torch.tensor(list(each.prompt_ids))
        mask[row, 6 - len(each.prompt_ids) :] = 1
    seeds = torch.tensor([each.seed for each in wanted])
    looks = []
    sampled = decode(
        model,
        ids,
        mask,
        lambda logits, step: choose(logits, uniforms(seeds, step), 1.0),
        lambda tokens: looks.append(tokens.clone()) or False,
        17,
    )
    slow = [slow_reply(model, each, 1.0, end=-1) for each in wanted]
    assert sampled.tolist() == slow
    assert [int((look[0] >= 0).sum()) for look in looks] == [9, 17]


def test_rows_that_end_leave_the_batch(model: torch.nn.Module) -> None:
    """With many seeds some rows end early, and the cache is cut to the others."""
    wanted = [Wanted([9, 11, 13 + row % 3], row, 24) for row in range(24)]
    ended = {}
    for end in range(0, model.config.vocab_size, 3):
        replies = sample_batch(model, wanted[:8], temperature=1.0, end_of_turn_id=end)
        ended[end] = sum(reply.finish_reason == "stop" for reply in replies)
        if ended[end] > 3:
            break
    replies = sample_batch(model, wanted, temperature=1.0, end_of_turn_id=end)
    alone = [sample_batch(model, [each], temperature=1.0, end_of_turn_id=end)[0] for each in wanted]
    assert [reply.token_ids for reply in replies] == [reply.token_ids for reply in alone]


def test_requests_that_wait_together_are_one_batch(model: torch.nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    sampler = TransformersSampler(model, temperature=1.0, end_of_turn_id=END, rows=4)
    sample = sampler._sample
    monkeypatch.setattr(sampler, "_sample", lambda wanted: (sizes.append(len(wanted)), sample(wanted))[1])

    async def ask(row: int) -> list[int]:
        first = await sampler.sample(ReplyRequest([9 + row, 10], [], 5, seed=row))
        second = await sampler.sample(ReplyRequest([9 + row, 10, *first.token_ids], [], 5, seed=row + 100))
        return second.token_ids

    async def every() -> list[list[int]]:
        return list(await asyncio.gather(*(ask(row) for row in range(6))))

    together = asyncio.run(every())
    assert sorted(sizes, reverse=True)[:2] == [4, 4]
    assert [asyncio.run(ask(row)) for row in range(6)] == together

    def broken(wanted: object) -> None:
        raise RuntimeError("CUDA out of memory\nand more")

    monkeypatch.setattr(sampler, "_sample", broken)
    with pytest.raises(EvaluationError, match="transformers failed: CUDA out of memory"):
        asyncio.run(ask(0))


def test_a_batch_too_large_for_the_memory_is_halved(model: torch.nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def sample(model: object, wanted: list[Wanted], **options: object) -> list[Reply]:
        sizes.append(len(wanted))
        if len(wanted) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return [Reply([each.seed], finish_reason="length") for each in wanted]

    monkeypatch.setattr(transformers_engine, "sample_batch", sample)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    sampler = TransformersSampler(model, temperature=1.0, end_of_turn_id=END, rows=8)
    replies = sampler._sample([Wanted([1], seed, 1) for seed in range(7)])
    assert [reply.token_ids for reply in replies] == [[seed] for seed in range(7)]
    assert sizes == [7, 3, 1, 2, 4, 2, 2]
    assert sampler._rows == 1  # later batches are as small as the smallest that was cut

    def never(model: object, wanted: list[Wanted], **options: object) -> list[Reply]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(transformers_engine, "sample_batch", never)
    with pytest.raises(torch.OutOfMemoryError):
        sampler._sample([Wanted([1], 0, 1)])
