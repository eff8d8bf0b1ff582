"""Contrast and noise inside masks against rings, on images whose figures can be worked out by hand."""

import math

import pytest
import torch
from torch import Tensor

from callbacks.metrics.contrast import (
    MIN_PIXELS,
    NOISE_FLOOR,
    ContrastBank,
    contrast_and_noise,
    kept,
    surroundings,
)


def square(side: int, *, start: int, stop: int) -> Tensor:
    mask = torch.zeros(side, side, dtype=torch.bool)
    mask[start:stop, start:stop] = True
    return mask


def checkered(side: int, *, amplitude: float) -> Tensor:
    """± amplitude by turns: mean 0 and standard deviation `amplitude` wherever both occur equally often."""
    at = torch.arange(side)
    return amplitude * (1 - 2 * ((at[:, None] + at[None]) % 2)).double()


def test_the_ring_stands_off_the_mask_and_leaves_other_findings_out():
    masks = torch.zeros(1, 2, 16, 16, dtype=torch.bool)
    masks[0, 0] = square(16, start=6, stop=10)
    masks[0, 1, 6:10, 12:16] = True
    found = surroundings(masks, gap=1, width=2)
    assert found.image.tolist() == [0, 0]
    assert found.finding.tolist() == [0, 1]
    assert torch.equal(found.inside[0], masks[0, 0])
    expected = square(16, start=3, stop=13) & ~square(16, start=5, stop=11) & ~masks[0, 1]
    assert torch.equal(found.ring[0], expected)
    assert int(found.ring[0].sum()) == 100 - 36 - 4
    # The second finding ends at the border: its ring lies on three sides of it.
    ring = torch.zeros(16, 16, dtype=torch.bool)
    ring[3:13, 9:] = True
    ring[5:11, 11:] = False
    assert torch.equal(found.ring[1], ring & ~masks[0, 0])


def test_masks_of_few_pixels_are_left_out_and_named():
    masks = torch.zeros(2, 3, 16, 16, dtype=torch.bool)
    masks[1, 2, 4, :7] = True  # 7 pixels
    masks[0, 1] = True  # nothing around it
    masks[1, 0] = square(16, start=4, stop=8)
    found = surroundings(masks, gap=1, width=2)
    assert MIN_PIXELS == 8
    assert list(zip(found.image.tolist(), found.finding.tolist(), strict=True)) == [(1, 0)]
    assert found.left_out.tolist() == [[0, 1], [1, 2]]


def test_contrast_and_noise_of_a_square_on_a_checkered_ground():
    inside = square(16, start=6, stop=10)
    ring = square(16, start=3, stop=13) & ~square(16, start=5, stop=11)
    ground = checkered(16, amplitude=0.1)
    image = torch.where(inside, 0.5, ground)
    contrast, noise = contrast_and_noise(image[None], inside=inside[None], ring=ring[None])
    assert contrast.tolist() == pytest.approx([0.5])
    assert noise.tolist() == pytest.approx([0.1])
    moved = contrast_and_noise(image[None] - 0.3, inside=inside[None], ring=ring[None])
    assert [x.item() for x in moved] == pytest.approx([0.5, 0.1])


def test_what_is_kept_is_weighted_with_what_was_there():
    # CNR 4 → 1 and, dark on bright, 2 → 2: (1 + 2) / (4 + 2). Contrast .4 → .1 and .2 → .1: .2 / .6.
    got = kept(torch.tensor([[0.4, 0.1, 0.1, 0.1], [-0.2, 0.1, -0.1, 0.05]]))
    assert got.n == 2
    assert got.cnr_real == pytest.approx(3.0)
    assert got.cnr == pytest.approx(1.5)
    assert got.cnr_kept == pytest.approx(0.5)
    assert got.contrast_kept == pytest.approx(1 / 3)
    inverted = kept(torch.tensor([[0.4, 0.1, -0.4, 0.1]]))
    assert inverted.cnr_kept == inverted.contrast_kept == pytest.approx(-1.0)
    # Smoothing halves the noise and keeps the contrast: the ratio of CNR alone would call that an improvement.
    smooth = kept(torch.tensor([[0.4, 0.1, 0.4, 0.05]]))
    assert smooth.cnr_kept == pytest.approx(2.0)
    assert smooth.contrast_kept == pytest.approx(1.0)


def test_no_noise_and_no_case_are_no_infinities():
    got = kept(torch.tensor([[0.4, 0.1, 0.4, 0.0]]))
    assert got.cnr == pytest.approx(0.4 / NOISE_FLOOR)
    none = kept(torch.empty(0, 4))
    assert none.n == 0
    assert all(math.isnan(x) for x in none[1:])
    assert math.isnan(kept(torch.tensor([[0.0, 0.1, 0.2, 0.1]])).cnr_kept)


def test_a_bank_measures_each_finding_of_each_image_once():
    masks = torch.zeros(3, 2, 16, 16, dtype=torch.bool)
    masks[:2, 0] = square(16, start=6, stop=10)
    masks[2, 1, 0, :3] = True  # too small
    ground = checkered(16, amplitude=0.1).float()
    real = torch.stack([torch.where(masks[i, 0], 0.5, ground) for i in range(3)])[:, None]
    other = torch.stack([torch.where(masks[i, 0], 0.25, ground) for i in range(3)])[:, None]
    bank = ContrastBank(2, gap=1 / 16, width=2 / 16)
    bank.add(real[:2], other[:2], masks[:2], ids=["a", "b"])
    bank.add(real[1:], other[1:], masks[1:], ids=["b", "c"])  # "b" twice, as a padding sampler gives it
    found, small, images = bank.result()
    assert images == 3
    assert small == [0, 1]
    assert found[0].n == 2
    assert found[0].cnr_real == pytest.approx(5.0, rel=1e-5)
    assert found[0].cnr_kept == found[0].contrast_kept == pytest.approx(0.5, rel=1e-5)
    assert found[1].n == 0


def test_other_masks_are_refused():
    bank = ContrastBank(2, gap=0.1, width=0.1)
    image = torch.zeros(1, 1, 8, 8)
    with pytest.raises(ValueError, match=r"torch\.bool of the shape \[1, 2, 4, 4\], expected torch\.bool \[1, 2, 8, 8"):
        bank.add(image, image, torch.zeros(1, 2, 4, 4, dtype=torch.bool), ids=["a"])
    with pytest.raises(ValueError, match=r"masks are torch\.float32"):
        bank.add(image, image, torch.zeros(1, 2, 8, 8), ids=["a"])
