"""Multi-scale structural similarity (MS-SSIM; Wang, Simoncelli & Bovik, 2003) of small images too.

The original has 5 scales, each half the last one, and a Gaussian window of 11 pixels (σ = 1.5); torchmetrics refuses it
below 161 pixels. Here an image has as many scales as leave its smallest one at least 16 pixels wide: 3 at 64 px (64,
32, 16), 4 at 128 px and all 5 from 256 px. Fewer scales keep the finest scales' exponents, scaled to a sum of 1.
Figures of different image sizes are therefore not comparable; from 256 px on they are the published measure.
"""

import math

import torch
from torch import Tensor
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

BETAS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
SMALLEST = 16  # pixels of the coarsest scale; the window has 11
KERNEL, SIGMA = 11, 1.5


def betas_for(side: int) -> tuple[float, ...]:
    """The exponents of the scales, finest first, of an image whose smaller side is `side` pixels.

    Raises:
        ValueError: for less than 16 pixels.
    """
    if side < SMALLEST:
        raise ValueError(f"MS-SSIM needs images of at least {SMALLEST} pixels a side, got {side}")
    scales = min(len(BETAS), int(math.log2(side / SMALLEST)) + 1)
    if scales == len(BETAS):
        return BETAS
    total = math.fsum(BETAS[:scales])
    return tuple(beta / total for beta in BETAS[:scales])


def ms_ssim(images: Tensor, reference: Tensor) -> Tensor:
    """MS-SSIM float32 [B] of each image with its reference, both float [B,1,H,W] in [-1,1].

    Measured on [0,1], as its luminance term is made for grey levels from 0 on. A negative similarity of one scale
    counts as 0.
    """
    if not len(images):
        return torch.empty(0, device=images.device)
    x, y = ((side.float() + 1) / 2 for side in (images, reference))
    values = multiscale_structural_similarity_index_measure(
        x,
        y,
        sigma=SIGMA,
        kernel_size=KERNEL,
        reduction="none",
        data_range=1.0,
        betas=betas_for(min(x.shape[-2:])),
        normalize="relu",
    )
    assert isinstance(values, Tensor)
    return values
