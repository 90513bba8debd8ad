"""The attention of packed rows against transformers' eager attention on each sequence alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from actfocus_verl.platforms.packed_attention import PACKED_SDPA, register, sequence_lengths

LENGTHS = (5, 1, 9, 3)
register()


@pytest.fixture(scope="module")
def sequences() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(50, (length,), generator=generator) for length in LENGTHS]


def model(attention: str, **changes: Any) -> Qwen2ForCausalLM:
    settings: dict[str, Any] = {
        "vocab_size": 50,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "initializer_range": 0.3,
        "attn_implementation": attention,
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Qwen2ForCausalLM(Qwen2Config(**(settings | changes)))


def pack(sequences: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    positions = torch.cat([torch.arange(len(sequence)) for sequence in sequences])
    return {"input_ids": torch.cat(sequences)[None], "position_ids": positions[None]}


@pytest.mark.parametrize(
    ("positions", "lengths"),
    [([0, 1, 2], [3]), ([0, 0, 1, 0], [1, 2, 1]), ([4, 5, 0, 1], [2, 2])],
)
def test_a_sequence_begins_at_position_zero(positions: list[int], lengths: list[int]) -> None:
    assert sequence_lengths(torch.tensor(positions)) == lengths


def test_a_packed_row_is_its_sequences_alone(sequences: list[torch.Tensor]) -> None:
    eager, packed = model("eager"), model(PACKED_SDPA)
    alone = torch.cat([eager(input_ids=sequence[None]).logits[0] for sequence in sequences])
    together = packed(**pack(sequences)).logits[0]
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)

    weights = torch.randn(alone.shape, generator=torch.Generator().manual_seed(1))
    (alone * weights).sum().backward()
    (together * weights).sum().backward()
    for ours, theirs in zip(packed.parameters(), eager.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-4)


def test_a_padded_batch_is_masked_as_by_sdpa(sequences: list[torch.Tensor]) -> None:
    padded = torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones(length) for length in LENGTHS], batch_first=True)
    inputs = {"input_ids": padded, "attention_mask": mask}
    ours, theirs = model(PACKED_SDPA)(**inputs).logits, model("sdpa")(**inputs).logits
    torch.testing.assert_close(ours[mask.bool()], theirs[mask.bool()], rtol=0, atol=0)


def test_a_sliding_window_is_refused(sequences: list[torch.Tensor]) -> None:
    windowed = model(PACKED_SDPA, use_sliding_window=True, sliding_window=4, max_window_layers=0)
    with pytest.raises(ValueError, match="attn_implementation=sdpa"):
        windowed(**pack(sequences))
