"""Contrast and contrast-to-noise of a finding against its surroundings: what a reader needs in order to see it at all.

Contrast is the mean grey level inside a finding's mask minus that of a ring around it; the noise is the standard
deviation in the ring; their ratio is the contrast-to-noise ratio (CNR). P pairs of an image and a finding in it,
F findings, images of H × W pixels in [-1,1].
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from callbacks.metrics.bank import RowBank

# One grey level of 256. Less noise than a picture file can hold is no noise, and dividing by it would mean nothing.
NOISE_FLOOR = 2 / 255
MIN_PIXELS = 8  # in the mask and in the ring; the mean of fewer says little
NUMBERS = 4  # a pair's contrast and noise in the original, then in the other image


class Surroundings(NamedTuple):
    """Where the findings of a batch lie and what they are compared with; pairs without enough pixels are left out."""

    image: Tensor  # int64 [P], row of the batch
    finding: Tensor  # int64 [P]
    inside: Tensor  # bool [P,H,W]
    ring: Tensor  # bool [P,H,W]
    left_out: Tensor  # int64 [Q,2] of (row, finding) that have a mask, but too few pixels in it or around it


class KeptContrast(NamedTuple):
    """How much of one finding's contrast is left, over its cases."""

    n: int  # cases
    cnr_real: float  # mean of |CNR| in the originals
    cnr: float  # mean CNR in the other images, positive where the sign is the original's
    cnr_kept: float  # their ratio
    contrast_kept: float  # the same ratio of contrasts without the noise


def surroundings(masks: Tensor, *, gap: int, width: int) -> Surroundings:
    """The masks of a batch and the ring around each.

    Args:
        masks: bool [B,F,H,W].
        gap: pixels next to the mask that belong to neither, since findings fade out.
        width: pixels that the ring is wide; pixels of any finding of the image are not part of it.
    """
    present = masks.flatten(2).any(2).nonzero()  # P 2
    image, finding = present.unbind(1)
    inside = masks[image, finding]
    near, far = _grow(inside, gap), _grow(inside, gap + width)
    ring = far & ~near & ~masks.any(1)[image]
    enough = torch.minimum(inside.flatten(1).sum(1), ring.flatten(1).sum(1)) >= MIN_PIXELS
    return Surroundings(image[enough], finding[enough], inside[enough], ring[enough], present[~enough])


def _grow(masks: Tensor, pixels: int) -> Tensor:
    """Bool [P,H,W] with each pixel that has one of the mask at most `pixels` away in both directions."""
    if pixels == 0 or not len(masks):
        return masks
    return F.max_pool2d(masks[:, None].float(), 2 * pixels + 1, stride=1, padding=pixels)[:, 0] > 0


def contrast_and_noise(images: Tensor, *, inside: Tensor, ring: Tensor) -> tuple[Tensor, Tensor]:
    """Contrast and noise, float64 [P] each, of float images [P,H,W] with their masks bool [P,H,W]."""
    x, within, around = images.double(), inside.double(), ring.double()
    size = around.sum((1, 2))
    outer = (x * around).sum((1, 2)) / size
    contrast = (x * within).sum((1, 2)) / within.sum((1, 2)) - outer
    variance = ((x - outer[:, None, None]).square() * around).sum((1, 2)) / size
    return contrast, variance.sqrt()


def kept(numbers: Tensor) -> KeptContrast:
    """How much contrast a finding has left, from float [N,4] of its N cases: contrast, noise, contrast, noise.

    The ratios are Σ s·b / Σ |a|, with a in the original, b in the other image and s the sign of a: the mean of the
    cases' ratios b / a, weighted with |a|, so that a finding that was hardly seen in the original hardly counts. 1 is
    all, 0 nothing, below 0 is inverted.

    Returns:
        NaN in place of each figure that has no case or a denominator of 0.
    """
    a, noise_a, b, noise_b = numbers.double().unbind(1)
    sign = a.sign()
    cnr_a = (a / noise_a.clamp(min=NOISE_FLOOR)).abs()
    cnr_b = sign * b / noise_b.clamp(min=NOISE_FLOOR)
    n = len(numbers)
    mean_a, mean_b = (float(x.mean()) if n else math.nan for x in (cnr_a, cnr_b))
    total = float(a.abs().sum())
    return KeptContrast(
        n=n,
        cnr_real=mean_a,
        cnr=mean_b,
        cnr_kept=mean_b / mean_a if mean_a else math.nan,
        contrast_kept=float((sign * b).sum()) / total if total else math.nan,
    )


class ContrastBank(RowBank):
    """Contrast and noise of every finding of every image, the same on every number of ranks.

    Args:
        findings: F.
        gap: see `surroundings`, as a share of the image's width; at least one pixel.
        width: see `surroundings`, as a share of the image's width; at least two pixels.
    """

    def __init__(self, findings: int = 14, *, gap: float, width: float) -> None:
        super().__init__(findings * (NUMBERS + 1))
        self.findings, self.gap, self.ring_width = findings, gap, width

    def add(self, real: Tensor, other: Tensor, masks: Tensor, *, ids: Sequence[str]) -> None:
        """Add a batch: both images float [B,1,H,W] in [-1,1], masks bool [B,F,H,W].

        Raises:
            ValueError: if the masks are not bool, or of another shape than the images.
        """
        expected = [len(ids), self.findings, *real.shape[-2:]]
        if masks.dtype != torch.bool or list(masks.shape) != expected:
            raise ValueError(
                f"masks are {masks.dtype} of the shape {list(masks.shape)}, expected torch.bool {expected}, "
                f"as the images are {list(real.shape)}"
            )
        side = real.shape[-1]
        where = surroundings(
            masks.to(real.device), gap=max(1, round(self.gap * side)), width=max(2, round(self.ring_width * side))
        )
        rows = torch.full((len(ids), self.findings, NUMBERS + 1), math.nan, device=real.device)
        pairs = [
            contrast_and_noise(images[where.image, 0], inside=where.inside, ring=where.ring) for images in (real, other)
        ]
        numbers = torch.stack([value for pair in pairs for value in pair], dim=1)  # P 4
        rows[where.image, where.finding, :NUMBERS] = numbers.float()
        rows[..., NUMBERS] = 0
        rows[where.left_out[:, 0], where.left_out[:, 1], NUMBERS] = 1
        self.update(rows.flatten(1), ids, ids)

    def result(self) -> tuple[list[KeptContrast], list[int], int]:
        """For each finding what is kept, and how many masks were too small to measure; and how many images there were.

        The same on all ranks.
        """
        rows = self.compute().values.view(-1, self.findings, NUMBERS + 1)
        measured = [column[~column[:, 0].isnan(), :NUMBERS] for column in rows.unbind(1)]
        return [kept(numbers) for numbers in measured], rows[..., NUMBERS].sum(0).long().tolist(), len(rows)
