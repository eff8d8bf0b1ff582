"""Images of a data split beside its loaders: drawn by seed, checked, and read a block at a time."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from callbacks.extraction import check_images
from callbacks.protocols import SplitDataset

BLOCK = 256  # images read at a time


def read_images(
    dataset: SplitDataset, places: Sequence[int], *, device: torch.device, what: str, block: int = BLOCK
) -> Iterator[tuple[Tensor, list[str], list[int]]]:
    """Checked images of these rows with their ids and places, a block at a time."""
    for start in range(0, len(places), block):
        chosen = [int(place) for place in places[start : start + block]]
        batch = dataset[chosen]
        ids = list(batch["image_id"])
        yield check_images(batch["image"].to(device), what=what, ids=ids), ids, chosen


def drawn(rows: int, most: int, *, seed: int) -> list[int]:
    """At most `most` of so many rows, in order, the same for the same seed."""
    return sorted(torch.randperm(rows, generator=torch.Generator().manual_seed(seed))[:most].tolist())
