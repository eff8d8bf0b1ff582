"""One alarm over several detectors, with thresholds set on held-out real images so that few of them raise it.

A detector gives each image a distance to the training images; the smaller, the more it looks like a copy. Held-out real
images, of patients who are not in training, say which distances people have who merely resemble one another. Each
detector's log distance is put on the scale of its held-out images (0 at the median, 1 at the first percentile), the
largest over the detectors is the image's score, and one threshold stands for all: so the rate of false alarms is that
of all detectors together, however they depend on one another. N held-out images.
"""

import math
from collections.abc import Collection, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

# The quantile that is 1 on a detector's scale; far from the threshold, one heavy tail would blunt the others.
LOW = 0.01
TWIN = 0.02  # of the median: nearer than this no two patients come
MOST_TWINS = 0.1  # share of the held-out images
NOTHING, NOTHING_OF = 1e-6, 1e-3  # a median below the first, or this share of the largest distance, is of twins
SMALLEST = 1e-4  # of the median: a distance of 0 has a logarithm too


class Alarm(NamedTuple):
    """Thresholds of D detectors and what is known of their false alarms."""

    thresholds: dict[str, float]  # an image below one of them raises the alarm
    medians: dict[str, float]
    scales: dict[str, float]  # log distance from the median to the first percentile
    level: float  # the score that the thresholds stand for
    rank: int  # it is the score of the held-out image with this rank
    n: int
    expected: float  # false alarms of new real images, rank / (N + 1)
    confidence: float  # that their rate is not above what was asked for


def without_twins(held_out: Mapping[str, Tensor], *, whole: Collection[str]) -> tuple[dict[str, Tensor], Tensor]:
    """Leave out held-out images that are themselves as good as training images.

    One picture under two patients' ids, or a blank exposure, lies at no distance from its twin. As the nearest
    held-out image it would set thresholds below which nothing but an exact copy lies.

    A detector of parts names no twins. Parts that nearly equal one another, as a letter that marks the side, come in
    new real images too: left out here, they would raise the alarm there more often than it promises.

    Args:
        held_out: detector → float [N].
        whole: the detectors among them that compare whole images, which alone are asked.

    Returns:
        The distances of the others, and bool [N], True at those that were left out.

    Raises:
        ValueError: if so many have a twin that the splits share their pictures: nothing can be told from them.
    """
    medians = {name: held_out[name].double().median() for name in whole}
    # With a median of 0, or of what rounding leaves of it, nothing is nearer than a share of it: all count as twins.
    bounds = {
        name: torch.inf if middle < max(NOTHING, NOTHING_OF * float(held_out[name].max())) else TWIN * middle
        for name, middle in medians.items()
    }
    twins = torch.stack([held_out[name] < bound for name, bound in bounds.items()]).any(0)
    if twins.double().mean() > MOST_TWINS:
        raise ValueError(
            f"{int(twins.sum())} of {len(twins)} held-out images equal a training image, more than {MOST_TWINS:.0%}: "
            "the splits share pictures, and no distance is unusual; `python -m datamodules doctor <root>` says which"
        )
    return {name: one[~twins] for name, one in held_out.items()}, twins


def check_count(n: int, *, rate: float) -> None:
    """Refuse a number of held-out images that says nothing of so few false alarms.

    Raises:
        ValueError: if N is so small that beyond the most extreme held-out image more than `rate` is expected.
    """
    if 1 / (n + 1) > rate:
        least = f"at least {math.ceil(1 / rate) - 1}" if rate else "a rate above 0"
        raise ValueError(
            f"{n} held-out images cannot set an alarm with {rate:.3g} false alarms: beyond the nearest of them lie "
            f"{1 / (n + 1):.3g} of new ones; give {least}, or allow more false alarms"
        )


def set_alarm(held_out: Mapping[str, Tensor], *, rate: float, confidence: float = 0.95) -> Alarm:
    """Thresholds at which new real images raise the alarm at most at `rate`.

    The threshold is an order statistic of the held-out scores, whatever their distribution is (Wilks, 1941): that of
    the largest rank r at which P(Binomial(N, rate) < r) <= 1 - confidence. With N too small for that it is the most
    extreme score, and `confidence` of the result says what that is worth.

    Args:
        held_out: detector → float [N], distances of the same images in the same order.
        rate: of false alarms, of all detectors together.
        confidence: see above.

    Raises:
        ValueError: see `check_count`.
    """
    n = len(next(iter(held_out.values())))
    check_count(n, rate=rate)
    medians, scales = {}, {}
    for name, distances in held_out.items():
        logs = distances.double().clamp_min(SMALLEST * float(distances.double().median().clamp_min(1e-12))).log()
        middle = float(logs.quantile(0.5))
        medians[name] = math.exp(middle)
        scales[name] = max(middle - float(logs.quantile(LOW)), 1e-6)
    seen = _scores(held_out, medians, scales)
    rank = max(1, _largest_rank(n, rate=rate, confidence=confidence))
    level = float(seen.sort(descending=True).values[rank - 1])
    thresholds = {name: medians[name] * math.exp(-level * scales[name]) for name in medians}
    reached = 1 - _binomial_below(rank, n=n, rate=rate)
    return Alarm(thresholds, medians, scales, level, rank, n, rank / (n + 1), reached)


def most_by_chance(n: int, *, rate: float, confidence: float = 0.95) -> int:
    """The least c with P(Binomial(n, rate) <= c) >= confidence: more of n images are seldom flagged by chance.

    Args:
        n: images.
        rate: of false alarms, in [0, 1).
        confidence: see above.
    """
    if rate == 0:
        return 0
    reached, count = (1 - rate) ** n, 0
    while reached < confidence and count < n:
        count += 1
        reached += _binomial(count, n=n, rate=rate)
    return count


def raised(alarm: Alarm, distances: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Detector → bool [Q]: which images are below its threshold."""
    # By the score, since the image at the threshold itself must not depend on how a logarithm rounds.
    return {name: scores(alarm, {name: values}) > alarm.level for name, values in distances.items()}


def scores(alarm: Alarm, distances: Mapping[str, Tensor]) -> Tensor:
    """Float64 [Q]: the largest over the detectors; above `alarm.level` an image raises the alarm."""
    return _scores(distances, alarm.medians, alarm.scales)


def _scores(distances: Mapping[str, Tensor], medians: dict[str, float], scales: dict[str, float]) -> Tensor:
    each = []
    for name, values in distances.items():
        logs = values.double().clamp_min(SMALLEST * max(medians[name], 1e-12)).log()
        each.append((math.log(medians[name]) - logs) / scales[name])
    return torch.stack(each).amax(0)


def _largest_rank(n: int, *, rate: float, confidence: float) -> int:
    rank = 0
    while rank < n and _binomial_below(rank + 1, n=n, rate=rate) <= 1 - confidence:
        rank += 1
    return rank


def _binomial_below(rank: int, *, n: int, rate: float) -> float:
    """P(Binomial(n, rate) < rank)."""
    return math.fsum(_binomial(i, n=n, rate=rate) for i in range(rank))


def _binomial(count: int, *, n: int, rate: float) -> float:
    """P(Binomial(n, rate) = count)."""
    ways = math.lgamma(n + 1) - math.lgamma(count + 1) - math.lgamma(n - count + 1)
    return math.exp(ways + count * math.log(rate) + (n - count) * math.log1p(-rate))
