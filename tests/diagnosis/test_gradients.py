"""Gradient norms of single tokens: finite differences over all parameters, and a backward pass of the loss itself."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import Qwen2ForCausalLM

from actfocus_verl.credit.tokens import RESPONSE_ROLES
from actfocus_verl.diagnosis.gradients import draw_tokens, gradient_norms, require_vocabulary, score_norms
from actfocus_verl.diagnosis.samples import read_samples
from actfocus_verl.diagnosis.tokens import AS_TRAINED, flat_tokens
from actfocus_verl.errors import ConfigurationError
from actfocus_verl.evaluation.models import load_policy
from actfocus_verl.reporting.run_folder import RunFolder
from tests.diagnosis.conftest import TEMPERATURE, VOCABULARY, records, tiny_model

PROMPT, RESPONSE = [3, 1, 4], [1, 5, 9, 2, 6, 5]


def log_prob(
    model: torch.nn.Module, prompt: list[int], response: list[int], position: int, temperature: float
) -> float:
    """log pi(y_t | prompt, y_<t), from a pass over the whole episode."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt + response])).logits[0].double()
    row = logits[len(prompt) + position - 1] / temperature
    return float(row[response[position]] - row.exp().sum().log())


@pytest.mark.parametrize("tied", [True, False])
def test_against_finite_differences(tied: bool) -> None:
    model = tiny_model(tied=tied).double()
    position, temperature, step = 3, 0.7, 1e-3  # small enough for 1e-4, large beside the float32 of the norm layers
    squares = []
    for parameter in model.parameters():
        for index in range(parameter.numel()):
            values = []
            for sign in (1, -1):
                parameter.data.view(-1)[index] += sign * step
                values.append(log_prob(model, PROMPT, RESPONSE, position, temperature))
                parameter.data.view(-1)[index] -= sign * step
            squares.append(((values[0] - values[1]) / (2 * step)) ** 2)
    assert len(squares) == (192 if tied else 244)
    norms, _ = score_norms(model, PROMPT, RESPONSE, [position], temperature)
    assert norms.tolist() == pytest.approx([math.sqrt(math.fsum(squares))], rel=1e-3)


def test_the_order_of_positions_and_their_company_do_not_matter() -> None:
    model = tiny_model(1)
    together, log_probs = score_norms(model, PROMPT, RESPONSE, [5, 0, 2])
    alone = [score_norms(model, PROMPT, RESPONSE, [position])[0][0] for position in (5, 0, 2)]
    assert together.tolist() == pytest.approx(alone, rel=1e-5)
    assert log_probs.tolist() == pytest.approx(
        [log_prob(model, PROMPT, RESPONSE, position, 1.0) for position in (5, 0, 2)], abs=1e-5
    )


def test_parameters_that_are_frozen_do_not_count() -> None:
    model = tiny_model(1, tied=False)
    whole, _ = score_norms(model, PROMPT, RESPONSE, [4])
    model.lm_head.weight.requires_grad_(False)
    assert 0 < score_norms(model, PROMPT, RESPONSE, [4])[0][0] < whole[0]


def slow_norm(model: torch.nn.Module, step: int, row: int, position: int, name: str) -> float:
    """The norm of the gradient of -w A rho, rho = pi / pi_old at pi_old = pi, by a backward pass of its own."""
    episode = records(step)[row]
    model.zero_grad()
    ids = torch.tensor([episode["prompt_ids"] + episode["responses"]])
    logits = model(input_ids=ids).logits[0, len(episode["prompt_ids"]) + position - 1] / TEMPERATURE
    value = logits.log_softmax(dim=-1)[episode["responses"][position]]
    weight = episode["token_weights"][position] if name == AS_TRAINED else 1.0
    (-weight * episode["advantages"][position] * torch.exp(value - value.detach())).backward()
    return math.sqrt(sum(float(parameter.grad.square().sum()) for parameter in model.parameters()))


def test_means_and_shares_against_a_backward_pass_a_token(run: Path, merged: Path) -> None:
    samples = read_samples(RunFolder.open(run))
    tokens = flat_tokens(samples)
    drawn = draw_tokens(tokens.role, 8, seed=1)
    model = load_policy(str(merged), "cpu")
    done: list[None] = []
    found = gradient_norms(model, samples, tokens, drawn, TEMPERATURE, lambda: done.append(None))

    assert len(done) == len(drawn) == 24
    reference = Qwen2ForCausalLM.from_pretrained(merged, dtype=torch.float32).eval()  # rounded to bfloat16
    places = [((2, 4)[tokens.sample[i]], int(tokens.row[i]), int(tokens.position[i])) for i in drawn]
    for name in (AS_TRAINED, "uniform"):
        sums, means = {}, {}
        for role in RESPONSE_ROLES:
            chosen = [place for place, i in zip(places, drawn, strict=True) if tokens.role[i] == role]
            norms = [slow_norm(reference, *place, name) for place in chosen]
            key = role.name.lower()
            means[key] = math.fsum(norms) / len(norms)
            sums[key] = means[key] * sum(
                episode["token_roles"].count(role) for step in (2, 4) for episode in records(step)
            )
        assert {key: value["mean"] for key, value in found["mean"][name].items()} == pytest.approx(means, rel=1e-4)
        shares = {key: value / math.fsum(sums.values()) for key, value in sums.items()}
        assert {key: value["share"] for key, value in found["share"][name].items()} == pytest.approx(shares, rel=1e-4)
    gaps = [
        abs(log_prob(reference, episode["prompt_ids"], episode["responses"], position, TEMPERATURE) - old)
        for step, row, position in places
        for episode in [records(step)[row]]
        for old in [episode["old_log_probs"][position]]
    ]
    assert found["log_prob_gap"] == pytest.approx(np.mean(gaps), abs=1e-5)
    assert found["tokens"]["action"] == {"drawn": 8, "of": int((tokens.role == 2).sum())}


def test_a_draw_takes_the_same_of_each_role_and_no_token_twice() -> None:
    roles = np.array([1] * 50 + [2] * 3 + [3] * 20)
    drawn = draw_tokens(roles, 10, seed=0)
    assert np.bincount(roles[drawn]).tolist() == [0, 10, 3, 10]
    assert len(set(drawn.tolist())) == 23
    assert draw_tokens(roles, 10, seed=0).tolist() == drawn.tolist()
    assert draw_tokens(roles, 10, seed=1).tolist() != drawn.tolist()


def test_every_token_of_a_role_is_drawn_as_often() -> None:
    roles = np.array([1] * 5 + [2] * 7)
    counts = np.bincount(np.concatenate([draw_tokens(roles, 2, seed) for seed in range(2000)]))
    # 2 of 5: 800 of 2,000, standard deviation 22; 2 of 7: 571, standard deviation 20
    assert counts[:5].tolist() == pytest.approx([800] * 5, abs=110)
    assert counts[5:].tolist() == pytest.approx([2000 * 2 / 7] * 7, abs=100)


def test_a_model_of_another_vocabulary(run: Path) -> None:
    samples = read_samples(RunFolder.open(run))
    require_vocabulary(tiny_model(), "mine", samples)
    samples[1].prompts[0][0] = VOCABULARY
    with pytest.raises(ConfigurationError, match="model='mine': has 13 tokens, but the episodes have token id 13"):
        require_vocabulary(tiny_model(), "mine", samples)


def test_a_model_or_a_device_that_cannot_be_used(tmp_path: Path, merged: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigurationError, match=r"model='.*': cannot be loaded"):
        load_policy(str(tmp_path), "cpu")
    with pytest.raises(ConfigurationError, match=r"device='abacus': torch cannot use it here .* Write device=cpu"):
        load_policy(str(merged), "abacus")
