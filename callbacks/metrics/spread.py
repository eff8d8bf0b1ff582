"""`ReconstructionSpread`: do reconstructions differ within themselves, from one another, and from the mean image?

A decoder that has collapsed draws one flat image, or one mean image whatever it is given. Ratios to the real images
show it on any data set. What is compared between images is averaged into 16 × 16 cells first: gross failure shows
there, and the sums stay small at any resolution.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torchmetrics import Metric

CELLS = 16  # a side
FLAT = 1e-4  # a deviation below this, of a range of 2, is none


class Spread(NamedTuple):
    """Ratios of reconstructions to their images; NaN where the real images have nothing to compare."""

    images: int  # how many
    real: float  # mean deviation of the pixels within a real image
    contrast: float  # the reconstructions' deviation within an image over the real images'
    variety: float  # deviation from image to image over that of the real images
    explained: float  # share of the real images' variance around their mean image that is reconstructed; 1 is perfect


class ReconstructionSpread(Metric):
    """Collects float images [B,1,H,W] in [-1,1] of any size; exact over ranks."""

    full_state_update = False
    count: Tensor
    within: Tensor
    sums: Tensor
    squares: Tensor
    error: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        zero = torch.zeros((), dtype=torch.float64)
        self.add_state("count", zero, dist_reduce_fx="sum")
        # Of reconstructions and of images.
        self.add_state("within", torch.zeros(2, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("sums", torch.zeros(2, CELLS**2, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("squares", torch.zeros(2, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("error", zero.clone(), dist_reduce_fx="sum")

    def update(self, reconstruction: Tensor, image: Tensor) -> None:
        """Add a batch."""
        cells = []
        for side, x in enumerate((reconstruction, image)):
            pixels = x.double().flatten(1)  # B pixels
            self.within[side] += (pixels - pixels.mean(dim=1, keepdim=True)).square().mean(dim=1).sqrt().sum()
            cells.append(functional.adaptive_avg_pool2d(x.float(), CELLS).double().flatten(1))  # B cells
            self.sums[side] += cells[side].sum(dim=0)
            self.squares[side] += cells[side].square().sum()
        self.error += (cells[0] - cells[1]).square().sum()
        self.count += len(image)

    def compute(self) -> Spread:
        """The ratios over all updates and ranks."""
        n = self.count.clamp(min=1)
        within = self.within / n
        # Sum of squares around the mean image.
        around = (self.squares - self.sums.square().sum(dim=1) / n).clamp(min=0)
        between = (around / n / CELLS**2).sqrt()
        real = float(within[1])
        differ = float(between[1]) > FLAT
        return Spread(
            images=int(self.count),
            real=real,
            contrast=float(within[0]) / real if real > FLAT else torch.nan,
            variety=float(between[0] / between[1]) if differ else torch.nan,
            explained=1 - float(self.error / around[1]) if differ else torch.nan,
        )
