"""MS-SSIM at every size, against torchmetrics and against one scale worked out by hand."""

import pytest
import torch
from torchmetrics.functional.image import (
    multiscale_structural_similarity_index_measure,
    structural_similarity_index_measure,
)

from callbacks.metrics.similarity import BETAS, betas_for, ms_ssim


def pair(side: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(side)
    image = torch.rand(3, 1, side, side, generator=generator) * 2 - 1
    return (image + 0.3 * torch.randn(image.shape, generator=generator)).clamp(-1, 1), image


def test_the_coarsest_scale_has_at_least_sixteen_pixels():
    assert [len(betas_for(side)) for side in (16, 31, 32, 64, 128, 255, 256, 512)] == [1, 1, 2, 3, 4, 4, 5, 5]
    assert betas_for(256) == BETAS
    three = betas_for(64)
    assert sum(three) == pytest.approx(1)
    assert three[1] / three[0] == pytest.approx(BETAS[1] / BETAS[0])
    with pytest.raises(ValueError, match="at least 16 pixels a side, got 15"):
        betas_for(15)


def test_from_256_pixels_on_it_is_the_published_measure_on_grey_levels_from_0():
    made, real = pair(256)
    expected = multiscale_structural_similarity_index_measure(
        (made + 1) / 2, (real + 1) / 2, data_range=1.0, reduction="none"
    )
    assert torch.allclose(ms_ssim(made, real), expected)


def test_one_scale_is_plain_ssim():
    made, real = pair(16)
    expected = structural_similarity_index_measure((made + 1) / 2, (real + 1) / 2, data_range=1.0, reduction="none")
    # torchmetrics cuts the border off in SSIM, and in MS-SSIM too.
    assert torch.allclose(ms_ssim(made, real), torch.as_tensor(expected), atol=1e-6)


@pytest.mark.parametrize("side", [16, 32, 64, 128])
def test_equal_images_give_one_and_worse_ones_less(side: int):
    made, real = pair(side)
    assert torch.allclose(ms_ssim(real, real), torch.ones(3))
    values = ms_ssim(made, real)
    assert bool(((values > 0) & (values < 1)).all())
    assert bool((ms_ssim((made + real) / 2, real) > values).all())
    assert ms_ssim(real[:0], real[:0]).shape == (0,)


def test_an_inverted_image_is_a_number():
    _, real = pair(64)
    values = ms_ssim(-real, real)
    assert bool(torch.isfinite(values).all())
    assert float(values.max()) < 0.1
