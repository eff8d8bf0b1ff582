"""Intervals: against the independent ones of the evaluation, and by hand."""

import math

import pytest
import torch

from callbacks.metrics.auroc_interval import interval, resampled_macros
from lightning_modules.networks.bootstrap import resampled, weighted_auroc, weighted_mean


def test_an_interval_is_that_of_the_evaluation() -> None:
    generator = torch.Generator().manual_seed(1)
    groups = torch.randint(25, (90,), generator=generator)
    scores, labels = torch.rand(90, generator=generator).round(decimals=1), torch.rand(90, generator=generator) < 0.3
    # Patients are numbered by value there, images by their first case here.
    order = torch.argsort(groups, stable=True)
    groups, scores, labels = groups[order], scores[order], labels[order]
    expected = interval(resampled_macros([scores[:, None]], labels[:, None].float(), groups=groups, min_positives=1)[0])
    found = resampled(lambda times: weighted_auroc(scores, labels, times), [str(n) for n in groups.tolist()])
    assert found == pytest.approx(expected)


def test_the_cases_of_one_image_are_drawn_together() -> None:
    values = torch.tensor([1.0, 1.0, 0.0, 0.0])

    def difference(times: torch.Tensor) -> torch.Tensor:
        assert torch.equal(times[:, 0], times[:, 1])
        assert times[:, ::2].sum(dim=1).eq(2).all()  # as many images as there are
        return weighted_mean(values, times)

    # Of two images both are the first in a quarter of the draws, both the second in another.
    assert resampled(difference, ["a", "a", "b", "b"]) == (0.0, 1.0)
    assert resampled(difference, ["b", "b", "a", "a"]) == (0.0, 1.0)
    assert resampled(lambda times: weighted_mean(torch.ones(3), times), ["a", "b", "c"]) == (1.0, 1.0)


def test_the_interval_of_a_share_is_the_binomial_s() -> None:
    hits = torch.arange(200) < 60
    low, high = resampled(lambda times: weighted_mean(hits, times), [str(n) for n in range(200)])
    half = 1.96 * math.sqrt(0.3 * 0.7 / 200)
    assert (low, high) == pytest.approx((0.3 - half, 0.3 + half), abs=0.01)


def test_a_class_or_a_case_that_was_not_drawn_leaves_a_statistic_undefined() -> None:
    times = torch.tensor([[1.0, 0.0], [1.0, 2.0], [0.0, 0.0]], dtype=torch.float64)
    found = weighted_auroc(torch.tensor([0.2, 0.1]), torch.tensor([True, False]), times)
    assert found.isnan().tolist() == [True, False, True]
    assert found[1] == 1.0
    assert weighted_mean(torch.tensor([3.0, 0.0]), times)[:2].tolist() == [3.0, 1.0]
    assert all(math.isnan(end) for end in resampled(lambda times: times[:, 0] * math.nan, ["a"]))
