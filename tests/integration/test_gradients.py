"""The actor's gradient on verl's real engine depends on neither micro-batches nor the number of processes."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import multiprocessing
from verl.workers.utils.losses import ppo_loss

from actfocus_verl.integration.engine import CALCULATE
from actfocus_verl.integration.loss import token_weighted_ppo_loss
from tests.helpers.engines import gradients, infer, make_rows, rank_gradients, to_batch, weighted_loss
from tests.helpers.losses import actor_config

ROWS = 4
Gradients = dict[str, torch.Tensor]


def update(engine: Any, **settings: Any) -> Gradients:
    return gradients(engine, to_batch(make_rows(ROWS), calculate_entropy=True, **settings), weighted_loss())


def assert_same(found: Gradients, expected: Gradients) -> None:
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def in_one_piece(engine: Any) -> Gradients:
    found = update(engine)
    assert max(float(gradient.abs().max()) for gradient in found.values()) > 0.05  # 1e-5 is small beside it
    return found


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize("pieces", [1, 2, 4])
def test_micro_batches_do_not_matter(engine: Any, in_one_piece: Gradients, pieces: int, packed: bool) -> None:
    found = update(engine, micro_batch_size_per_gpu=ROWS // pieces, use_remove_padding=packed)
    assert_same(found, in_one_piece)


@pytest.mark.e2e
def test_two_processes_give_the_gradient_and_energies_of_one(
    engine: Any, in_one_piece: Gradients, model_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "gradients.pt"
    multiprocessing.spawn(rank_gradients, args=(2, tmp_path, model_folder, ROWS, out), nprocs=2)
    assert_same(torch.load(out), in_one_piece)
    energies = torch.cat([torch.load(tmp_path / f"energies{rank}.pt") for rank in range(2)])
    one = infer(engine, to_batch(make_rows(ROWS), **{CALCULATE["energy"]: True}))["energy"].values()
    torch.testing.assert_close(energies, one, rtol=1e-5, atol=1e-5)


def test_weights_of_one_give_the_stock_gradient_to_the_bit(engine: Any) -> None:
    rows = make_rows(ROWS)
    ones = [row | {"token_weights": row["response_mask"].float()} for row in rows]
    stock = gradients(engine, to_batch(rows), partial(ppo_loss, config=actor_config("vanilla")))
    ours = gradients(engine, to_batch(ones), partial(token_weighted_ppo_loss, config=actor_config("token_weighted")))
    for name in stock:
        assert torch.equal(ours[name], stock[name])


def test_weights_matter(engine: Any, in_one_piece: Gradients) -> None:
    rows = [row | {"token_weights": row["token_weights"].flip(0)} for row in make_rows(ROWS)]
    found = gradients(engine, to_batch(rows, calculate_entropy=True), weighted_loss())
    assert max(float((found[name] - in_one_piece[name]).abs().max()) for name in found) > 1e-2
