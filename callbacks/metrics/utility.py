"""Which training sets are compared to tell what synthetic images are worth, and how sure the comparison is.

R real training images and S synthetic ones; a cell of the grid is a share of the real ones with a number of synthetic
ones.
"""

import math
from collections.abc import Collection, Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from callbacks.metrics.labelled import LabelledImages
from callbacks.metrics.pairs import mean_of

Job = TypeVar("Job")


class Cell(NamedTuple):
    """One kind of training set.

    Attributes:
        share: of the real training images, 0 to 1; 0 trains on synthetic images only.
        ratio: synthetic images for each image of the whole real training set, whatever the share.
    """

    share: float
    ratio: float

    @property
    def name(self) -> str:
        """As in metric keys, "0.1/1"."""
        return f"{self.share:g}/{self.ratio:g}"


class Estimate(NamedTuple):
    """A mean over seeds and where that of more seeds would lie."""

    mean: float
    low: float
    high: float


def grid(shares: Sequence[float], ratios: Sequence[float]) -> list[Cell]:
    """Every share with every ratio but the empty set; sorted.

    Raises:
        ValueError: for a share outside 0 to 1, a ratio below 0, one given twice, or nothing to compare.
    """
    for name, values, most in (("real_shares", shares, 1.0), ("synthetic_ratios", ratios, math.inf)):
        if len(set(values)) < len(values) or any(not 0 <= value <= most for value in values):
            raise ValueError(f"{name} {list(values)}; expected different numbers from 0 to {most:g}")
    cells = [Cell(share, ratio) for share in sorted(shares) for ratio in sorted(ratios) if share or ratio]
    if not cells:
        raise ValueError(f"real_shares {list(shares)} and synthetic_ratios {list(ratios)} leave nothing to train on")
    return cells


def counts(cell: Cell, *, real: int) -> tuple[int, int]:
    """How many real and how many synthetic images a cell has; a share above 0 has at least one."""
    return max(1, round(cell.share * real)) if cell.share else 0, round(cell.ratio * real)


def training_set(cell: Cell, real: LabelledImages, synthetic: LabelledImages, *, seed: int) -> LabelledImages:
    """The images of a cell, drawn by seed; a smaller share takes a subset of a larger one, and so does a ratio.

    Raises:
        ValueError: when there are fewer synthetic images than the ratio asks for.
    """
    wanted = counts(cell, real=len(real.pixels))
    if wanted[1] > len(synthetic.pixels):
        raise ValueError(
            f"synthetic_ratios: {cell.ratio:g} asks for {wanted[1]} synthetic images ({len(real.pixels)} real ones), "
            f"and there are {len(synthetic.pixels)}; let `predict` write more, or give ratios up to "
            f"{math.floor(100 * len(synthetic.pixels) / len(real.pixels)) / 100:g}"
        )
    generator = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(len(images.pixels), generator=generator) for images in (real, synthetic)]
    taken = [(images, order[:count]) for images, order, count in zip((real, synthetic), orders, wanted, strict=True)]
    return LabelledImages(
        torch.cat([images.pixels[rows] for images, rows in taken]),
        torch.cat([images.labels[rows] for images, rows in taken]),
        torch.cat([images.patients[rows] for images, rows in taken]),
    )


def dealt(jobs: Sequence[Job], done: Collection[Job], *, rank: int, ranks: int) -> list[Job]:
    """What a rank is to do of the jobs that are not done: as many as every other rank, or one more; in their order."""
    return [job for job in jobs if job not in done][rank::ranks]


def over_seeds(values: Sequence[float]) -> Estimate:
    """Mean of n values and Student's interval of LEVEL with n - 1 degrees of freedom; NaN ends for one value."""
    return Estimate(*mean_of(torch.tensor(values, dtype=torch.float64)))


def gains(aurocs: dict[Cell, list[float]]) -> dict[Cell, Estimate]:
    """What synthetic images add to the same real ones with the same seed, for the cells whose share is there alone."""
    found = {}
    for cell, values in aurocs.items():
        alone = aurocs.get(Cell(cell.share, 0.0))
        if cell.share and cell.ratio and alone is not None:
            found[cell] = over_seeds([a - b for a, b in zip(values, alone, strict=True)])
    return found


def mean_draws(draws: Sequence[Tensor]) -> Tensor:
    """Float64 [R]: the mean over seeds of bootstrap draws, which are the same patients for every seed."""
    return torch.stack(list(draws)).mean(dim=0)


def gain_draws(draws: dict[Cell, Tensor]) -> dict[Cell, Tensor]:
    """Float64 [R]: what synthetic images add in each draw of test patients, for the same cells as `gains`.

    Args:
        draws: of each cell, `mean_draws`; draw r is of the same patients in every cell, so that what makes it easy for
            both classifiers cancels.
    """
    pairs = ((cell, draws.get(Cell(cell.share, 0.0))) for cell in draws if cell.share and cell.ratio)
    return {cell: draws[cell] - alone for cell, alone in pairs if alone is not None}
