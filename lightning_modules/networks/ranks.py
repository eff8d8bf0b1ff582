"""What several processes do together: sums, gathered rows and gathered objects; on one process nothing happens."""

from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional

Item = TypeVar("Item")


def distributed() -> bool:
    """Whether several ranks take part."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def sum_over_ranks(x: Tensor) -> Tensor:
    """The sum of x over all ranks; x itself where there is one."""
    if distributed():
        x = x.contiguous()
        dist.all_reduce(x)
    return x


def gather_rows(x: Tensor) -> Tensor:
    """[N_r,D] of every rank, in rank order: [sum of N_r, D]. Ranks may hold different numbers of rows."""
    if not distributed():
        return x
    sizes = torch.zeros(dist.get_world_size(), dtype=torch.int64, device=x.device)
    sizes[dist.get_rank()] = len(x)
    dist.all_reduce(sizes)
    # Collectives need equal shapes: pad to the longest rank and cut afterwards.
    padded = functional.pad(x, (0, 0, 0, int(sizes.max()) - len(x))).contiguous()
    parts = [torch.empty_like(padded) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, padded)
    return torch.cat([part[:size] for part, size in zip(parts, sizes.tolist(), strict=True)])


def gather_items(items: list[Item]) -> list[Item]:
    """The items of all ranks, in rank order, on every rank."""
    if not distributed():
        return items
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, items)
    return [item for part in parts for item in part]
