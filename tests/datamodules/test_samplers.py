"""The rows of each rank, against one rank with the union batch; exactly once an epoch; resume; long-tail weights."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamodules.samplers import EvalSampler, TrainSampler, long_tail_weights


def train(rows, *, batch, rank=0, world=1, seed=0, epoch=0, weights=None):
    sampler = TrainSampler(range(rows), batch_size=batch, rank=rank, world=world, seed=seed, weights=weights)
    sampler.set_epoch(epoch)
    return sampler


sizes = {"rows": st.integers(1, 200), "world": st.integers(1, 5), "batch": st.integers(1, 8)}


@given(**sizes, seed=st.integers(0, 5), epoch=st.integers(0, 3))
def test_every_row_once_an_epoch_on_any_number_of_ranks(rows, world, batch, seed, epoch):
    ranks = [train(rows, batch=batch, rank=r, world=world, seed=seed, epoch=epoch) for r in range(world)]
    steps = {len(r) for r in ranks}
    parts = [list(r) for r in ranks]
    assert len(steps) == 1
    assert {len(p) for p in parts} == steps
    seen = [row for part in parts for draw in part for row in draw]
    if rows >= world:
        assert sorted(seen) == list(range(rows))
    else:
        assert len(seen) == world
        assert set(seen) == set(range(rows))
    lengths = [len(draw) for part in parts for draw in part]
    assert min(lengths) >= 1
    # One row over only where some rank would have none.
    assert max(lengths) <= batch + (rows < len(ranks[0]) * world + world)
    for step in zip(*parts, strict=True):
        assert max(map(len, step)) - min(map(len, step)) <= 1


@given(rows=st.integers(8, 200), world=st.integers(2, 4), batch=st.integers(2, 8), epoch=st.integers(0, 2))
def test_ranks_together_are_one_rank_with_the_large_batch(rows, world, batch, epoch):
    one = list(train(rows, batch=batch * world, epoch=epoch))
    many = zip(*(train(rows, batch=batch, rank=r, world=world, epoch=epoch) for r in range(world)), strict=True)
    assert [sorted(row for draw in step for row in draw) for step in many] == [sorted(draw) for draw in one]


def test_batches_are_even():
    assert [len(draw) for draw in train(65, batch=64)] == [32, 33]
    assert [len(draw) for draw in train(128, batch=64)] == [64, 64]


def test_order_changes_with_epoch_and_seed_and_repeats():
    orders = {}
    for seed in (0, 1):
        for epoch in (0, 1):
            sampler = train(50, batch=7, seed=seed, epoch=epoch)
            assert list(sampler) == list(sampler)
            orders[seed, epoch] = tuple(row for draw in sampler for row in draw)
            assert sorted(orders[seed, epoch]) == list(range(50))
    assert len(set(orders.values())) == 4


@given(**sizes, where=st.floats(0, 1))
def test_resume_goes_on_with_exactly_the_missing_rows(rows, world, batch, where):
    def make(rank):
        return train(rows, batch=batch, rank=rank, world=world, epoch=2)

    for rank in range(world):
        whole = list(make(rank))
        step = int(where * len(whole))
        resumed = make(rank)
        resumed.resume(make(0).state(step=step))  # every rank reads the checkpoint that rank 0 wrote
        expected = whole[step:] if step < len(whole) else whole  # nothing is left of a finished epoch
        assert list(resumed) == expected
        assert len(resumed) == len(whole)  # Lightning adds the steps that were done
        resumed.set_epoch(3)
        assert sorted(r for d in resumed for r in d) == sorted(
            r for d in train(rows, batch=batch, rank=rank, world=world, epoch=3) for r in d
        )


def test_resume_refuses_another_division_of_the_epoch():
    state = train(50, batch=5).state(step=4)
    train(50, batch=5).resume(state)
    with pytest.raises(ValueError, match=r"step 4 of 10 of epoch 0, with steps 10 where now there are 5; go on with"):
        train(50, batch=10).resume(state)
    with pytest.raises(ValueError, match=r"rows 50 where now there are 40, steps 10 where now there are 8"):
        train(40, batch=5).resume(state)
    with pytest.raises(ValueError, match=r"seed 0 where now there are 1"):
        train(50, batch=5, seed=1).resume(state)
    with pytest.raises(ValueError, match=r"with data x where now there are ; go on with the same data"):
        train(50, batch=5).resume(state | {"data": "x"})
    train(50, batch=10).resume(train(50, batch=5).state(step=10))  # a finished epoch can be followed by anything
    # Twice the ranks with half the batch is the same division.
    resumed = [train(50, batch=5, rank=r, world=2) for r in range(2)]
    state = train(50, batch=10).state(step=3)
    for sampler in resumed:
        sampler.resume(state)
    rest = sorted(row for sampler in resumed for draw in sampler for row in draw)
    assert rest == sorted(row for draw in list(train(50, batch=10))[3:] for row in draw)


@given(rows=st.integers(1, 100), world=st.integers(1, 5), batch=st.integers(1, 8))
def test_eval_rows_come_exactly_once(rows, world, batch):
    if rows < world:
        with pytest.raises(ValueError, match=f"{rows} rows cannot be split over {world} processes"):
            EvalSampler(range(rows), batch_size=batch, rank=0, world=world)
        return
    samplers = [EvalSampler(range(rows), batch_size=batch, rank=r, world=world) for r in range(world)]
    draws = [list(s) for s in samplers]
    assert sorted(row for part in draws for draw in part for row in draw) == list(range(rows))
    assert [len(part) for part in draws] == [len(s) for s in samplers]
    assert max(len(draw) for part in draws for draw in part) <= batch


def test_long_tail_weights_by_hand():
    labels = np.full((8, 14), np.nan, dtype=np.float32)
    labels[:4, 2] = 1  # half of the rows
    labels[0, 5] = 1  # one of eight, beside the other
    labels[4, 5] = -1  # uncertain is not positive
    balanced = long_tail_weights(labels, power=1.0)
    np.testing.assert_allclose(balanced / balanced[7], [8, 2, 2, 2, 1, 1, 1, 1])
    assert balanced.mean() == pytest.approx(1)
    np.testing.assert_allclose(long_tail_weights(labels, power=0.5) / long_tail_weights(labels, power=0.5)[7],
                               np.sqrt([8, 2, 2, 2, 1, 1, 1, 1]))  # fmt: skip
    np.testing.assert_array_equal(long_tail_weights(labels, power=0.0), np.ones(8))
    with pytest.raises(ValueError, match=r"balance is 2; expected 0"):
        long_tail_weights(labels, power=2)


@given(
    rows=st.integers(6, 60),
    world=st.integers(1, 3),
    batch=st.integers(1, 4),
    epoch=st.integers(0, 2),
    step=st.integers(0, 9),
)
def test_draws_of_a_row_are_counted_over_all_ranks_and_through_a_resume(rows, world, batch, epoch, step):
    options = {"epoch": epoch, "weights": np.arange(1.0, rows + 1) ** 2}
    one = train(rows, batch=batch * world, **options)
    order = one.order().tolist()
    expected = [(row, order[:place].count(row)) for place, row in enumerate(order)]
    assert len(set(expected)) == rows
    assert [p for part in zip(one, one.draws(), strict=True) for p in zip(*part, strict=True)] == expected
    found, state = [], one.state(step=min(step, len(one) - 1))
    for rank in range(world):
        sampler = train(rows, batch=batch, rank=rank, world=world, **options)
        if len(sampler) == len(one):
            sampler.resume(state)
        found += [p for part in zip(sampler, sampler.draws(), strict=True) for p in zip(*part, strict=True)]
    done = len(order) * state["step"] // len(one) if len(sampler) == len(one) else 0
    assert sorted(found) == sorted(expected[done:])


def test_weighted_rows_are_drawn_as_often_as_they_weigh():
    weights = np.array([8.0, 2, 1, 1])
    seen = np.zeros(4)
    for epoch in range(600):
        for rank in range(2):
            for draw in train(4, batch=2, rank=rank, world=2, epoch=epoch, weights=weights):
                np.add.at(seen, draw, 1)
    np.testing.assert_allclose(seen / seen.sum(), weights / weights.sum(), atol=0.03)
