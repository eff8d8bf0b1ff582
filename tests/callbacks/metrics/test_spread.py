"""ReconstructionSpread against its definitions, on flat, equal, shifted and perfect reconstructions."""

import math

import pytest
import torch

from callbacks.metrics.spread import ReconstructionSpread


def spread(reconstruction, image, *, batches: int = 2):
    metric = ReconstructionSpread()
    for part in zip(reconstruction.chunk(batches), image.chunk(batches), strict=True):
        metric.update(*part)
    return metric.compute()


def images(n: int = 6, size: int = 16) -> torch.Tensor:
    return torch.rand(n, 1, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_a_perfect_reconstruction_has_all_ratios_at_one():
    found = spread(images(), images())
    assert found.images == 6
    assert found.real == pytest.approx(float(images().flatten(1).std(1, correction=0).mean()), rel=1e-6)
    assert (found.contrast, found.variety, found.explained) == pytest.approx((1.0, 1.0, 1.0))


def test_flat_equal_and_wrong_reconstructions_are_told_apart():
    real = images()
    flat = spread(torch.linspace(-1, 1, 6).reshape(6, 1, 1, 1).expand(6, 1, 16, 16), real)
    assert flat.contrast < 1e-6
    assert flat.variety > 0.5
    mean = spread(real.mean(0, keepdim=True).expand_as(real), real)
    assert mean.contrast > 0.1
    assert mean.variety < 1e-6
    assert mean.explained == pytest.approx(0.0, abs=1e-6)
    half = spread((real + real.mean(0)) / 2, real)
    # Half way from the mean image leaves a quarter of the variance.
    assert half.explained == pytest.approx(0.75, rel=1e-5)
    assert half.variety == pytest.approx(0.5, rel=1e-5)
    assert spread(-real, real).explained < 0


def test_without_spread_in_the_real_images_ratios_are_undefined():
    black = torch.full((4, 1, 32, 32), -1.0)
    found = spread(images(4, 32), black)
    assert found.real == pytest.approx(0.0, abs=1e-6)
    assert all(math.isnan(value) for value in found[2:])
    assert math.isnan(spread(images(1), images(1), batches=1).explained)
    empty = ReconstructionSpread()
    empty.update(torch.zeros(0, 1, 2, 2), torch.zeros(0, 1, 2, 2))
    assert empty.compute().images == 0
