"""A network that has not learned anything yet repeats what it has read."""

from __future__ import annotations

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from actfocus_verl.policies.induction import start_with_induction

TOKENS = 400


def network(layers: int = 3, rope_theta: float = 1e8, hidden_size: int = 160) -> Qwen2ForCausalLM:
    """As `policies.training.new_model` makes it."""
    torch.manual_seed(0)
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=TOKENS,
            hidden_size=hidden_size,
            intermediate_size=448,
            num_hidden_layers=layers,
            num_attention_heads=hidden_size // 32,
            num_key_value_heads=hidden_size // 32,
            rope_parameters={"rope_type": "default", "rope_theta": rope_theta},
            initializer_range=0.08,
            tie_word_embeddings=True,
        )
    ).eval()


@torch.no_grad()
def share_found(model: Qwen2ForCausalLM, distance: int) -> float:
    """How often the token that followed last time is among the ten likeliest, where a passage of 30 comes again."""
    passages = torch.stack([torch.randperm(TOKENS)[:distance] for _ in range(16)])  # (16, distance): no token twice
    ids = torch.cat([passages, passages[:, :30]], dim=1)
    likeliest = model(input_ids=ids).logits[:, distance:-1].topk(10).indices  # (16, 29, 10)
    return float((likeliest == ids[:, distance + 1 :, None]).any(-1).float().mean())


@pytest.mark.parametrize(("distance", "least"), [(40, 0.3), (300, 0.12)])
def test_it_repeats_what_came_next_before_it_has_learned_anything(distance: int, least: float) -> None:
    model = network()
    assert share_found(model, distance) < 0.05  # ten of 400 by chance: 0.025
    start_with_induction(model)
    assert share_found(model, distance) > least


def test_the_first_head_looks_at_the_token_before() -> None:
    model = network()
    model.set_attn_implementation("eager")
    start_with_induction(model)
    ids = torch.randint(TOKENS, (1, 200))
    attention = model(input_ids=ids, output_attentions=True).attentions[0][0, 0]  # (200, 200), of layer 0, head 0
    before = attention.diagonal(offset=-1)  # of positions 1 to 199
    assert float(before.min()) > 0.8


@pytest.mark.parametrize("change", [{"layers": 1}, {"rope_theta": 10.0}, {"hidden_size": 64}], ids=str)
def test_a_network_without_room_is_refused(change: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="no room for an induction head"):
        start_with_induction(network(**change))
