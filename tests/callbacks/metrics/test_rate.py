"""Bits of codes, by hand."""

import math

import pytest
import torch

from callbacks.metrics.rate import code_rate


def test_bits_of_a_skewed_distribution():
    # Shares 1/2, 1/4, 1/4, 0: 1.5 bits a cell, four cells an image.
    rate = code_rate(torch.tensor([[0, 0, 0, 0], [1, 1, 2, 2]]), total=4)
    assert rate.bits == pytest.approx(4 * 1.5)
    assert rate.nominal == pytest.approx(4 * 2.0)
    assert (rate.dead, rate.cells) == (1, 4)


def test_evenly_used_codes_reach_the_nominal_rate_and_one_code_holds_nothing():
    even = code_rate(torch.arange(10).view(2, 5), total=10)
    assert even.bits == pytest.approx(even.nominal) == pytest.approx(5 * math.log2(10))
    assert even.dead == 0
    one = code_rate(torch.full((3, 7), 2), total=8)
    assert one.bits == 0.0
    assert one.nominal == 21.0


def test_impossible_codes_are_refused():
    with pytest.raises(ValueError, match=r"codes must lie in 0\.\.3, got 0\.\.4"):
        code_rate(torch.tensor([[0, 4]]), total=4)
    with pytest.raises(ValueError, match="the test split is empty"):
        code_rate(torch.empty(0, 4, dtype=torch.int64), total=4)
