"""The gradient of the action logits with respect to input embeddings, from verl's real engine, against the slow way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import multiprocessing
from transformers import AutoModelForCausalLM
from verl.workers.utils.padding import response_from_nested

from actfocus_verl.integration.relevance import CALCULATE_RELEVANCE
from tests.helpers.engines import build_engine, infer, make_rows, process_group, to_batch

COUNT = 5
ASK = {CALCULATE_RELEVANCE: True}


def rows_with_roles() -> list[dict[str, torch.Tensor]]:
    """Row 2 has no action; a masked token's role is one, and does not count."""
    generator = torch.Generator().manual_seed(4)
    rows = make_rows(COUNT)
    for number, row in enumerate(rows):
        roles = torch.randint(1, 4, row["responses"].shape, generator=generator)
        roles[-1] = 2
        row["token_roles"] = torch.ones_like(roles) if number == 2 else roles
    return rows


@pytest.fixture(scope="module")
def expected(model_folder: Path) -> list[torch.Tensor]:
    """Each sequence alone through the Hugging Face model: one logit after the other."""
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float64).eval()
    found = []
    for row in rows_with_roles():
        ids, prompt = row["input_ids"], len(row["prompts"])
        embeddings = model.get_input_embeddings()(ids).detach().requires_grad_()
        logits = model(inputs_embeds=embeddings.unsqueeze(0)).logits[0]
        score = embeddings.sum() * 0
        for token, (role, sampled) in enumerate(zip(row["token_roles"], row["response_mask"], strict=True)):
            if role == 2 and sampled:
                at = logits[prompt + token - 1]
                score = score + at[ids[prompt + token]] - at.sum() / len(at)
        (gradient,) = torch.autograd.grad(score, embeddings)
        found.append(gradient[prompt:].square().sum(dim=-1).sqrt().float())
    return found


def relevance(engine: Any, rows: list[dict[str, torch.Tensor]], **settings: Any) -> list[torch.Tensor]:
    batch = to_batch(rows, **ASK, **settings)
    outputs = infer(engine, batch)
    assert set(outputs) == {"relevance"}
    return list(response_from_nested(outputs["relevance"], batch["response_mask"]).unbind())


def assert_same(found: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    for mine, slow in zip(found, expected, strict=True):
        assert mine.dtype == torch.float32
        torch.testing.assert_close(mine, slow, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize(
    "micro_batches",
    [{"micro_batch_size_per_gpu": 5}, {"use_dynamic_bsz": True, "max_token_len_per_gpu": 30}],
    ids=["one", "dynamic"],
)
def test_it_is_that_of_each_row_alone(
    engine: Any, expected: list[torch.Tensor], packed: bool, micro_batches: dict[str, Any]
) -> None:
    found = relevance(engine, rows_with_roles(), use_remove_padding=packed, temperature=0.7, **micro_batches)
    assert_same(found, expected)
    assert not found[2].any()
    assert max(float(row.max()) for row in found) > 0.1  # 1e-5 is small beside it


def test_it_leaves_parameters_mode_and_log_probs_as_they_were(engine: Any) -> None:
    before = infer(engine, to_batch(rows_with_roles()))["log_probs"].values()
    engine.optimizer_zero_grad()
    relevance(engine, rows_with_roles())
    assert all(weight.grad is None for weight in engine.module.parameters())
    assert not any(module.training for module in engine.module.modules())
    assert torch.equal(infer(engine, to_batch(rows_with_roles()))["log_probs"].values(), before)


def test_a_padding_rows_longer_roles_do_not_matter(engine: Any, expected: list[torch.Tensor]) -> None:
    rows = rows_with_roles()
    rows[1]["token_roles"] = torch.cat([rows[1]["token_roles"], torch.tensor([2, 2, 2])])
    assert_same(relevance(engine, rows, use_remove_padding=True), expected)


def test_an_adapter_and_checkpointed_activations_change_nothing(
    group: None, model_folder: Path, expected: list[torch.Tensor]
) -> None:
    engine = build_engine(model_folder, lora_rank=4)  # its B is 0 at first
    engine.module.gradient_checkpointing_enable({"use_reentrant": False})
    assert_same(relevance(engine, rows_with_roles(), use_remove_padding=True), expected)


def test_fused_kernels_are_refused_with_the_remedy(engine: Any) -> None:
    with pytest.raises(ValueError, match=r"use_fused_kernels=True: .* that the relevance needs\. Set it to False"):
        infer(engine, to_batch(rows_with_roles(), use_fused_kernels=True, **ASK))


def rank_relevance(rank: int, store: Path, model: Path, out: Path) -> None:
    """One of two ranks with sharded parameters; they have two and three rows, of which one has no action."""
    torch.set_num_threads(1)
    with process_group(store, rank=rank, world_size=2):
        engine = build_engine(model)
        mine = rows_with_roles()[2 * rank : 2 + 3 * rank]
        found = relevance(engine, mine, use_remove_padding=True, use_dynamic_bsz=True, max_token_len_per_gpu=64)
        torch.save(found, out / f"{rank}.pt")


@pytest.mark.e2e
def test_two_processes_give_that_of_one(expected: list[torch.Tensor], model_folder: Path, tmp_path: Path) -> None:
    multiprocessing.spawn(rank_relevance, args=(tmp_path, model_folder, tmp_path), nprocs=2)
    assert_same([*torch.load(tmp_path / "0.pt"), *torch.load(tmp_path / "1.pt")], expected)
