"""`SampleGrid`: a PNG of real images, what was made for the same reports, and the reports themselves.

The first images of the first batch are drawn, on rank 0 and without any collective; so the same studies are seen at
every epoch and nobody chose them by their look.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from callbacks.extraction import check_images, images_of
from datamodules.manifest import Batch

MARGIN = 6  # pixels between cells
HEADER = 18  # the line above a row of images that names it
FONT_SIZE = 12
MAX_LINES = 18  # a longer report ends in "..."; Pillow's font has no ellipsis and no ×
# A difference of a quarter of the range from black to white is drawn white: reconstruction errors are small.
DIFFERENCE_GAIN = 4
DIFFERENCE = f"|difference|, white = {100 // DIFFERENCE_GAIN} % of the range or more"


class SampleGrid(Callback):
    """Writes `<default_root_dir>/pictures/{validate,test}-<epoch>.png` and gives it to loggers that take images.

    Rows: real; `output`; for reconstructions a map of their absolute difference, whose heading states the scale, and
    the mean difference of each image before its report; the report. Both are shares of the range from black to white.
    In validation, epochs whose step returns no `output` are passed over, since a generator does not sample at each.

    Args:
        output: the key of the images in what the step returns.
        columns: how many images are drawn.
        every_n_epochs: of validation; a test is always drawn.
        cell: width of an image in the picture, in pixels.
        difference: draw the difference row; by default for `output` "reconstruction".
    """

    def __init__(
        self,
        *,
        output: str = "synthetic",
        columns: int = 8,
        every_n_epochs: int = 1,
        cell: int = 192,
        difference: bool | None = None,
    ) -> None:
        if columns < 1 or every_n_epochs < 1 or cell < 32:
            raise ValueError(
                f"columns {columns}, every_n_epochs {every_n_epochs}, cell {cell}; expected at least 1, 1 and 32"
            )
        self.output, self.columns, self.every_n_epochs, self.cell = output, columns, every_n_epochs, cell
        self.difference = output == "reconstruction" if difference is None else difference

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Draw the first batch of every n-th epoch, where the step made images."""
        due = trainer.current_epoch % self.every_n_epochs == 0 and not trainer.sanity_checking
        made = isinstance(outputs, dict) and self.output in outputs
        if batch_idx == 0 and dataloader_idx == 0 and due and made and trainer.is_global_zero:
            self._draw(trainer, "validate", outputs, batch)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Draw the first batch."""
        if batch_idx == 0 and dataloader_idx == 0 and trainer.is_global_zero:
            self._draw(trainer, "test", outputs, batch)

    def _draw(self, trainer: Trainer, stage: str, outputs: Any, batch: Batch) -> None:
        # A validation step may make images for the first of its batch only.
        made = len(outputs[self.output]) if isinstance(outputs, dict) and self.output in outputs else 0
        count = min(self.columns, made or len(batch["image_id"]))
        ids = batch["image_id"][:count]
        real = check_images(batch["image"][:count], what="real", ids=ids)
        first = {key: value[:count] for key, value in outputs.items() if key == self.output} if made else outputs
        fake = images_of(first, key=self.output, like=real, ids=ids)
        rows, captions = {"real": real, self.output: fake}, batch["report"][:count]
        if self.difference:
            rows[DIFFERENCE], means = error_map(fake, real)
            captions = [f"[mean error {mean:.1f} %] {caption}" for mean, caption in zip(means, captions, strict=True)]
        picture = compose(rows, captions=captions, cell=self.cell)
        publish_picture(picture, trainer, name=f"{stage}-{trainer.current_epoch}", key=stage)


def error_map(images: Tensor, reference: Tensor) -> tuple[Tensor, list[float]]:
    """The absolute differences as a picture, and the mean of each image in percent of the range from black to white.

    Args:
        images: float [K,1,H,W] in [-1,1].
        reference: of the same shape and range.

    Returns:
        Float [K,1,H,W] in [-1,1], -1 where they are equal and 1 where they differ by 1 / `DIFFERENCE_GAIN` of the range
        or more; K percentages.
    """
    share = (images - reference).abs() / 2
    return (2 * share * DIFFERENCE_GAIN - 1).clamp(max=1), (100 * share.mean((1, 2, 3))).tolist()


def compose(rows: dict[str, Tensor], *, captions: list[str], cell: int) -> Image.Image:
    """Rows of images, each under its name, and wrapped captions under the last row.

    Args:
        rows: name → float [K,1,H,W] in [-1,1]; -1 is drawn black.
        captions: K texts.
        cell: width of an image in the picture; small images are enlarged.
    """
    font = ImageFont.load_default(FONT_SIZE)
    images = {name: _to_cells(tensor, width=cell) for name, tensor in rows.items()}
    first = next(iter(images.values()))
    count, height, width = first.shape
    texts = [wrap(caption, font=font, width=width) for caption in captions]
    line = FONT_SIZE + 3
    text_height = line * max((len(text) for text in texts), default=0)
    picture = Image.new(
        "L",
        (MARGIN + count * (width + MARGIN), len(rows) * (HEADER + height + MARGIN) + text_height + MARGIN),
        color=255,
    )
    draw = ImageDraw.Draw(picture)
    top = 0
    for name, cells in images.items():
        draw.text((MARGIN, top + 2), name, fill=0, font=font)
        for i, pixels in enumerate(cells):
            picture.paste(Image.fromarray(pixels), (MARGIN + i * (width + MARGIN), top + HEADER))
        top += HEADER + height + MARGIN
    for i, lines in enumerate(texts):
        for j, words in enumerate(lines):
            draw.text((MARGIN + i * (width + MARGIN), top + j * line), words, fill=0, font=font)
    return picture


def _to_cells(images: Tensor, *, width: int) -> np.ndarray:
    height = max(1, round(images.shape[-2] * width / images.shape[-1]))
    scaled = F.interpolate(images.detach().float().cpu(), size=(height, width), mode="bilinear", antialias=True)
    pixels = ((scaled[:, 0] + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return pixels.numpy()


def wrap(text: str, *, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Lines of `text` no wider than `width` pixels, at most `MAX_LINES`; words wider than a line are broken."""
    lines: list[str] = []
    current = ""
    for word in text.split():
        candidate = f"{current} {word}" if current else word
        if font.getlength(candidate) <= width:
            current = candidate
            continue
        if current:
            lines.append(current)
        while font.getlength(word) > width and len(word) > 1:
            fits = max((k for k in range(1, len(word)) if font.getlength(word[:k]) <= width), default=1)
            lines.append(word[:fits])
            word = word[fits:]
        current = word
    if current:
        lines.append(current)
    if len(lines) > MAX_LINES:
        last = lines[MAX_LINES - 1]
        while last and font.getlength(last + " ...") > width:
            last = last[:-1]
        lines = [*lines[: MAX_LINES - 1], last + " ..."]
    return lines


def save_picture(picture: Image.Image, path: Path, *, compress_level: int = 6) -> None:
    """Write a PNG under a temporary name, then move it into place; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    picture.save(temporary, format="PNG", compress_level=compress_level)
    os.replace(temporary, path)


def publish_picture(picture: Image.Image, trainer: Trainer, *, name: str, key: str, compress_level: int = 6) -> None:
    """Write `<default_root_dir>/pictures/<name>.png`, and give it to loggers that take images as `pictures/<key>`."""
    path = Path(trainer.default_root_dir) / "pictures" / f"{name}.png"
    save_picture(picture, path, compress_level=compress_level)
    for logger in trainer.loggers:
        if hasattr(logger, "log_image"):
            logger.log_image(key=f"pictures/{key}", images=[picture])
