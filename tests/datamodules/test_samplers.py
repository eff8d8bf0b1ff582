"""The rows of each rank, against one rank with the union batch."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamodules.samplers import EvalSampler, TrainSampler


def batches(sampler, size):
    rows = list(sampler)
    return [rows[i : i + size] for i in range(0, len(rows) - size + 1, size)]


@given(st.integers(1, 200), st.integers(1, 4), st.integers(1, 8), st.integers(0, 5), st.integers(0, 3))
def test_ranks_together_are_one_rank_with_the_large_batch(rows, world, batch, seed, epoch):
    def make(rank, of):
        sampler = TrainSampler(range(rows), rank=rank, world=of, seed=seed)
        sampler.set_epoch(epoch)
        return sampler

    ranks = [make(r, world) for r in range(world)]
    assert {len(r) for r in ranks} == {max(rows // world, 1)}
    assert all(len(list(r)) == len(r) for r in ranks)
    if rows >= world:
        one = batches(make(0, 1), batch * world)
        many = [batches(r, batch) for r in ranks]
        assert [sorted(i for part in parts for i in part) for parts in zip(*many, strict=True)] == [
            sorted(b) for b in one
        ]


def test_order_changes_with_epoch_and_seed_and_repeats():
    orders = {}
    for seed in (0, 1):
        for epoch in (0, 1):
            sampler = TrainSampler(range(50), rank=0, world=1, seed=seed)
            sampler.set_epoch(epoch)
            assert sorted(sampler) == list(range(50))
            assert list(sampler) == list(sampler)
            orders[seed, epoch] = tuple(sampler)
    assert len(set(orders.values())) == 4


@given(st.integers(1, 100), st.integers(1, 5))
def test_eval_rows_come_exactly_once(rows, world):
    if rows < world:
        with pytest.raises(ValueError, match=f"{rows} rows cannot be split over {world} processes"):
            EvalSampler(range(rows), rank=0, world=world)
        return
    samplers = [EvalSampler(range(rows), rank=r, world=world) for r in range(world)]
    seen = [i for s in samplers for i in s]
    assert sorted(seen) == list(range(rows))
    assert [len(list(s)) for s in samplers] == [len(s) for s in samplers]
