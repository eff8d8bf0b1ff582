"""How sure a macro AUROC, and the ratio of two on the same images, can be: a bootstrap over patients.

Images of one patient are drawn together, since they resemble one another; both score sets get the same draws, so that
what they share cancels in their ratio. N images, F findings, S score sets, R resamples, U distinct scores.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from callbacks.metrics.auroc import in_macro

LEVEL = 0.95
RESAMPLES = 1000
BLOCK = 100  # resamples at a time: 5 MB at 6,000 images


def resampled_macros(
    scores: Sequence[Tensor], labels: Tensor, *, groups: Tensor, min_positives: int, resamples: int = RESAMPLES
) -> Tensor:
    """Float64 [S,R]: the macro AUROC of each score set in each of R draws of as many patients as there are.

    The average is over the findings of `in_macro`, less those that lost a class in the draw; NaN
    where none is left. The same arguments give the same draws.

    Args:
        scores: S of float [N,F], any monotone scale.
        labels: float [N,F] of 1, 0, NaN.
        groups: int64 [N], equal for images of one patient.
        min_positives: see `in_macro`.
        resamples: R.
    """
    findings = [finding for finding, take in enumerate(in_macro(labels, min_positives=min_positives)) if take]
    blocks = []
    for weights in patient_draws(groups, resamples=resamples):
        sides = []
        for one in scores:
            each = [weighted_auroc(one[:, f], labels[:, f], weights=weights) for f in findings]
            # Of no finding the mean is NaN.
            sides.append(torch.stack(each).nanmean(dim=0) if each else weights.new_full((len(weights),), torch.nan))
        blocks.append(torch.stack(sides))
    return torch.cat(blocks, dim=1)


def patient_draws(groups: Tensor, *, resamples: int) -> Iterator[Tensor]:
    """How often each image counts in draws of as many patients as there are: blocks of float64 [r,N], R in all.

    Args:
        groups: int64 [N], equal for images of one patient. The same groups give the same draws.
        resamples: R.
    """
    names, member = torch.unique(groups, return_inverse=True)
    generator = torch.Generator().manual_seed(0)
    for start in range(0, resamples, BLOCK):
        count = min(BLOCK, resamples - start)
        drawn = torch.randint(len(names), (count, len(names)), generator=generator)
        times = torch.zeros(count, len(names), dtype=torch.float64)
        times.scatter_add_(1, drawn, torch.ones_like(drawn, dtype=torch.float64))
        yield times[:, member]


def weighted_auroc(scores: Tensor, labels: Tensor, *, weights: Tensor) -> Tensor:
    """AUROC of scores [N] against labels [N] of 1, 0, NaN where each image counts `weights` [R,N] times.

    Returns:
        Float64 [R], ties counted one half; NaN where a class weighs nothing.
    """
    distinct, place = torch.unique(scores, return_inverse=True)
    sums = []
    for value in (1, 0):
        chosen = labels == value
        sums.append(weights.new_zeros(len(weights), len(distinct)).index_add_(1, place[chosen], weights[:, chosen]))
    positive, negative = sums  # R U
    below = negative.cumsum(1) - negative / 2
    return (positive * below).sum(1) / (positive.sum(1) * negative.sum(1))


def interval(values: Tensor) -> tuple[float, float]:
    """The middle LEVEL of float [R], NaN left out; NaN where nothing is left."""
    tail = (1 - LEVEL) / 2
    low, high = torch.nanquantile(values, values.new_tensor([tail, 1 - tail])).tolist()
    return low, high
