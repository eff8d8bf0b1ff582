"""Hinge, adaptive weight, perceptual and clinical distances against hand-computed values."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from lightning_modules.networks import losses
from lightning_modules.networks.discriminator import PatchDiscriminator


def test_hinge_losses_of_known_logits():
    real, fake = torch.tensor([2.0, 0.5]), torch.tensor([-3.0, 1.0])
    assert losses.hinge_discriminator(real, fake).item() == pytest.approx(0.5 * ((0 + 0.5) / 2 + (0 + 2.0) / 2))
    assert losses.hinge_generator(fake).item() == pytest.approx(1.0)


def test_adaptive_weight_is_the_ratio_of_gradients_at_the_last_layer():
    layer = nn.Conv2d(3, 1, 3, padding=1)
    x = torch.randn(2, 3, 8, 8)
    out = layer(x)
    # Far below the bound.
    fidelity, adversarial = (out - 1).abs().mean(), -100 * (out**2).mean()
    norms = [torch.autograd.grad(loss, layer.weight, retain_graph=True)[0].norm() for loss in (fidelity, adversarial)]
    at_output = [torch.autograd.grad(loss, out, retain_graph=True)[0] for loss in (fidelity, adversarial)]
    weight = losses.adaptive_weight(out, layer.weight, fidelity=at_output[0], adversarial=at_output[1])
    assert weight.item() == pytest.approx((norms[0] / norms[1]).item(), rel=1e-4)
    assert not weight.requires_grad


def test_adaptive_weight_is_bounded_where_the_discriminator_says_nothing():
    layer = nn.Conv2d(1, 1, 1)
    out = layer(torch.ones(1, 1, 2, 2))
    weight = losses.adaptive_weight(out, layer.weight, fidelity=torch.ones_like(out), adversarial=torch.zeros_like(out))
    assert weight.item() == losses.ADAPTIVE_LIMIT


def test_perceptual_distance_is_zero_for_equal_maps_and_known_for_orthogonal_ones():
    maps = [torch.randn(2, 4, 8, 8), torch.randn(2, 8, 4, 4)]
    assert losses.perceptual_distance(maps, maps).item() == pytest.approx(0.0, abs=1e-6)
    # Scale does not count, and orthogonal unit vectors are √2 apart.
    a, b = torch.zeros(1, 2, 3, 3), torch.zeros(1, 2, 3, 3)
    a[:, 0], b[:, 1] = 5.0, 0.5
    assert losses.perceptual_distance([a], [b]).item() == pytest.approx(2.0)
    assert losses.perceptual_distance([a], [-b.flip(1)]).item() == pytest.approx(4.0)
    assert losses.perceptual_distance([a, a], [b, a]).item() == pytest.approx(1.0)


@pytest.mark.parametrize("weight", [None, torch.tensor([0.5, 0.0, 2.0, 1.0])])
def test_perceptual_distance_and_its_gradient_are_those_of_unit_vectors(weight):
    """Of the formula as the paper writes it; a position without any feature is at distance 0 from another such one."""
    torch.manual_seed(0)
    a, b = torch.randn(2, 4, 8, 8, dtype=torch.float32), torch.randn(2, 4, 8, 8)
    a[0, :, 0, 0] = b[0, :, 0, 0] = 0.0
    a[0, :, 1, 1] = 0.0
    weights = None if weight is None else [weight]
    a.requires_grad_()
    ours = losses.perceptual_distance([a], [b], weights=weights)
    (gradient,) = torch.autograd.grad(ours, a)
    unit_a, unit_b = (functional.normalize(x, dim=1, eps=1e-4) for x in (a, b))
    squared = (unit_a - unit_b).square() * (1 if weight is None else weight[:, None, None])
    expected = squared.sum(dim=1).mean()
    torch.testing.assert_close(ours, expected)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, a)[0], rtol=1e-4, atol=1e-6)


def test_perceptual_distance_with_weights_is_the_weighted_sum_over_maps():
    a, b = torch.zeros(1, 2, 3, 3), torch.zeros(1, 2, 3, 3)
    a[:, 0], b[:, 1] = 5.0, 0.5  # unit vectors (1, 0) and (0, 1): each channel differs by 1
    weights = [torch.tensor([0.5, 3.0]), torch.tensor([1.0, 0.0])]
    assert losses.perceptual_distance([a, a], [b, b], weights=weights).item() == pytest.approx(0.5 + 3.0 + 1.0)


@pytest.mark.parametrize(
    ("difference", "expected"),
    [
        # The spectrum is 1/2 everywhere, so each of the four frequencies weighs 1.
        ([[1.0, 0.0], [0.0, 0.0]], 0.25),
        # All in the mean: 2 there, 0 elsewhere.
        ([[1.0, 1.0], [1.0, 1.0]], 4 / 4),
        # (2, 1, 1, 0): weights (1, 1/2, 1/2, 0) on squares (4, 1, 1, 0).
        ([[2.0, 1.0], [1.0, 0.0]], (4 + 0.5 + 0.5) / 4),
        ([[0.0, 0.0], [0.0, 0.0]], 0.0),
    ],
)
def test_frequency_distance_of_known_spectra(difference, expected):
    image = torch.rand(1, 1, 2, 2)
    reconstruction = (image + torch.tensor(difference)).requires_grad_()
    distance = losses.frequency_distance(reconstruction, image)
    assert distance.item() == pytest.approx(expected, rel=1e-5)
    distance.backward()
    assert torch.isfinite(reconstruction.grad).all()


def test_frequency_distance_weighs_each_image_by_itself_and_its_weights_are_constants():
    image, reconstruction = torch.rand(2, 1, 8, 8), torch.rand(2, 1, 8, 8, requires_grad=True)
    both = losses.frequency_distance(reconstruction, image)
    each = [losses.frequency_distance(reconstruction[i : i + 1], image[i : i + 1]) for i in range(2)]
    assert both.item() == pytest.approx((each[0].item() + each[1].item()) / 2, rel=1e-5)
    both.backward()
    # By the definition: the mean of w |F|² with w held constant, differentiated by finite differences.
    spectrum = torch.fft.fft2((reconstruction - image).detach().double(), norm="ortho").abs()
    weight = spectrum / spectrum.amax((-2, -1), keepdim=True)
    step = torch.zeros(2, 1, 8, 8, dtype=torch.float64)
    step[1, 0, 3, 5] = 1e-6
    moved = torch.fft.fft2((reconstruction - image).detach().double() + step, norm="ortho").abs()
    slope = ((weight * moved**2).mean() - (weight * spectrum**2).mean()) / 1e-6
    assert reconstruction.grad[1, 0, 3, 5].item() == pytest.approx(slope.item(), rel=1e-3)


def test_perceptual_gradient_is_finite_where_features_vanish():
    maps = torch.zeros(1, 4, 3, 3, requires_grad=True)
    losses.perceptual_distance([maps], [torch.randn(1, 4, 3, 3)]).backward()
    assert torch.isfinite(maps.grad).all()


def test_clinical_distance_of_known_features():
    assert losses.clinical_distance(torch.tensor([[1.0, 3.0]]), torch.tensor([[0.0, 1.0]])).item() == 2.5


def test_the_discriminator_judges_an_image_the_same_alone_or_in_a_batch():
    torch.manual_seed(0)
    discriminator = PatchDiscriminator(8)
    images = torch.randn(3, 1, 32, 32)
    logits = discriminator(images)
    assert logits.shape == (3, 1, 3, 3)
    assert torch.allclose(logits[1:2], discriminator(images[1:2]), atol=1e-6)


def test_a_logit_of_the_discriminator_sees_46_pixels():
    discriminator = PatchDiscriminator(8)
    # GroupNorm sees the whole image: take it out to find the convolutions' field.
    discriminator.layers = nn.Sequential(*(m for m in discriminator.layers if not isinstance(m, nn.GroupNorm)))
    image = torch.randn(1, 1, 128, 128, requires_grad=True)
    discriminator(image)[0, 0, 7, 7].backward()
    seen = image.grad[0, 0].abs().sum(0).nonzero().squeeze()
    assert int(seen.max() - seen.min()) + 1 == 46
    assert math.isfinite(float(image.grad.sum()))
