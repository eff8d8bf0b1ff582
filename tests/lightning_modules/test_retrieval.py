"""Retrieval of reports by images and images by reports on constructed similarities."""

import pytest
import torch
from torch.nn import functional

from lightning_modules.networks.retrieval import Pair, recall_at, retrieval_scores, thinned


def test_thinning_takes_every_second_patch_of_every_second_row() -> None:
    patches = torch.arange(1024.0).view(1, 1024, 1)
    assert thinned(patches).flatten()[[0, 1, 16, 255]].tolist() == [0, 2, 64, 30 * 32 + 30]
    assert torch.equal(thinned(patches[:, :256]), patches[:, :256])


def test_recall_counts_ties_against_and_its_chance_is_that_of_random_order() -> None:
    scores = torch.tensor([[0.9, 0.5, 0.1], [0.9, 0.5, 0.1], [0.5, 0.5, 0.5]])
    recalls, chances = recall_at(scores, torch.eye(3, dtype=torch.bool), ks=(1, 2, 3))
    assert recalls == pytest.approx([1 / 3, 2 / 3, 1.0])  # the third row's right one stands behind its ties
    assert chances == pytest.approx([1 / 3, 2 / 3, 1.0])
    same = torch.tensor([[True, True, False, False]])
    recalls, chances = recall_at(torch.tensor([[0.1, 0.8, 0.9, 0.2]]), same, ks=(1, 2))
    assert recalls == [0.0, 1.0]
    assert chances == pytest.approx([0.5, 1 - (2 * 1) / (4 * 3)])
    random = torch.rand(4000, 12, generator=torch.Generator().manual_seed(0))
    right = torch.zeros(4000, 12, dtype=torch.bool)
    right[:, :3] = True
    recalls, chances = recall_at(random, right, ks=(2,))
    assert recalls[0] == pytest.approx(chances[0], abs=0.02)


def test_retrieval_takes_identical_reports_as_right() -> None:
    directions = functional.normalize(torch.eye(3), dim=-1)
    pairs = [
        Pair(0, "a", directions[:1], None, directions[:1], 5),
        Pair(1, "b", directions[:1], None, directions[:1], 5),
        Pair(2, "c", directions[1:2], None, torch.cat([directions[1:2], directions[2:]]), 6),
    ]
    scores = retrieval_scores(pairs)
    assert scores["recall_at_1"] == 1.0
    assert scores["recall_at_1_chance"] == pytest.approx((2 / 3 + 2 / 3 + 1 / 3) / 3)
    assert scores["retrieval_pairs"] == 3
