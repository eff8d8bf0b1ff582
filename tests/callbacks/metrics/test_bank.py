"""Rows come out the same whatever the order and grouping in which they went in."""

import copy
from pathlib import Path

import pytest
import torch
import torch.distributed
import torch.multiprocessing

from callbacks.metrics.bank import RowBank, id_hash


def test_rows_do_not_depend_on_order_and_repeats_are_left_out():
    values = torch.arange(12.0).reshape(6, 2)
    ids = [f"i{k}" for k in range(6)]
    patients = ["a", "a", "b", "b", "c", "c"]
    whole, parts = RowBank(2), RowBank(2)
    whole.update(values, ids, patients)
    for part in ([5, 1], [0, 3, 2], [4, 1]):  # image 1 twice, as a padding sampler gives it
        parts.update(values[part], [ids[k] for k in part], [patients[k] for k in part])
    a, b = whole.compute(), parts.compute()
    assert (a.repeated, b.repeated) == (0, 1)
    assert torch.equal(a.values, b.values)
    assert torch.equal(a.groups, b.groups)
    order = sorted(range(6), key=lambda k: id_hash(ids[k]))
    assert torch.equal(a.values, values[order])
    assert a.groups.tolist() == [id_hash(patients[k]) for k in order]


@pytest.mark.parametrize("width", [1, 3])
def test_a_single_row_is_a_row(width: int):
    bank = RowBank(width)
    bank.update(torch.ones(1, width), ["x"], ["p"])
    for one in (bank, copy.deepcopy(bank)):
        rows = one.compute()
        assert torch.equal(rows.values, torch.ones(1, width))
        assert (rows.groups.tolist(), rows.keys.tolist(), rows.repeated) == ([id_hash("p")], [id_hash("x")], 0)


def test_start_empties_the_bank_and_an_empty_bank_has_no_rows():
    bank = RowBank(3)
    assert bank.compute().values.shape == (0, 3)
    bank.update(torch.ones(2, 3), ["x", "y"], ["p", "p"])
    assert bank.compute().values.shape == (2, 3)
    bank.start()
    assert bank.compute().values.shape == (0, 3)


def test_wrong_rows_are_refused_with_the_numbers():
    with pytest.raises(ValueError, match=r"\[2, 4\] with 2 ids and 2 groups; expected \[B, 3\]"):
        RowBank(3).update(torch.ones(2, 4), ["x", "y"], ["p", "p"])
    with pytest.raises(ValueError, match="with 1 ids"):
        RowBank(3).update(torch.ones(2, 3), ["x"], ["p", "p"])


def gather_with_an_empty_rank(rank: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    bank = RowBank(2)
    if rank == 0:
        bank.update(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), ["x", "y"], ["p", "q"])
    torch.save(tuple(bank.compute()), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_a_rank_without_images_takes_part(tmp_path: Path):
    torch.multiprocessing.spawn(gather_with_an_empty_rank, args=(str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert sorted(first[0].tolist()) == [[1.0, 2.0], [3.0, 4.0]]
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
