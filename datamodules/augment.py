"""Random changes of training images. Left and right are findings' sides: a mirrored image gets a mirrored report."""

import zlib
from collections import Counter
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional

from datamodules.reports.labels import FRONTAL_VIEWS, VIEWS
from datamodules.reports.sides import swap_sides, unresolved

# Flipping a lateral exchanges front and back; of an unknown view nobody knows what it exchanges.
MIRRORED = FRONTAL_VIEWS


def augment(image: Tensor, *, keys: list[str], strength: float) -> Tensor:
    """Small random shifts, zooms and contrast changes; never a mirror image.

    Args:
        image: float [B,1,H,W] in [-1,1].
        keys: one text an image that decides its change, so that it depends neither on the batch nor on the rank.
        strength: 1 moves by up to 6 %, zooms by up to 8 % and changes contrast and brightness by up to 15 %; 0 does
            nothing.

    Returns:
        Images of the same shape and range.
    """
    draws = torch.stack([torch.rand(5, generator=_generator(key)) for key in keys])
    draws = ((draws * 2 - 1) * strength).to(image)
    zoom = 1 + 0.08 * draws[:, 0]
    theta = image.new_zeros(len(image), 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = zoom
    theta[:, :, 2] = 0.12 * draws[:, 1:3]  # in half image widths
    grid = functional.affine_grid(theta, list(image.shape), align_corners=False)
    moved = functional.grid_sample(image, grid, padding_mode="border", align_corners=False)
    contrast, brightness = 1 + 0.15 * draws[:, 3], 0.15 * draws[:, 4]
    return (moved * contrast[:, None, None, None] + brightness[:, None, None, None]).clamp(-1, 1)


def mirror(
    image: Tensor, reports: list[str], views: Tensor, *, keys: list[str], share: float
) -> tuple[Tensor, list[str]]:
    """Exchange left and right in a share of the frontal images and in their reports.

    The heart of a mirrored chest points to the right: this teaches sides at the price of anatomy that is rare. Views
    but PA and AP stay as they are, and so do images whose report may name a side that would not be exchanged, see
    `datamodules.reports.sides.unresolved`.

    Args:
        image: float [B,1,H,W].
        reports: one text an image, English or Spanish; see `datamodules.reports.sides` for what is exchanged.
        views: int64 [B], index into VIEWS.
        keys: as in `augment`.
        share: of the images that may be mirrored, in [0,1].

    Returns:
        Images and reports, new where something was mirrored.
    """
    frontal = [VIEWS[view] in MIRRORED for view in views.tolist()]
    chosen = [
        may and float(torch.rand((), generator=_generator(f"mirror/{key}"))) < share and not unresolved(text)
        for may, key, text in zip(frontal, keys, reports, strict=True)
    ]
    mask = torch.tensor(chosen, device=image.device)[:, None, None, None]
    return torch.where(mask, image.flip(-1), image), [
        swap_sides(text) if turned else text for text, turned in zip(reports, chosen, strict=True)
    ]


def check_views(views: Iterable[str]) -> None:
    """Refuse training rows of which `mirror` would mirror none.

    Args:
        views: of the training rows, each of VIEWS.

    Raises:
        ValueError: when none is PA or AP, with how many there are of each view.
    """
    counts = Counter(views)
    if not any(counts[view] for view in MIRRORED):
        found = ", ".join(f"{counts[view]} {view}" for view in VIEWS if counts[view]) or "none"
        raise ValueError(
            f"data.init_args.mirror is above 0, but no training row is of view {' or '.join(MIRRORED)}, the only ones "
            f"that are mirrored (found: {found}); set it to 0, or say which rows are frontal in the data's views"
        )


def _generator(key: str) -> torch.Generator:
    return torch.Generator().manual_seed(zlib.crc32(key.encode()))
