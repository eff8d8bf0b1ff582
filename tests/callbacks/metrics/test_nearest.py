"""Nearest rows against torch.cdist, in blocks, and merged over what ranks hold."""

import torch

from callbacks.metrics.nearest import Nearest, least_distances, nearest_rows


def rows() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(7, 5, generator=generator), torch.randn(40, 5, generator=generator)


def test_rows_are_those_of_cdist():
    queries, others = rows()
    expected = torch.cdist(queries.double(), others.double()).topk(3, largest=False)
    distances, places = nearest_rows(queries, others, k=3)
    assert torch.equal(places, expected.indices)
    torch.testing.assert_close(distances.double(), expected.values, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(least_distances(queries, others, block=7), distances[:, 0])
    assert nearest_rows(queries, others[:2], k=3)[0].shape == (7, 2)


def test_a_copy_is_at_0_although_the_features_are_large():
    others = rows()[1]
    distances, places = nearest_rows(others[5:6] + 1000, others + 1000, k=1)
    assert places.tolist() == [[5]]
    assert distances.item() == 0


def test_no_copy_is_missed_among_neighbours_that_the_product_cannot_tell_from_it():
    """Features of norm 1,000, each with a copy and 30 neighbours at 0.01: the product's rounding is 0.1 of d²."""
    generator = torch.Generator().manual_seed(0)
    queries = torch.nn.functional.normalize(torch.randn(40, 64, generator=generator)) * 1000
    near = torch.nn.functional.normalize(torch.randn(40, 30, 64, generator=generator), dim=-1) * 0.01
    others = torch.cat([(queries[:, None] + near).flatten(0, 1), queries])[torch.randperm(1240, generator=generator)]
    distances, places = nearest_rows(queries, others, k=1)
    assert distances.eq(0).all()
    assert torch.equal(others[places[:, 0]], queries)
    expected = torch.cdist(queries.double(), others.double(), compute_mode="donot_use_mm_for_euclid_dist")
    found = nearest_rows(queries, others, k=5)[0]
    torch.testing.assert_close(found.double(), expected.topk(5, largest=False).values, rtol=1e-5, atol=1e-6)


def test_blocks_and_ranks_give_what_one_block_gives():
    queries, others = rows()
    whole = Nearest(7, k=3)
    whole.update(*nearest_rows(queries, others, k=3))
    ranks = []
    for rank in range(3):
        one = Nearest(7, k=3)
        own = torch.arange(rank, 40, 3)
        for part in own.split(5):
            distances, places = nearest_rows(queries, others[part], k=3)
            one.update(distances, part[places])
        ranks.append(one)
    merged = Nearest(7, k=3)
    # As torchmetrics stacks states that have no reduction.
    merged.distances = torch.stack([one.distances for one in ranks])
    merged.keys = torch.stack([one.keys for one in ranks])
    merged._update_count = 1
    for got, expected in zip(merged.compute(), whole.compute(), strict=True):
        torch.testing.assert_close(got, expected)


def test_equal_distances_are_in_the_order_of_their_keys():
    near = Nearest(1, k=2)
    near.update(torch.tensor([[1.0]]), torch.tensor([[9]]))
    near.update(torch.tensor([[1.0, 1.0]]), torch.tensor([[4, 2]]))
    assert near.compute()[1].tolist() == [[2, 4]]
    empty = Nearest(1, k=2)
    empty.update(torch.empty(1, 0), torch.empty(1, 0, dtype=torch.int64))
    distances, keys = empty.compute()
    assert distances.isinf().all()
    assert keys.tolist() == [[-1, -1]]
