"""What several processes do together: sums, gathered rows and gathered objects; on one process nothing happens."""

import atexit
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.nn.functional import all_gather

Item = TypeVar("Item")


def leave_group() -> None:
    """Give back the process group, whose threads would otherwise abort the process now and then as it ends."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


# Lightning does this for nccl alone, and its handler comes first. Here, since all ranks of a stage import this file.
atexit.register(leave_group)


def distributed() -> bool:
    """Whether several ranks take part."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def world_size() -> int:
    """How many ranks there are; 1 without a process group."""
    return dist.get_world_size() if distributed() else 1


def sum_over_ranks(x: Tensor) -> Tensor:
    """The sum of x over all ranks; x itself where there is one."""
    if distributed():
        x = x.contiguous()
        dist.all_reduce(x)
    return x


def gather_rows(x: Tensor) -> Tensor:
    """The rows of all ranks in order of rank, with their gradients where x has one.

    Args:
        x: [N_r, ...] of each rank r; ranks may hold different numbers of rows, or none.

    Returns:
        [sum of N_r, ...]. A gradient for another rank's rows reaches that rank's x, so each rank must go backward.
    """
    if not distributed():
        return x
    counts = torch.zeros(dist.get_world_size(), dtype=torch.int64, device=x.device)
    counts[dist.get_rank()] = len(x)
    dist.all_reduce(counts)
    # Collectives need equal shapes: pad to the longest rank and cut afterwards.
    padded = torch.cat([x, x.new_zeros(int(counts.max()) - len(x), *x.shape[1:])]).contiguous()
    if torch.is_grad_enabled() and x.requires_grad:
        parts = all_gather(padded)
    else:
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded)
    return torch.cat([part[:count] for part, count in zip(parts, counts.tolist(), strict=True)])


def gather_items(items: list[Item]) -> list[Item]:
    """The items of all ranks, in rank order, on every rank."""
    if not distributed():
        return items
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, items)
    return [item for part in parts for item in part]
