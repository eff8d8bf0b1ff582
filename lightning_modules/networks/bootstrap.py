"""How sure a figure of a test set can be: a bootstrap over patients, whose cases are drawn together.

N cases, R resamples, U distinct scores.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

LEVEL = 0.95
RESAMPLES = 1000
BLOCK = 100  # resamples at a time: 8 MB at 10,000 cases


def resampled(
    statistic: Callable[[Tensor], Tensor], patients: Sequence[str], *, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """The middle LEVEL of a statistic over draws of as many patients as there are; NaN where it is never defined.

    Args:
        statistic: from how often each case counts, float64 [r,N], to its value in each draw, float64 [r].
        patients: N ids, equal for cases of one patient. The same order of cases gives the same draws.
        resamples: R.
    """
    names, member = torch.unique(_numbers(patients), return_inverse=True)
    generator = torch.Generator().manual_seed(0)
    values = []
    for start in range(0, resamples, BLOCK):
        count = min(BLOCK, resamples - start)
        drawn = torch.randint(len(names), (count, len(names)), generator=generator)
        times = torch.zeros(count, len(names), dtype=torch.float64)
        times.scatter_add_(1, drawn, torch.ones_like(drawn, dtype=torch.float64))
        values.append(statistic(times[:, member]))
    tail = (1 - LEVEL) / 2
    low, high = torch.nanquantile(torch.cat(values), torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return low, high


def weighted_mean(values: Tensor, times: Tensor) -> Tensor:
    """Mean of float [N] where each case counts `times` [R,N]: float64 [R], NaN where none counts."""
    return (times @ values.double()) / times.sum(dim=1)


def weighted_auroc(scores: Tensor, positive: Tensor, times: Tensor) -> Tensor:
    """AUROC of scores [N] against bool [N] where each case counts `times` [R,N].

    Returns:
        Float64 [R], ties counted one half; NaN where a class counts nothing.
    """
    distinct, place = torch.unique(scores, return_inverse=True)
    yes, no = (
        times.new_zeros(len(times), len(distinct)).index_add_(1, place[chosen], times[:, chosen])
        for chosen in (positive, ~positive)
    )  # R U
    below = no.cumsum(dim=1) - no / 2
    return (yes * below).sum(dim=1) / (yes.sum(dim=1) * no.sum(dim=1))


def _numbers(patients: Sequence[str]) -> Tensor:
    """A number for each id, in the order of their first cases."""
    order = {patient: number for number, patient in enumerate(dict.fromkeys(patients))}
    return torch.tensor([order[patient] for patient in patients])
