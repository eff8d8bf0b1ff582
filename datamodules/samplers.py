"""Which rank sees which rows: train exactly as one rank with the union batch would, evaluation exactly once each.

Both are DistributedSamplers in name so that Lightning, which wraps any other sampler under DDP, leaves them alone.
"""

from collections.abc import Iterator, Sized

import torch
from torch.utils.data import DistributedSampler


class TrainSampler(DistributedSampler):
    """A permutation of the data set from (seed, epoch), of which rank r takes every world-th row from r on.

    So the k-th batches of size b of all ranks together hold the rows of the k-th batch of size world × b of one rank.
    All ranks have the same count: up to world - 1 rows at the end of the permutation are left out, others each epoch. A
    data set smaller than world is wrapped around, so that each rank has one row.

    Args:
        dataset: anything with a length of at least 1.
        rank: this process, in [0, world).
        world: number of processes.
        seed: of the permutation, together with the epoch that Lightning sets through `set_epoch`.
    """

    def __init__(self, dataset: Sized, *, rank: int, world: int, seed: int) -> None:
        super().__init__(dataset, num_replicas=world, rank=rank, shuffle=True, seed=seed)  # type: ignore[arg-type]
        self.rows = len(dataset)

    def __iter__(self) -> Iterator[int]:
        # A plain sum seed + epoch would give seed 1, epoch 0 the order of seed 0, epoch 1.
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + self.epoch) % 2**63)
        order = torch.randperm(self.rows, generator=generator).tolist()
        if self.rows < self.num_replicas:
            order = [order[i % self.rows] for i in range(self.num_replicas)]
        return iter(order[: len(self) * self.num_replicas][self.rank :: self.num_replicas])

    def __len__(self) -> int:
        return max(self.rows // self.num_replicas, 1)


class EvalSampler(DistributedSampler):
    """Rows r, r + world, ... in order: every row once over all ranks, nothing padded, so counts may differ by one.

    Args:
        dataset: anything with a length of at least `world`.
        rank: this process, in [0, world).
        world: number of processes.

    Raises:
        ValueError: when a rank would have no row, since it would miss the collectives of the others.
    """

    def __init__(self, dataset: Sized, *, rank: int, world: int) -> None:
        if len(dataset) < world:
            raise ValueError(f"{len(dataset)} rows cannot be split over {world} processes; use at most {len(dataset)}")
        super().__init__(dataset, num_replicas=world, rank=rank, shuffle=False)  # type: ignore[arg-type]
        self.rows = len(dataset)

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.rank, self.rows, self.num_replicas))

    def __len__(self) -> int:
        return len(range(self.rank, self.rows, self.num_replicas))
