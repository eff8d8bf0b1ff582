"""Disjoint pairs and means with intervals."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from callbacks.metrics.pairs import disjoint_pairs, grouped_mean, mean_of


def test_neighbours_of_other_texts_are_paired_and_the_rest_is_left_out():
    assert disjoint_pairs([1, 2, 3, 4, 5]) == [(0, 1), (2, 3)]
    assert disjoint_pairs([1, 1, 2, 2]) == [(0, 2), (1, 3)]
    assert disjoint_pairs([7, 7, 7]) == []
    assert disjoint_pairs([]) == []


@given(st.lists(st.integers(0, 4), max_size=30))
def test_no_row_is_in_two_pairs_and_no_pair_has_one_text(texts: list[int]):
    pairs = disjoint_pairs(texts)
    rows = [row for pair in pairs for row in pair]
    assert len(rows) == len(set(rows))
    assert all(texts[a] != texts[b] for a, b in pairs)
    left = [texts[row] for row in set(range(len(texts))) - set(rows)]
    assert len(set(left)) <= 1  # no two of those left could have been paired


def test_the_interval_of_independent_values():
    mean = mean_of(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert mean.value == 2.5
    assert mean.high - mean.value == pytest.approx(3.182446 * math.sqrt(5 / 3) / 2)  # Student's, 3 degrees of freedom
    assert mean.value - mean.low == pytest.approx(mean.high - mean.value)
    assert all(math.isnan(x) for x in mean_of(torch.empty(0)))
    assert mean_of(torch.tensor([3.0])).value == 3.0
    assert math.isnan(mean_of(torch.tensor([3.0])).low)


def test_the_interval_of_groups_is_that_of_their_means_when_they_are_of_one_size():
    values = torch.tensor([1.0, 1.0, 2.0, 2.0, 4.0, 4.0])
    grouped = grouped_mean(values, torch.tensor([0, 0, 1, 1, 2, 2]))
    alone = mean_of(torch.tensor([1.0, 2.0, 4.0]))
    assert grouped == pytest.approx(alone)
    single = grouped_mean(values, torch.arange(6))
    assert single == pytest.approx(mean_of(values))
    assert math.isnan(grouped_mean(values, torch.zeros(6, dtype=torch.int64)).low)
