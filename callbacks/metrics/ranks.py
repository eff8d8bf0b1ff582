"""What the ranks of a test tell one another beside the states of their metrics."""

from typing import TypeVar

import torch.distributed as dist

Part = TypeVar("Part")


def from_all_ranks(own: Part) -> list[Part]:
    """What each rank gives, plain data, in the order of the ranks; all take part. [own] where there is one rank."""
    if not (dist.is_available() and dist.is_initialized()):
        return [own]
    parts: list[Part] = [own] * dist.get_world_size()
    dist.all_gather_object(parts, own)
    return parts
