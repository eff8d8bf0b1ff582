"""Exact AUROC of each of the 14 findings with unknown labels left out, and their macro average; `ScoreBank`.

N images, F findings. A label is 1, 0 or NaN = unknown; an image counts for the findings whose label is known.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from callbacks.metrics.bank import RowBank, Rows


class MultiLabelAUROC(NamedTuple):
    """AUROC of F findings; NaN where a finding has no positive or no negative."""

    per_finding: tuple[float, ...]
    positives: tuple[int, ...]
    negatives: tuple[int, ...]
    included: tuple[bool, ...]  # which are in the macro average
    macro: float  # NaN where none is

    n: int
    repeated: int


class ScoredRows(NamedTuple):
    """N images with their scores and labels."""

    scores: Tensor  # float32 [N,F]
    labels: Tensor  # float32 [N,F] of 1, 0, NaN
    patients: Tensor  # int64 [N], equal for images of one patient
    repeated: int  # images left out since their id was there already


def binary_auroc(scores: Tensor, labels: Tensor) -> float:
    """AUROC of float scores [N] and labels [N] of 0/1: the Mann-Whitney statistic with ties counted one half.

    Returns:
        NaN where one class is empty.
    """
    positive = labels == 1
    p, q = int(positive.sum()), int((~positive).sum())
    if p == 0 or q == 0:
        return math.nan
    _, inverse, counts = torch.unique(scores, return_inverse=True, return_counts=True)
    counts = counts.double()
    rank = (counts.cumsum(0) - (counts - 1) / 2)[inverse]  # 1-based, the mean of its ties
    return ((rank[positive].sum() - p * (p + 1) / 2) / (p * q)).item()


def class_counts(labels: Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """How many of labels [N,F] are 1 and how many are 0, for each finding."""
    positives, negatives = ((labels == value).sum(0).tolist() for value in (1, 0))
    return tuple(positives), tuple(negatives)


def in_macro(labels: Tensor, *, min_positives: int) -> tuple[bool, ...]:
    """Which findings of labels [N,F] have at least `min_positives` positives and as many negatives, and one of each."""
    least = max(1, min_positives)
    return tuple(min(p, q) >= least for p, q in zip(*class_counts(labels), strict=True))


def multi_label_auroc(scores: Tensor, labels: Tensor, *, min_positives: int, repeated: int = 0) -> MultiLabelAUROC:
    """AUROC of scores [N,F] against labels [N,F] of 1, 0, NaN.

    Args:
        scores: float, any monotone scale.
        labels: float.
        min_positives: a finding is in the macro average with at least so many positives and so many negatives.
        repeated: carried into the result.
    """
    known = ~labels.isnan()
    columns = range(labels.shape[1])
    positives, negatives = class_counts(labels)
    values = tuple(binary_auroc(scores[known[:, f], f], labels[known[:, f], f]) for f in columns)
    included = in_macro(labels, min_positives=min_positives)
    chosen = [v for v, take in zip(values, included, strict=True) if take]
    macro = math.fsum(chosen) / len(chosen) if chosen else math.nan
    return MultiLabelAUROC(values, positives, negatives, included, macro, len(labels), repeated)


class ScoreBank(RowBank):
    """Scores and labels of a test set, one row an image, the same on every number of ranks.

    Args:
        findings: F.
    """

    def __init__(self, findings: int = 14) -> None:
        super().__init__(2 * findings)

    def add(self, scores: Tensor, labels: Tensor, *, ids: Sequence[str], patients: Sequence[str]) -> None:
        """Add scores float [B,F] and labels float [B,F] of 1, 0, NaN.

        Raises:
            ValueError: naming the image whose label is something else.
        """
        wrong = ~(labels.isnan() | (labels == 0) | (labels == 1))
        if wrong.any():
            row, column = wrong.nonzero()[0].tolist()
            raise ValueError(
                f"image {ids[row]}: label {column} is {labels[row, column].item():g}; expected 1, 0 or NaN "
                "(the datamodule's policy resolves -1)"
            )
        self.update(torch.cat([scores.float(), labels.to(scores.device).float()], dim=1), ids, patients)

    def gathered(self) -> ScoredRows:
        """What was added on all ranks, one row an image, in an order that depends on the image ids alone."""
        rows: Rows = self.compute()
        scores, labels = rows.values.chunk(2, dim=1)
        return ScoredRows(scores, labels, rows.groups, rows.repeated)
