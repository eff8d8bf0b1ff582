"""Metrics of written texts that sum exactly over ranks: ratios of sums, and distinct n-grams."""

import hashlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat


class Ratio(Metric):
    """Sum of numerators over sum of denominators, over all updates and ranks; through `transform`, e.g. exp."""

    full_state_update = False
    numerator: Tensor
    denominator: Tensor

    def __init__(self, transform: Callable[[Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.transform = transform
        self.add_state("numerator", default=torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("denominator", default=torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, numerator: float, denominator: float) -> None:
        """Add to both sums."""
        self.numerator += numerator
        self.denominator += denominator

    def compute(self) -> Tensor:
        """NaN where the denominator is 0."""
        value = (self.numerator / self.denominator).float()
        return value if self.transform is None else self.transform(value)


class DistinctNgrams(Metric):
    """Different word n-grams over all n-grams (distinct-n, Li et al., arXiv 1510.03055), exact over ranks."""

    full_state_update = False
    seen: list[Tensor]
    total: Tensor

    def __init__(self, n: int = 2) -> None:
        super().__init__()
        self.n = n
        self.add_state("seen", default=[], dist_reduce_fx="cat")
        self.add_state("total", default=torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, texts: Sequence[str]) -> None:
        """Add texts."""
        hashes: list[int] = []
        for text in texts:
            words = text.lower().split()
            grams = [" ".join(words[i : i + self.n]) for i in range(len(words) - self.n + 1)]
            # 63 bits: collisions among a million n-grams are as unlikely as 1 in 10 million.
            hashes += [int.from_bytes(hashlib.blake2b(g.encode(), digest_size=8).digest()) >> 1 for g in grams]
        self.total += len(hashes)
        self.seen.append(torch.tensor(hashes, dtype=torch.int64, device=self.total.device).unique())

    def compute(self) -> Tensor:
        """In (0,1]; NaN without texts."""
        return (dim_zero_cat(self.seen).unique().numel() / self.total).float()
