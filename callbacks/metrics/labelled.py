"""`ImageBank`: images with their labels as bytes, whose content does not depend on how ranks shared the images.

Rows of all ranks, in the order of a hash of their image id, those that a padding sampler gave twice kept once, as
`RowBank` does with float rows. N images of H × W pixels, F findings.
"""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from callbacks.metrics.bank import id_hash
from callbacks.metrics.ranks import from_all_ranks


class LabelledImages(NamedTuple):
    """N images, on the CPU."""

    pixels: Tensor  # uint8 [N,H,W], 0 for -1 and 255 for 1
    labels: Tensor  # float32 [N,F] of 1, 0, NaN
    patients: Tensor  # int64 [N], equal for images of one patient
    repeated: int = 0  # images left out since their id was there already

    def digest(self) -> str:
        """Sha256 over pixels, labels and patients, in order."""
        digest = hashlib.sha256(repr(list(self.pixels.shape)).encode())
        for part in (self.pixels, self.labels.nan_to_num(-9), self.patients):
            digest.update(part.contiguous().numpy().tobytes())
        return digest.hexdigest()


class Part(NamedTuple):
    """What one call of `ImageBank.add` adds."""

    pixels: Tensor
    labels: Tensor
    keys: list[int]
    groups: list[int]


class ImageBank:
    """Keeps images in a quarter of the memory of float32; what was read from 8-bit files comes back as it was."""

    def __init__(self) -> None:
        self.parts: list[Part] = []

    def add(self, images: Tensor, labels: Tensor, *, ids: Sequence[str], patients: Sequence[str]) -> None:
        """Add images float [B,1,H,W] in [-1,1] and labels float [B,F] of 1, 0, NaN.

        Raises:
            ValueError: naming the image whose label is something else.
        """
        wrong = ~(labels.isnan() | (labels == 0) | (labels == 1))
        if wrong.any():
            row, column = wrong.nonzero()[0].tolist()
            raise ValueError(f"image {ids[row]}: label {column} is {labels[row, column]:g}; expected 1, 0 or NaN")
        pixels = ((images[:, 0] + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).cpu()
        keys, groups = ([id_hash(name) for name in names] for names in (ids, patients))
        self.parts.append(Part(pixels, labels.float().cpu(), keys, groups))

    def gathered(self) -> LabelledImages:
        """What was added on all ranks; all take part.

        Raises:
            ValueError: when nothing was added, or images of several sizes.
        """
        return _joined([part for of_rank in from_all_ranks(self.parts) for part in of_rank])

    def alone(self) -> LabelledImages:
        """What was added on this rank, in the same order: of a set that every rank reads whole."""
        return _joined(self.parts)


def _joined(parts: list[Part]) -> LabelledImages:
    sizes = sorted({tuple(part.pixels.shape[1:]) for part in parts})
    if len(sizes) != 1:
        raise ValueError(f"images of the sizes {[list(size) for size in sizes]}; expected some, of one size")
    keys, order = torch.sort(torch.tensor([key for part in parts for key in part.keys]), stable=True)
    first = torch.ones_like(keys, dtype=torch.bool)
    first[1:] = keys[1:] != keys[:-1]
    kept = order[first]
    return LabelledImages(
        torch.cat([part.pixels for part in parts])[kept],
        torch.cat([part.labels for part in parts])[kept],
        torch.tensor([group for part in parts for group in part.groups])[kept],
        len(order) - len(kept),
    )
