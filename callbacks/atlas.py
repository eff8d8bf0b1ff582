"""`CodeAtlas`: what the codes stand for, as a PNG of real patches that a test's codebook gives them."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional

from callbacks.codes import encoded
from callbacks.extraction import CHUNK, check_images
from callbacks.grids import FONT_SIZE, HEADER, MARGIN, publish_picture
from callbacks.metrics.patches import PatchBank, Patches, cut
from callbacks.protocols import HasCodebook, HasReferenceImages

LABEL = 92  # pixels for a code's number and how often it is used


class CodeAtlas(Callback):
    """Writes `<default_root_dir>/pictures/atlas.png` at the end of a test and gives it to loggers that take images.

    Each row is a code: its number, how many cells of the images have it, and the patches whose latents lie nearest to
    it, nearest first, at most one an image. The patches are those of training images, which the codebook was made of.
    To the left stand the most used codes, to the right the least used that occur at all; the codes that do not occur
    are counted in the heading.

    Near is measured from the code's vector where the quantiser compares latents with vectors, which it says by having
    `cosine` (whether by direction only); for others (FSQ, LFQ) from the mean latent of the cells that have the code.

    Args:
        images: training images that are looked at, drawn by `seed`; all where there are fewer.
        codes: rows of each side; all codes are drawn where there are fewer than twice as many.
        patches: a row.
        margin: of a patch around the code's cell, as a share of the cell; a code's latent sees its surroundings too.
        width: of a patch in the picture, in pixels.
        seed: of the draw.

    Raises:
        TypeError: if the module has no codebook.
        ValueError: if the datamodule gives no training images.
    """

    def __init__(
        self,
        *,
        images: int = 512,
        codes: int = 16,
        patches: int = 8,
        margin: float = 0.5,
        width: int = 48,
        seed: int = 0,
    ) -> None:
        if min(images, codes, patches) < 1 or margin < 0 or width < 8:
            raise ValueError(
                f"images {images}, codes {codes}, patches {patches}, margin {margin}, width {width}; "
                "expected at least 1, 1, 1, 0 and 8"
            )
        self.images, self.codes, self.patches = images, codes, patches
        self.margin, self.width, self.seed = margin, width, seed

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse what no atlas can be made of, before the test and not after it."""
        if not isinstance(pl_module, HasCodebook):
            raise TypeError(
                f"{type(pl_module).__name__} has no codebook; CodeAtlas belongs into the callbacks of ImageCodebook "
                "(callbacks/protocols.py, HasCodebook, says what it asks)"
            )
        if not isinstance(getattr(trainer, "datamodule", None), HasReferenceImages):
            raise ValueError(
                "CodeAtlas: the datamodule has no reference_dataset(n, seed); use CXRDataModule, or leave the atlas out"
            )

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Every rank encodes its share of the images; rank 0 draws."""
        assert isinstance(pl_module, HasCodebook)
        data: HasReferenceImages = trainer.datamodule  # type: ignore[attr-defined]
        dataset = data.reference_dataset(self.images, seed=self.seed)
        batch = dataset[range(len(dataset))]
        images = check_images(batch["image"], what="reference", ids=batch["image_id"])
        network = pl_module.network
        side = cut(images[:1], grid=network.config.grid, margin=self.margin).shape[-1]
        bank = PatchBank(network.quantizer.codes, patches=self.patches, side=side).to(pl_module.device)
        own = torch.arange(len(images))[trainer.global_rank :: trainer.world_size].split(CHUNK)
        cosine = getattr(network.quantizer, "cosine", None)
        means = self._means(trainer, pl_module, [images[keys] for keys in own]) if cosine is None else None
        for keys in own:
            chosen = images[keys].to(pl_module.device)
            codes, latent = encoded(chosen, trainer, pl_module)
            if cosine:
                latent = functional.normalize(latent, dim=1)
            centre = network.quantizer.lookup(codes).float() if means is None else means[codes].permute(0, 3, 1, 2)
            distances = (latent - centre).square().sum(1).sqrt()
            pixels = cut(chosen, grid=network.config.grid, margin=self.margin)
            bank.update(codes.flatten(1), distances.flatten(1), pixels, keys.to(pl_module.device))
        found = bank.compute()
        if trainer.is_global_zero:
            self._draw(trainer, found, shown=len(images))

    def _means(self, trainer: Trainer, module: LightningModule, chunks: Sequence[Tensor]) -> Tensor:
        """Mean latent of the cells of each code over all ranks, float32 [K,D]; 0 for codes that do not occur."""
        assert isinstance(module, HasCodebook)
        sums: Tensor | None = None
        for images in chunks:  # a rank without images has one chunk of none
            codes, latent = encoded(images, trainer, module)
            rows = torch.cat([latent, torch.ones_like(latent[:, :1])], dim=1).permute(0, 2, 3, 1).flatten(0, 2).double()
            sums = rows.new_zeros(module.network.quantizer.codes, rows.shape[1]) if sums is None else sums
            sums.index_add_(0, codes.flatten(), rows)
        total = trainer.strategy.reduce(sums, reduce_op="sum")
        return (total[:, :-1] / total[:, -1:].clamp(min=1)).float()

    def _draw(self, trainer: Trainer, found: Patches, *, shown: int) -> None:
        dead = int((found.counts == 0).sum())
        seen = f"{100 / (1 + 2 * self.margin):.0f} % of a patch's width is the cell"
        title = f"{len(found.counts)} codes, {dead} unused in {shown} training images; {seen}"
        most, least = ends(found.counts, each=self.codes)
        blocks = {"most used": most, "least used": least} if len(least) else {"by use": most}
        picture = compose_atlas(found, blocks, title=title, width=self.width)
        publish_picture(picture, trainer, name="atlas", key="atlas")


def ends(counts: Tensor, *, each: int) -> tuple[Tensor, Tensor]:
    """The `each` most used codes, and the `each` least used that occur, both most used first: int64.

    Codes of equal use stand in their order. Where no more than 2 `each` codes occur, all are in the first part.
    """
    order = (-counts).argsort(stable=True)
    order = order[counts[order] > 0]
    if len(order) <= 2 * each:
        return order, order[:0]
    return order[:each], order[-each:]


def compose_atlas(found: Patches, blocks: dict[str, Tensor], *, title: str, width: int) -> Image.Image:
    """One block beside the other, each under its name, a row a code.

    Args:
        found: patches of all codes.
        blocks: name → codes int64 [N].
        title: above all blocks.
        width: of a patch in the picture, in pixels.
    """
    font = ImageFont.load_default(FONT_SIZE)
    per_row, rows = found.pixels.shape[1], max(len(codes) for codes in blocks.values())
    block_width = LABEL + per_row * (width + 2) + MARGIN
    total = max(1, int(found.counts.sum()))
    wide = max(len(blocks) * block_width, math.ceil(font.getlength(title))) + 2 * MARGIN
    picture = Image.new("L", (wide, 2 * HEADER + rows * (width + 2) + MARGIN), color=255)
    draw = ImageDraw.Draw(picture)
    draw.text((MARGIN, 2), title, fill=0, font=font)
    for block, (name, codes) in enumerate(blocks.items()):
        left = MARGIN + block * block_width
        draw.text((left, HEADER + 2), name, fill=0, font=font)
        for row, code in enumerate(codes.tolist()):
            top = 2 * HEADER + row * (width + 2)
            count = int(found.counts[code])
            draw.text((left, top), f"code {code}", fill=0, font=font)
            draw.text((left, top + FONT_SIZE + 3), f"{count} ({100 * count / total:.2g} %)", fill=0, font=font)
            there = found.distances[code].isfinite()
            for place, pixels in enumerate(found.pixels[code][there].numpy()):
                cell = _enlarged(pixels, width=width)
                picture.paste(cell, (left + LABEL + place * (width + 2), top))
    return picture


def _enlarged(pixels: np.ndarray, *, width: int) -> Image.Image:
    # Without smoothing, so that each pixel is seen as it is.
    return Image.fromarray(pixels).resize((width, width), Image.Resampling.NEAREST)
