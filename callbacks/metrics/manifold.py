"""Precision, recall, density and coverage of a set of features: is what was made real, and is all that is real made?

A set's manifold is the union of balls around its points, each as wide as the way to its k-th nearest neighbour in the
set. Precision and recall: Kynkäänniemi et al., arXiv 1904.06991. Density and coverage, which one outlier cannot move as
far: Naeem et al., arXiv 2002.09797. N real and M made images of D features.
"""

from typing import NamedTuple

import torch
from torch import Tensor

BLOCK = 1024  # rows at a time: 80 MB of distances at 10,000 images


class Manifold(NamedTuple):
    """Shares in [0,1], but for the density, which may exceed 1."""

    precision: float  # of the made images that lie in a ball of the real ones
    recall: float  # of the real images that lie in a ball of the made ones
    density: float  # in how many balls of the real images a made one lies, over k
    coverage: float  # of the real images whose ball holds a made one


def manifold(real: Tensor, fake: Tensor, *, neighbours: int = 5, real_radii: Tensor | None = None) -> Manifold:
    """Compare float [N,D] with float [M,D].

    All four rise with k, and none but the density says anything without N: compare at equal N, M and k.

    Args:
        real: features of real images.
        fake: of those that were made.
        neighbours: k.
        real_radii: `radii` of the real images where they are known.

    Raises:
        ValueError: for sets of no more than k images.
    """
    if min(len(real), len(fake)) <= neighbours:
        raise ValueError(
            f"precision and recall with {neighbours} neighbours need more than {neighbours} images a side; there are "
            f"{len(real)} and {len(fake)}"
        )
    x, y = real.detach().double(), fake.detach().double()
    real_radii = radii(x, neighbours=neighbours) if real_radii is None else real_radii
    fake_radii = radii(y, neighbours=neighbours)
    in_real = torch.zeros(len(y), dtype=torch.long, device=y.device)  # balls of real images around each made one
    in_fake = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    covered = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    for start in range(0, len(x), BLOCK):
        rows = slice(start, start + BLOCK)
        distance = squared_distances(x[rows], y)
        inside = distance < real_radii[rows, None]
        in_real += inside.sum(dim=0)
        covered[rows] = inside.any(dim=1)
        in_fake[rows] = (distance < fake_radii).any(dim=1)
    return Manifold(
        precision=(in_real > 0).double().mean().item(),
        recall=in_fake.double().mean().item(),
        density=in_real.double().mean().item() / neighbours,
        coverage=covered.double().mean().item(),
    )


def radii(x: Tensor, *, neighbours: int) -> Tensor:
    """Squared distance of each of [N,D] to its k-th nearest neighbour among the others, [N]."""
    found = []
    for start in range(0, len(x), BLOCK):
        part = x[start : start + BLOCK]
        distance = squared_distances(part, x)
        own = torch.arange(len(part), device=x.device)
        distance[own, own + start] = -1.0  # first among itself, whatever rounding says
        found.append(distance.kthvalue(neighbours + 1, dim=1).values)
    return torch.cat(found)


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """[N,D], [M,D] → [N,M]; float64, of which the difference of two large squares leaves enough."""
    squares = x.square().sum(dim=1)[:, None] + y.square().sum(dim=1)
    return torch.addmm(squares, x, y.T, alpha=-2).clamp_min_(0)
