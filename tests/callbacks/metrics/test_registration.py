"""Registered pixel distances: changes that do not hide a copy, against images of others."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from callbacks.metrics.registration import (
    STARTS,
    aligned,
    coarse,
    coarse_distances,
    fine,
    placed_distance,
    placements,
    sharp,
)


def smooth_noise(n: int, *, seed: int, side: int = 64) -> Tensor:
    low = torch.randn(n, 1, 12, 12, generator=torch.Generator().manual_seed(seed))
    return (F.interpolate(low, size=(side, side), mode="bicubic") * 0.4).clamp(-1, 1)


def registered_distance(images: Tensor, rows: Tensor) -> Tensor:
    return placed_distance(sharp(images), sharp(rows), aligned(fine(images), fine(rows))[1])


def cropped(images: Tensor, *, share: float) -> Tensor:
    side = images.shape[-1]
    kept = round(share * side)
    top = side - kept
    return F.interpolate(images[:, :, top:, :kept], size=(side, side), mode="bilinear", antialias=True)


COPIES = {
    "exact": lambda x: x,
    "shifted": lambda x: torch.roll(x, (2, -1), dims=(2, 3)),
    "cropped": lambda x: cropped(x, share=0.9),
    "cropped between two placements": lambda x: cropped(x, share=0.88),
    "blurred": lambda x: F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False),
    "darker": lambda x: x * 0.7 - 0.2,
    "noisy": lambda x: x + 0.03 * torch.randn(x.shape, generator=torch.Generator().manual_seed(5)),
}


@pytest.mark.parametrize("change", COPIES)
def test_a_changed_copy_is_nearer_than_any_other_image(change: str):
    originals, others = smooth_noise(6, seed=0), smooth_noise(6, seed=1)
    copies = COPIES[change](originals)
    found = coarse_distances(coarse(copies), torch.cat([coarse(others), coarse(originals)]))
    assert found.argmin(1).tolist() == [6, 7, 8, 9, 10, 11]
    own, other = (registered_distance(copies, rows) for rows in (originals, others))
    assert own.max() < 0.08
    assert own.max() < 0.3 * other.min()


def test_equal_images_are_at_0_and_negatives_are_not_near():
    x = smooth_noise(3, seed=2)
    assert registered_distance(x, x).abs().max() < 1e-5
    assert coarse_distances(coarse(x), coarse(x)).diagonal().abs().max() < 1e-5
    assert registered_distance(x, -x).min() > 0.3


def test_a_placement_is_masked_ncc():
    """Against numpy's correlation of the pixels that lie in both, at a placement that moves by whole pixels."""
    x, y = coarse(smooth_noise(1, seed=3)), coarse(smooth_noise(1, seed=4))
    own = 1 - torch.corrcoef(torch.stack([x[0].flatten(), y[0].flatten()]))[0, 1]
    assert float(coarse_distances(x, y)) <= float(own) + 1e-6
    assert [1.0, 0.0, 0.0] in placements().tolist()
    assert len(placements()) == 222
    assert len(placements(STARTS)) == 68


@pytest.mark.parametrize("share", [0.95, 0.9, 0.86])
def test_a_crop_between_the_placements_is_first_in_the_search(share: float):
    """Of 200 images that differ little, as chests do; over `STARTS` alone 12 of 40 crops of 90 % are not first."""
    common = F.interpolate(smooth_noise(1, seed=9)[:, :, ::8, ::8], size=(64, 64), mode="bicubic")
    images = (common + 0.12 * smooth_noise(200, seed=0)).clamp(-1, 1)
    found = coarse_distances(coarse(cropped(images[:40], share=share)), coarse(images))
    assert (found.argmin(1) == torch.arange(40)).float().mean() >= 0.95


def test_the_alignment_finds_the_crop():
    x = smooth_noise(6, seed=0)
    places = aligned(fine(cropped(x, share=58 / 64)), fine(x))[1]
    # The lower left corner: the row's edges lie at a u + x for u = -1 on the left, and at 1 below.
    expected = torch.tensor([64 / 58, 6 / 58, -6 / 58]).expand(6, 3)
    torch.testing.assert_close(places, expected, atol=0.01, rtol=0)


def test_an_image_without_contrast_matches_nothing_and_is_finite():
    flat, x = torch.zeros(1, 1, 64, 64), smooth_noise(2, seed=0)
    assert torch.allclose(registered_distance(flat.expand(2, -1, -1, -1), x), torch.ones(2), atol=1e-3)
    assert coarse_distances(coarse(flat), coarse(x)).isfinite().all()
