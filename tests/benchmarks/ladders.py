"""Ladders: real images that stand for a generator's and are damaged step by step, each ladder in one way.

N images of H × W pixels.
"""

import io
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from callbacks.fidelity import through
from datamodules.cxr import CXRDataModule
from datamodules.reports.labels import FINDINGS, VIEWS

RISES, FALLS = 1, -1
FIDELITY = {"fid": RISES, "kid": RISES, "precision": FALLS, "density": FALLS, "coverage": FALLS}
MODES = {"fid": RISES, "kid": RISES, "recall": FALLS, "coverage": FALLS}


@dataclass(frozen=True)
class Ladder:
    """Steps of one damage, from none on.

    Attributes:
        steps: how much.
        moves: which figures must rise or fall with every step; others may do what they like.
    """

    steps: tuple[float, ...]
    moves: dict[str, int]


LADDERS = {
    # The share of an image's side that is left before it is scaled up again.
    "blur": Ladder((1.0, 0.7, 0.5, 0.35, 0.25), FIDELITY | {"recall": FALLS, "auroc": FALLS, "niqe": RISES}),
    # Deviation of Gaussian noise, of pixels in [-1,1].
    "noise": Ladder((0.0, 0.05, 0.1, 0.2, 0.4), FIDELITY | {"recall": FALLS, "auroc": FALLS, "niqe": RISES}),
    # Share of the images with a finding, or of one view, that are replaced by more of the others.
    "dropped findings": Ladder((0.0, 0.25, 0.5, 0.75, 1.0), MODES),
    "dropped view": Ladder((0.0, 0.25, 0.5, 0.75, 1.0), MODES),
    # Share of the images that carry another one's labels.
    "shuffled labels": Ladder((0.0, 0.25, 0.5, 0.75, 1.0), {"auroc": FALLS}),
    # Copies of training images, stored as JPEG and a little brighter, for each of the new images.
    "copies": Ladder((0.0, 0.05, 0.25, 0.5, 1.0), {"flagged": RISES, "membership": RISES}),
}


@dataclass(frozen=True)
class Images:
    """Real images of one split.

    Attributes:
        pixels: float32 [N,1,H,W] in [-1,1].
        labels: float32 [N,14].
        views: int64 [N].
        ids: N.
    """

    pixels: Tensor
    labels: Tensor
    views: Tensor
    ids: list[str]

    def taken(self, rows: Tensor) -> "Images":
        """These rows."""
        return Images(self.pixels[rows], self.labels[rows], self.views[rows], [self.ids[row] for row in rows.tolist()])


def read(data: CXRDataModule, split: str) -> Images:
    """All images of a split."""
    dataset = data.split_dataset(split)
    batch = dataset[range(len(dataset))]
    return Images(batch["image"], batch["labels"], batch["view"], batch["image_id"])


def damaged(kind: str, step: float, pool: Images, *, count: int) -> Images:
    """`count` images of the pool at one step of a ladder; the same draws at every step.

    Raises:
        ValueError: if the pool has too few images to put in the place of those that are dropped.
    """
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(pool.ids), generator=generator)
    made = pool.taken(order[:count])
    if kind == "blur":
        return Images(scaled(made.pixels, step), made.labels, made.views, made.ids)
    if kind == "noise":
        noise = torch.randn(made.pixels.shape, generator=generator)
        return Images((made.pixels + step * noise).clamp(-1, 1), made.labels, made.views, made.ids)
    if kind == "shuffled labels":
        wrong = torch.arange(count) < round(step * count)
        other = made.labels.roll(1, dims=0)  # of a neighbour in a random order
        return Images(made.pixels, torch.where(wrong[:, None], other, made.labels), made.views, made.ids)
    kept = pool.labels[:, FINDINGS.index("No Finding")] == 1
    if kind == "dropped view":
        kept = pool.views != VIEWS.index("AP")
    kept = kept[order]
    dropped = (~kept[:count]).nonzero()[:, 0]
    replaced = dropped[: round(step * len(dropped))]
    spare = order[count:][kept[count:]][: len(replaced)]
    if len(spare) < len(replaced):
        raise ValueError(f"{kind}: {len(spare)} spare images for {len(replaced)} that are dropped; take fewer images")
    rows = order[:count].clone()
    rows[replaced] = spare
    return pool.taken(rows)


def with_copies(share: float, new: Images, training: Images) -> Images:
    """New images, and for each of a share of them one copy of a training image; the same draws at every step."""
    order = torch.randperm(len(training.ids), generator=torch.Generator().manual_seed(0))
    source = training.taken(order[: round(share * len(new.ids))])
    brighter = (source.pixels * 0.95 + 0.03).clamp(-1, 1)
    copies = [jpeg(image, quality=75) for image in brighter[:, None]]
    return Images(
        torch.cat([new.pixels, *copies]),
        torch.cat([new.labels, source.labels]),
        torch.cat([new.views, source.views]),
        new.ids + [f"copy-{name}" for name in source.ids],
    )


def scaled(pixels: Tensor, share: float) -> Tensor:
    """Float [N,1,H,W] down to a share of its side and up again."""
    side = round(pixels.shape[-1] * share)
    return through(pixels, size=(side, side))


def jpeg(image: Tensor, *, quality: int = 50) -> Tensor:
    """Float [1,1,H,W] in [-1,1], stored with losses."""
    file = io.BytesIO()
    Image.fromarray(((image[0, 0] + 1) * 127.5).round().byte().numpy()).save(file, "JPEG", quality=quality)
    return torch.from_numpy(np.asarray(Image.open(file)).copy()).float()[None, None] / 127.5 - 1
