"""What every quantiser must stand: one interface, hard inputs, clear refusals."""

import copy

import pytest
import torch
from torch import nn

from lightning_modules.networks.codes import LARGEST
from lightning_modules.networks.fsq import FSQ
from lightning_modules.networks.lfq import LFQ
from lightning_modules.networks.quantizer import VectorQuantizer

CODES, DIM = 64, 6
KINDS = {
    "ema": lambda: VectorQuantizer(CODES, dim=DIM),
    "ema cosine": lambda: VectorQuantizer(CODES, dim=DIM, cosine=True, gradient="straight-through"),
    "fsq": lambda: FSQ((4, 4, 4), dim=DIM),
    "lfq": lambda: LFQ(CODES, dim=DIM),
}


@pytest.fixture(params=KINDS)
def quantizer(request) -> nn.Module:
    torch.manual_seed(0)
    return KINDS[request.param]().train()


def check(quantizer: nn.Module, latent: torch.Tensor) -> None:
    """One training step's forward and backward, and what must hold after it."""
    latent = latent.clone().requires_grad_()
    out = quantizer(latent)
    (out.vectors.square().mean() + out.commitment).backward()
    assert out.vectors.dtype == out.commitment.dtype == torch.float32
    assert out.codes.dtype == torch.int64
    assert out.codes.min() >= 0
    assert out.codes.max() < CODES
    assert torch.isfinite(out.vectors).all()
    assert torch.isfinite(out.commitment)
    assert latent.grad is not None
    assert torch.isfinite(latent.grad).all()
    assert torch.isfinite(quantizer.codebook).all()


def test_codes_vectors_and_lookup_agree(quantizer):
    latent = torch.randn(2, DIM, 4, 4)
    quantizer(latent)
    quantizer.eval()
    out = quantizer(latent)
    assert out.vectors.shape == latent.shape
    assert torch.equal(quantizer.encode(latent), out.codes)
    assert torch.allclose(quantizer.lookup(out.codes), out.vectors, atol=1e-6)
    assert quantizer.codebook.shape == (quantizer.codes, quantizer.dim) == (CODES, DIM)
    assert torch.allclose(quantizer.codebook[out.codes].permute(0, 3, 1, 2), out.vectors, atol=1e-6)


@pytest.mark.parametrize("value", [0.0, 1.0, -3.0])
def test_constant_batches_stay_finite_also_after_others(quantizer, value):
    for _ in range(3):
        check(quantizer, torch.full((4, DIM, 2, 2), value))
    check(quantizer, torch.randn(4, DIM, 2, 2))
    check(quantizer, torch.full((1, DIM, 2, 2), value))


@pytest.mark.parametrize("scale", [1e-20, 1e3, 1e11])
def test_a_last_batch_of_one_image_and_values_of_any_scale_stay_finite(quantizer, scale):
    check(quantizer, torch.randn(4, DIM, 3, 3))
    check(quantizer, torch.randn(1, DIM, 3, 3) * scale)
    check(quantizer, torch.randn(1, DIM, 1, 1) * scale)
    check(quantizer, torch.randn(4, DIM, 3, 3))


def test_bf16_input_counts_like_its_float32_value(quantizer):
    latent = torch.randn(2, DIM, 4, 4).bfloat16()
    quantizer(latent)
    with torch.autocast("cpu", torch.bfloat16):
        check(quantizer, latent)
        out = quantizer.eval()(latent)
        found = quantizer.lookup(out.codes)
    assert torch.equal(out.codes, quantizer(latent.float()).codes)
    assert torch.equal(out.vectors, quantizer(latent.float()).vectors)
    assert found.dtype == torch.float32


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e3 * LARGEST])
@pytest.mark.parametrize("started", [False, True])
def test_what_cannot_be_quantised_is_refused_and_leaves_the_codebook_alone(quantizer, bad, started):
    if started:
        quantizer(torch.randn(4, DIM, 2, 2))
    before = copy.deepcopy(quantizer.state_dict())
    latent = torch.randn(2, DIM, 2, 2)
    latent[0, :, 1, 1] = bad
    if getattr(quantizer, "cosine", False) and bad == 1e3 * LARGEST:
        return  # only its direction counts
    count = 0 if bad == 1e3 * LARGEST else DIM
    for training in (True, False):
        for call in (quantizer.train(training), quantizer.encode):
            with pytest.raises(FloatingPointError, match=rf"{count} of 48 values are NaN or infinite.*learning rate"):
                call(latent)
    assert all(torch.equal(value, before[name]) for name, value in quantizer.state_dict().items())


def test_codes_outside_the_codebook_are_refused_with_both_numbers(quantizer):
    with pytest.raises(ValueError, match=r"0\.\.63, got -1\.\.64"):
        quantizer.lookup(torch.tensor([[[-1, 64]]]))
