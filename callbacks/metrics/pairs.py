"""Pairs of rows for diversity, and the mean of their similarities. They depend on the rows and their order alone."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from scipy.stats import t as student
from torch import Tensor

from callbacks.metrics.auroc_interval import LEVEL


class Mean(NamedTuple):
    """A mean of independent values with its 95 % interval; NaN where there are too few values."""

    value: float
    low: float
    high: float


def disjoint_pairs(texts: Sequence[int]) -> list[tuple[int, int]]:
    """Each row at most once, with the next free row of another text; the rows without such a one are left out.

    Args:
        texts: equal numbers for rows that must not meet, in an order that does not depend on the images (RowBank's).
    """
    pairs, free = [], list(range(len(texts)))
    while free:
        first = free.pop(0)
        partner = next((place for place, row in enumerate(free) if texts[row] != texts[first]), None)
        if partner is not None:
            pairs.append((first, free.pop(partner)))
    return pairs


def mean_of(values: Tensor) -> Mean:
    """The mean of float [N] and Student's interval, each value being of patients of its own."""
    values = values.double()
    if not len(values):
        return Mean(math.nan, math.nan, math.nan)
    mean = float(values.mean())
    if len(values) == 1:
        return Mean(mean, math.nan, math.nan)
    error = float(values.std() / math.sqrt(len(values)))
    return _student(mean, error, count=len(values))


def grouped_mean(values: Tensor, groups: Tensor) -> Mean:
    """The mean of float [N] and an interval that allows for rows of one group (patient) to be alike.

    The linearised error of a ratio of sums over clusters (Cochran, "Sampling Techniques", 1977, section 9A), times
    Student's quantile with one degree of freedom fewer than groups.

    Args:
        values: one a row.
        groups: int64 [N].
    """
    values = values.double()
    if not len(values):
        return Mean(math.nan, math.nan, math.nan)
    names, place = groups.unique(return_inverse=True)
    mean, many = float(values.mean()), len(names)
    if many < 2:
        return Mean(mean, math.nan, math.nan)
    sums = values.new_zeros(many).index_add_(0, place, values - mean)
    error = math.sqrt(float(sums.square().sum()) * many / (many - 1)) / len(values)
    return _student(mean, error, count=many)


def _student(mean: float, error: float, *, count: int) -> Mean:
    reach = float(student.ppf((1 + LEVEL) / 2, count - 1)) * error
    return Mean(mean, mean - reach, mean + reach)
