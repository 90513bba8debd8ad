"""Energy: the arithmetic, memory-conscious chunking that changes no value, layouts, errors."""

import math

import pytest
import torch

from actfocus_verl.credit import signals
from actfocus_verl.credit.signals import energy


def test_energy_by_hand():
    # logits ln 1, ln 2, ln 5: exp sums to 8, so E = -ln 8 = -2.0794415
    # logits 0, 0, 0, 0 would give -ln 4; here 3 zeros: -ln 3 = -1.0986123
    logits = torch.tensor([[[0.0, math.log(2.0), math.log(5.0)], [0.0, 0.0, 0.0]]])
    torch.testing.assert_close(energy(logits), torch.tensor([[-math.log(8.0), -math.log(3.0)]]))


def test_energy_keeps_the_scale_of_the_logits():
    logits = torch.randn(3, 7)
    torch.testing.assert_close(energy(logits + 2.5), energy(logits) - 2.5)


def test_energy_does_not_overflow():
    # exp(1000) is inf in float32; logsumexp of two 1000s is 1000 + ln 2
    torch.testing.assert_close(energy(torch.full((1, 2), 1000.0)), torch.tensor([-1000.0 - math.log(2.0)]))


def test_energy_of_minus_infinite_logits_ignores_them():
    torch.testing.assert_close(energy(torch.tensor([[1.5, -math.inf, -math.inf]])), torch.tensor([-1.5]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_energy_is_the_float32_logsumexp_for_every_dtype(dtype):
    logits = (torch.randn(4, 5, 33) * 8).to(dtype)
    result = energy(logits)
    assert result.dtype is torch.float32
    assert torch.equal(result, -torch.logsumexp(logits.float(), dim=-1))


@pytest.mark.parametrize("chunk_elements", [1, 33, 66, 100, 33 * 20])
def test_chunks_change_no_value(monkeypatch, chunk_elements):
    logits = torch.randn(20, 33)
    whole = energy(logits)
    monkeypatch.setattr(signals, "CHUNK_ELEMENTS", chunk_elements)
    assert torch.equal(energy(logits), whole)


def test_no_step_sees_more_than_one_chunk(monkeypatch):
    """The promise on memory: neither the float32 copy nor logsumexp's temporary outgrows the chunk."""
    sizes = []
    logsumexp = torch.logsumexp

    def recording(tensor, dim):
        sizes.append(tensor.numel())
        return logsumexp(tensor, dim=dim)

    monkeypatch.setattr(signals, "CHUNK_ELEMENTS", 100)
    monkeypatch.setattr(torch, "logsumexp", recording)
    energy(torch.randn(4, 9, 16, dtype=torch.bfloat16)[:, :-1])
    assert sum(sizes) == 4 * 8 * 16
    assert max(sizes) <= 100


def test_views_that_are_not_contiguous():
    logits = torch.randn(3, 6, 11)
    torch.testing.assert_close(energy(logits[:, :-1]), energy(logits)[:, :-1], rtol=0, atol=0)
    torch.testing.assert_close(energy(logits.transpose(0, 1)), energy(logits).T, rtol=0, atol=0)
    torch.testing.assert_close(energy(logits[:, :, ::2]), energy(logits[:, :, ::2].clone()), rtol=0, atol=1e-6)


def test_shapes():
    assert energy(torch.randn(5)).shape == ()
    assert energy(torch.randn(2, 3, 4, 5)).shape == (2, 3, 4)
    assert energy(torch.empty(0, 3, 5)).shape == (0, 3)
    assert energy(torch.empty(2, 0, 5)[:, :0]).shape == (2, 0)


def test_energy_is_a_constant_and_leaves_the_logits_alone():
    logits = torch.randn(2, 5, requires_grad=True)
    before = logits.detach().clone()
    assert not energy(logits).requires_grad
    assert torch.equal(logits, before)


@pytest.mark.parametrize("logits", [torch.ones(2, 3, dtype=torch.int64), torch.tensor(1.0), torch.ones(2, 0)])
def test_unusable_logits(logits):
    with pytest.raises(ValueError, match=r"needs floating-point logits of shape .* got torch\.\w+ of shape"):
        energy(logits)
