"""AUROC over the cases of several findings: of all pairs of one finding's cases, how many are in the right order.

Scores of different findings are never compared, so neither how common an answer is for a finding nor the scale of its
probe counts. It is the mean of the findings' AUROCs, each weighted by its number of pairs. N images, F findings.
"""

import torch
from torch import Tensor

from callbacks.metrics.auroc_interval import RESAMPLES, patient_draws, weighted_auroc


def pooled_auroc(scores: Tensor, labels: Tensor, *, weights: Tensor | None = None) -> Tensor:
    """Float64 [R]; NaN where no finding has a pair.

    Args:
        scores: float [N,F].
        labels: float [N,F] of 1, 0 and NaN.
        weights: float64 [R,N], how often each image counts; once by default, with R = 1.
    """
    weights = torch.ones(1, len(scores), dtype=torch.float64) if weights is None else weights
    ordered = pairs = weights.new_zeros(len(weights))
    for f in range(scores.shape[1]):
        known = ~labels[:, f].isnan()
        of_finding, truth = weights[:, known], labels[known, f]
        count = of_finding[:, truth == 1].sum(1) * of_finding[:, truth == 0].sum(1)
        auroc = weighted_auroc(scores[known, f], truth, weights=of_finding).nan_to_num(0.0)
        ordered, pairs = ordered + count * auroc, pairs + count
    return ordered / pairs


def resampled_pooled(
    scores: list[Tensor], labels: list[Tensor], *, groups: Tensor, resamples: int = RESAMPLES
) -> Tensor:
    """Float64 [S,R]: the pooled AUROC of S score sets in each of R draws of as many patients; all get the same draws.

    NaN where a draw has no pair, as of no images.

    Args:
        scores: S of float [N,F].
        labels: S of float [N,F].
        groups: int64 [N], equal for images of one patient.
        resamples: R.
    """
    if not len(groups):
        return torch.full((len(scores), resamples), torch.nan, dtype=torch.float64)
    draws = [
        torch.stack([pooled_auroc(one, truth, weights=weights) for one, truth in zip(scores, labels, strict=True)])
        for weights in patient_draws(groups, resamples=resamples)
    ]
    return torch.cat(draws, dim=1)
