"""`PatchBank`: how often each code is used, and the image patches whose latents lie nearest to it.

Memory is bounded by the number of codes, not of images. K codes, P patches a code of s × s pixels, N cells.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric


class Patches(NamedTuple):
    """What is known of each code."""

    counts: Tensor  # int64 [K], cells that have the code
    distances: Tensor  # float32 [K,P], ascending; infinite where there is no patch
    pixels: Tensor  # uint8 [K,P,s,s]


def cut(images: Tensor, *, grid: int, margin: float) -> Tensor:
    """The patch of each cell, with its surroundings.

    Args:
        images: float [B,1,H,W] in [-1,1], H = W a multiple of `grid`.
        grid: cells a row.
        margin: how much of its surroundings a patch shows on each side, as a share of a cell; black outside the image.

    Returns:
        uint8 [B,grid²,s,s], row by row.
    """
    cell = images.shape[-1] // grid
    border = round(margin * cell)
    side = cell + 2 * border
    padded = F.pad(images.float(), (border,) * 4, value=-1.0)
    patches = F.unfold(padded, side, stride=cell).transpose(1, 2).unflatten(2, (side, side))  # B L s s
    return ((patches + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


class PatchBank(Metric):
    """Keeps the P nearest patches of each code, at most one of each image, the same on every number of ranks.

    Args:
        codes: K.
        patches: P.
        side: s.
    """

    full_state_update = False
    counts: Tensor
    distances: Tensor
    keys: Tensor
    pixels: Tensor

    def __init__(self, codes: int, *, patches: int, side: int) -> None:
        super().__init__()
        self.codes, self.patches = codes, patches
        self.add_state("counts", torch.zeros(codes, dtype=torch.int64), dist_reduce_fx="sum")
        # Gathered without a reduction: [R,K,...] on R ranks, as it is on one.
        self.add_state("distances", torch.full((codes, patches), torch.inf), dist_reduce_fx=None)
        self.add_state("keys", torch.full((codes, patches), -1), dist_reduce_fx=None)
        self.add_state("pixels", torch.zeros(codes, patches, side, side, dtype=torch.uint8), dist_reduce_fx=None)

    def update(self, codes: Tensor, distances: Tensor, pixels: Tensor, keys: Tensor) -> None:
        """Add the cells of a batch of images, each image in one batch only.

        Args:
            codes: int64 [B,L].
            distances: float32 [B,L] of the latents from their codes.
            pixels: uint8 [B,L,s,s].
            keys: int64 [B], a number of its own for each image; equal distances are put in their order.
        """
        self.counts += torch.bincount(codes.flatten(), minlength=self.codes)
        held = torch.arange(self.codes, device=codes.device)[:, None].expand_as(self.keys)
        self._keep(
            torch.cat([held.flatten(), codes.flatten()]),
            torch.cat([self.distances.flatten(), distances.float().flatten()]),
            torch.cat([self.keys.flatten(), keys[:, None].expand_as(codes).flatten()]),
            torch.cat([self.pixels.flatten(0, 1), pixels.flatten(0, 1)]),
        )

    def _keep(self, codes: Tensor, distances: Tensor, keys: Tensor, pixels: Tensor) -> None:
        """Make the state the nearest of the candidates [M], whose order does not matter."""
        real = distances.isfinite().nonzero()[:, 0]
        # By code, image and distance: the first of each (code, image) is that image's nearest.
        order = real[_by(distances[real], keys[real], codes[real])]
        first = torch.ones(len(order), dtype=torch.bool, device=order.device)
        same_code, same_key = codes[order][1:] == codes[order][:-1], keys[order][1:] == keys[order][:-1]
        first[1:] = ~(same_code & same_key)
        order = order[first]
        order = order[_by(keys[order], distances[order], codes[order])]
        sizes = torch.bincount(codes[order], minlength=self.codes)
        place = torch.arange(len(order), device=order.device) - (sizes.cumsum(0) - sizes)[codes[order]]
        order, place = order[place < self.patches], place[place < self.patches]
        rows = codes[order]
        kept = distances[order], keys[order], pixels[order]
        self.distances.fill_(torch.inf)
        self.keys.fill_(-1)
        self.pixels.zero_()
        self.distances[rows, place], self.keys[rows, place], self.pixels[rows, place] = kept

    def compute(self) -> Patches:
        """The nearest patches over all ranks, on the CPU."""
        side = self.pixels.shape[-1]
        bank = PatchBank(self.codes, patches=self.patches, side=side)
        keys = self.keys.cpu().view(-1, self.codes, self.patches)
        ranks = zip(
            self.distances.cpu().view_as(keys), keys, self.pixels.cpu().view(*keys.shape, side, side), strict=True
        )
        held = torch.arange(self.codes)[:, None].expand(-1, self.patches).flatten()
        parts = [(held, d.flatten(), k.flatten(), p.flatten(0, 1)) for d, k, p in ranks]
        bank._keep(*(torch.cat(column) for column in zip(*parts, strict=True)))
        return Patches(self.counts.cpu(), bank.distances, bank.pixels)


def _by(*columns: Tensor) -> Tensor:
    """The order that sorts rows by the last of the columns [M], then by the one before it, and so on."""
    order = torch.arange(len(columns[0]), device=columns[0].device)
    for column in columns:
        order = order[column[order].argsort(stable=True)]
    return order
