"""Energy, entropy, gauge-free energy: the arithmetic, chunking that changes no value, layouts, errors."""

import math

import pytest
import torch

from actfocus_verl.credit import signals
from actfocus_verl.credit.signals import LOGIT_SIGNALS, energy, entropy, gauge_free_energy


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


# --- entropy


def test_entropy_by_hand():
    # p = 1/2, 1/4, 1/4: 0.5 ln 2 + 2 * 0.25 ln 4 = 1.5 ln 2. Equal logits: ln 3. One certain token: 0.
    logits = torch.tensor([[2.0, 1.0, 1.0], [7.0, 7.0, 7.0], [0.0, -200.0, -300.0]]) * math.log(2.0)
    expected = torch.tensor([1.5 * math.log(2.0), math.log(3.0), 0.0])
    torch.testing.assert_close(entropy(logits), expected)


@pytest.mark.parametrize("signal", [entropy, gauge_free_energy])
def test_a_constant_added_to_the_logits_of_a_position_changes_neither(signal):
    logits = torch.randn(6, 50) * 4
    shifts = torch.tensor([-30.0, -2.5, 0.1, 5.0, 17.0, 300.0]).unsqueeze(1)
    torch.testing.assert_close(signal(logits + shifts), signal(logits), rtol=2e-5, atol=0)
    assert float((energy(logits + shifts) - energy(logits)).abs().min()) > 0.09  # which energy does not survive


def test_minus_infinite_logits_are_tokens_that_cannot_occur():
    logits = torch.tensor([[1.5, 0.5, -0.25]])
    masked = torch.tensor([[1.5, -math.inf, 0.5, -0.25, -math.inf]])
    for signal in LOGIT_SIGNALS.values():
        torch.testing.assert_close(signal(masked), signal(logits))


# --- gauge-free energy


def test_gauge_free_energy_by_hand():
    # logits 3, 0, 0: centred 2, -1, -1; -ln(e^2 + 2 e^-1)
    torch.testing.assert_close(
        gauge_free_energy(torch.tensor([[3.0, 0.0, 0.0]])), torch.tensor([-math.log(math.exp(2) + 2 * math.exp(-1))])
    )
    # equal logits of any size: -ln V, its largest value
    torch.testing.assert_close(gauge_free_energy(torch.full((1, 4), -9.0)), torch.tensor([-math.log(4.0)]))


def test_gauge_free_energy_is_the_mean_log_probability_of_the_vocabulary():
    logits = torch.randn(7, 33) * 3
    probabilities = (logits.double().exp() / logits.double().exp().sum(dim=-1, keepdim=True)).tolist()
    expected = [math.fsum(math.log(p) for p in row) / 33 for row in probabilities]
    torch.testing.assert_close(gauge_free_energy(logits), torch.tensor(expected), rtol=1e-5, atol=0)
    assert bool((gauge_free_energy(logits) <= -math.log(33)).all())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("signal", [entropy, gauge_free_energy])
def test_against_a_loop_in_float64(signal, dtype):
    logits = (torch.randn(4, 5, 33) * 4).to(dtype)
    expected = []
    for row in logits.double().view(20, 33).tolist():
        total = math.fsum(math.exp(f) for f in row)
        p = [math.exp(f) / total for f in row]
        mean = math.fsum(row) / 33
        expected.append(
            -math.fsum(q * math.log(q) for q in p)
            if signal is entropy
            else -math.log(math.fsum(math.exp(f - mean) for f in row))
        )
    found = signal(logits)
    assert found.dtype is torch.float32
    torch.testing.assert_close(found, torch.tensor(expected).view(4, 5), rtol=1e-4, atol=1e-5)


# --- all of them


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_energy_is_the_float32_logsumexp_for_every_dtype(dtype):
    logits = (torch.randn(4, 5, 33) * 8).to(dtype)
    result = energy(logits)
    assert result.dtype is torch.float32
    assert torch.equal(result, -torch.logsumexp(logits.float(), dim=-1))


@pytest.mark.parametrize("chunk_elements", [1, 33, 66, 100, 33 * 20])
@pytest.mark.parametrize("signal", LOGIT_SIGNALS.values())
def test_chunks_change_no_value(monkeypatch, signal, chunk_elements):
    logits = torch.randn(20, 33)
    whole = signal(logits)
    monkeypatch.setattr(signals, "CHUNK_ELEMENTS", chunk_elements)
    assert torch.equal(signal(logits), whole)


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


@pytest.mark.parametrize("signal", LOGIT_SIGNALS.values())
def test_views_that_are_not_contiguous(signal):
    logits = torch.randn(3, 6, 11)
    torch.testing.assert_close(signal(logits[:, :-1]), signal(logits)[:, :-1], rtol=0, atol=0)
    torch.testing.assert_close(signal(logits.transpose(0, 1)), signal(logits).T, rtol=0, atol=0)
    torch.testing.assert_close(signal(logits[:, :, ::2]), signal(logits[:, :, ::2].clone()), rtol=0, atol=1e-6)


@pytest.mark.parametrize("signal", LOGIT_SIGNALS.values())
def test_shapes(signal):
    assert signal(torch.randn(5)).shape == ()
    assert signal(torch.randn(2, 3, 4, 5)).shape == (2, 3, 4)
    assert signal(torch.empty(0, 3, 5)).shape == (0, 3)
    assert signal(torch.empty(2, 0, 5)[:, :0]).shape == (2, 0)


@pytest.mark.parametrize("signal", LOGIT_SIGNALS.values())
def test_a_signal_is_a_constant_and_leaves_the_logits_alone(signal):
    logits = torch.randn(2, 5, requires_grad=True)
    before = logits.detach().clone()
    assert not signal(logits).requires_grad
    assert torch.equal(logits, before)


@pytest.mark.parametrize("signal", LOGIT_SIGNALS.values())
@pytest.mark.parametrize("logits", [torch.ones(2, 3, dtype=torch.int64), torch.tensor(1.0), torch.ones(2, 0)])
def test_unusable_logits(signal, logits):
    with pytest.raises(ValueError, match=r"needs floating-point logits of shape .* got torch\.\w+ of shape"):
        signal(logits)
