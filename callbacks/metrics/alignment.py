"""How sure means over images, and the place of one between two others, can be: a bootstrap over patients.

N images, C columns, R resamples. Images of one patient are drawn together; all columns get the same draws.
"""

import torch
from torch import Tensor

from callbacks.metrics.auroc_interval import RESAMPLES, patient_draws


def resampled_ratios(numerators: Tensor, denominators: Tensor, *, groups: Tensor, resamples: int = RESAMPLES) -> Tensor:
    """Float64 [R,C]: sum over sum of each column in R draws of as many patients as there are.

    A mean has denominators of 1, a share its counts; 0 over 0 is NaN. The same arguments give the same draws.

    Args:
        numerators: float [N,C].
        denominators: float [N,C].
        groups: int64 [N], equal for images of one patient.
        resamples: R.
    """
    above, below = numerators.double(), denominators.double()
    return torch.cat([(times @ above) / (times @ below) for times in patient_draws(groups, resamples=resamples)])


def between(value: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Where `value` lies from `low` = 0 to `high` = 1; NaN where these two are equal."""
    span = high - low
    return torch.where(span == 0, torch.nan, (value - low) / span)
