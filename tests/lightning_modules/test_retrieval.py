"""Retrieval of reports by images and images by reports on constructed similarities."""

import pytest
import torch

from lightning_modules.networks.alignment import Queries
from lightning_modules.networks.retrieval import Pair, random_recall, recall_at, retrieval_scores, thinned


def test_thinning_takes_every_second_patch_of_every_second_row() -> None:
    patches = torch.arange(1024.0).view(1, 1024, 1)
    assert thinned(patches).flatten()[[0, 1, 16, 255]].tolist() == [0, 2, 64, 30 * 32 + 30]
    assert torch.equal(thinned(patches[:, :256]), patches[:, :256])


def test_recall_counts_ties_against() -> None:
    scores = torch.tensor([[0.9, 0.5, 0.1], [0.9, 0.5, 0.1], [0.5, 0.5, 0.5]])
    # The third row's right one stands behind its ties.
    assert recall_at(scores, torch.eye(3, dtype=torch.bool), ks=(1, 2, 3)) == pytest.approx([1 / 3, 2 / 3, 1.0])
    same = torch.tensor([[True, True, False, False]])
    assert recall_at(torch.tensor([[0.1, 0.8, 0.9, 0.2]]), same, ks=(1, 2)) == [0.0, 1.0]


def test_recall_of_a_random_order() -> None:
    one = torch.ones(3, dtype=torch.int64)
    assert [random_recall(one, 3, k=k) for k in (1, 2, 3, 9)] == pytest.approx([1 / 3, 2 / 3, 1.0, 1.0])
    assert random_recall(2 * one, 4, k=2) == pytest.approx(1 - (2 * 1) / (4 * 3))
    # A query whose right one ties with nobody is found, one that ties with three others in a quarter of the cases.
    assert random_recall(torch.tensor([1, 1]), torch.tensor([1, 4]), k=1) == pytest.approx((1 + 0.25) / 2)
    random = torch.rand(4000, 12, generator=torch.Generator().manual_seed(0))
    right = torch.zeros(4000, 12, dtype=torch.bool)
    right[:, :3] = True
    assert recall_at(random, right, ks=(2,))[0] == pytest.approx(
        random_recall(torch.tensor([3]), torch.tensor([12]), k=2), abs=0.02
    )


def fits(statements: Queries, patches: torch.Tensor) -> torch.Tensor:
    """The largest cosine, turned round where the logit of denial is above 0."""
    largest = torch.einsum("md,npd->nmp", statements.vectors, patches).amax(dim=-1)
    return 8 * largest * torch.where(statements.denials > 0, -1.0, 1.0)


def pair(name: str, direction: torch.Tensor, *, states: torch.Tensor, text: int, shown: int) -> Pair:
    statements = Queries(states, torch.full((len(states),), -1.0), torch.zeros(len(states)))
    return Pair(text, name, direction[None], None, direction[None], statements, text, shown)


def test_identical_reports_are_right_and_equal_images_bound_the_recall() -> None:
    one, two, three = torch.eye(3)
    pairs = [
        pair("a", one, states=one[None], text=5, shown=1),
        pair("b", one, states=one[None], text=5, shown=1),
        pair("c", two, states=torch.stack([two, two]), text=6, shown=2),
        pair("d", three, states=torch.zeros(0, 3), text=7, shown=1),  # states nothing: never found by statements
    ]
    scores = retrieval_scores(pairs, fits=fits)
    assert scores["retrieval_pairs"] == 4
    assert scores["word_recall_at_1"] == 1.0
    assert scores["recall_at_1"] == 0.75
    assert scores["recall_at_1_chance"] == pytest.approx((2 / 4 + 2 / 4 + 1 / 4 + 1 / 4) / 4)
    # a and b are two of three that look alike, d is one of them.
    assert scores["recall_at_1_ceiling"] == pytest.approx((2 / 3 + 2 / 3 + 1 + 1 / 3) / 4)
    assert scores["recall_at_5_ceiling"] == 1.0


def test_a_denied_statement_ranks_images_the_other_way_round() -> None:
    one = torch.tensor([1.0, 0.0])
    denies = Queries(one[None], torch.tensor([1.0]), torch.zeros(1))
    shows = pair("shows", one, states=one[None], text=1, shown=1)
    lacks = Pair(2, "lacks", -one[None], None, -one[None], denies, 2, 2)
    assert retrieval_scores([shows, lacks], fits=fits)["recall_at_1"] == 1.0
