"""What is gathered over two real ranks: uneven rows of any shape, in order, with their gradients."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from lightning_modules.networks.ranks import gather_rows

ROWS = (3, 1)  # of each rank


def whole() -> torch.Tensor:
    return torch.randn(sum(ROWS), 2, 3, generator=torch.Generator().manual_seed(0))


def part_of(rank: int) -> slice:
    return slice(0, ROWS[0]) if rank == 0 else slice(ROWS[0], None)


def weights() -> torch.Tensor:
    return torch.arange(24.0).view(4, 2, 3)


def gather_on_a_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    x = whole()[part_of(rank)].clone().requires_grad_()
    rows = gather_rows(x)
    # The second rank weighs them twice as much: each x gets the gradients of both.
    (rows * weights() * (rank + 1)).sum().backward()
    found = {"rows": rows.detach(), "gradient": x.grad}
    with torch.no_grad():
        found["silent"] = gather_rows(x)
    found["flags"] = gather_rows(torch.tensor([True, False, True, True])[part_of(rank)])
    found["numbers"] = gather_rows(torch.arange(4)[part_of(rank)])
    found["from one"] = gather_rows(torch.ones(2 * rank, 5, dtype=torch.float64))
    strided = whole().transpose(1, 2)[part_of(rank)]
    found["strided"] = gather_rows(strided)
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def end_without_leaving(rank: int, folder: str) -> None:
    """As Lightning's ranks end: the group is there until the interpreter goes."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    destroy = dist.destroy_process_group

    def watched() -> None:
        destroy()
        Path(folder, f"left-{rank}").touch()

    dist.destroy_process_group = watched


@pytest.mark.slow
def test_ranks_leave_their_group_when_they_end(tmp_path: Path) -> None:
    mp.spawn(end_without_leaving, args=(str(tmp_path),), nprocs=2)
    assert sorted(path.name for path in tmp_path.glob("left-*")) == ["left-0", "left-1"]


@pytest.mark.slow
def test_uneven_rows_of_any_shape_are_gathered_in_order_with_their_gradients(tmp_path: Path) -> None:
    mp.spawn(gather_on_a_rank, args=(str(tmp_path),), nprocs=2)
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert torch.equal(found["rows"], whole())
        assert torch.equal(found["gradient"], 3 * weights()[part_of(rank)])
        assert torch.equal(found["silent"], whole())
        assert not found["silent"].requires_grad
        assert found["flags"].tolist() == [True, False, True, True]
        assert found["numbers"].tolist() == [0, 1, 2, 3]
        assert torch.equal(found["from one"], torch.ones(2, 5, dtype=torch.float64))
        assert torch.equal(found["strided"], whole().transpose(1, 2))


def test_one_process_gets_its_own_rows_back() -> None:
    x = torch.zeros(2, 3)
    assert gather_rows(x) is x
