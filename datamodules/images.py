"""Decoding radiographs: any picture of a data set as grey pixels of one size, and where each finding is, as masks.

`read_image` is the only place that decodes a picture. What it cannot read is an error, never a black image.
"""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, BinaryIO

import fsspec
import numpy as np
from PIL import Image, UnidentifiedImageError

from datamodules.jpeg import decode_grey, refuse_damaged
from datamodules.manifest import Box, decode_boxes
from datamodules.reports.labels import FINDINGS

if TYPE_CHECKING:
    from datamodules.phantom.study import Study

PHANTOM = "phantom:"
DICOM = (".dcm", ".dicom")
# What `fit` does, for the protocol of what is measured on the images. Pillow's filters widen when they shrink.
RESIZE = {"square": "padded with black", "filter": "Pillow Lanczos", "antialias": True, "bits": 8}


def read_image(reference: str, *, size: int) -> np.ndarray:
    """One radiograph, grey: uint8 [size, size].

    A picture that is not square is padded with black to a centred square: nothing is cut off, nothing is stretched.
    Pixels are taken as they are stored: an EXIF orientation, by which a viewer turns or mirrors a JPEG or PNG, is not
    applied, since labels and boxes were made for the stored ones (`python -m datamodules doctor` names such files). Of
    a TIFF the orientation is part of the format, and is applied.
    Eight bits are taken as they are; 16 bits and floats are scaled: the smallest value becomes 0, the largest 255. A
    DICOM is shown as its own VOI window and photometric interpretation say, see `datamodules.dicom`.

    Args:
        reference: path or fsspec URL of a picture that Pillow reads or of a DICOM, or "phantom:<seed>:<index>".
        size: side in pixels.

    Raises:
        ValueError: naming the file, when it is missing, cut off, damaged, no picture, or of more than 8 bits all equal.
    """
    if reference.startswith(PHANTOM):
        from datamodules.phantom import render

        return _checked(render.render(_phantom(reference), size=size), reference, size)
    with open_image(reference) as file:
        grey = decode(file, reference=reference, size=size)
    return _checked(fit(grey, size=size), reference, size)


def open_image(reference: str) -> BinaryIO:
    """A picture's bytes, from disk or from an fsspec URL.

    Raises:
        ValueError: naming it, when it is missing or may not be read.
    """
    try:
        if "://" in reference:
            # Remote files are read whole: a decoder's many small reads would each be a request.
            with fsspec.open(reference, "rb") as remote:
                return io.BytesIO(remote.read())
        return open(reference, "rb")
    except FileNotFoundError as error:
        raise ValueError(f"{reference}: there is no such image; mend the path in the table, or the root") from error
    except OSError as error:
        raise ValueError(f"{reference}: cannot be opened ({error}); mend its permissions or fetch it again") from error


def decode(file: BinaryIO, *, reference: str, size: int) -> Image.Image:
    """A grey picture of mode "L" whose longer side is at least `size` where the source's is.

    Damage is an error as far as a format lets it be seen. PNG has checksums, so that every wrong byte is; of JPEG see
    `datamodules.jpeg`, of DICOM `datamodules.dicom`. TIFF and what else Pillow reads have none: a hole that still
    decodes is taken for the picture.

    Args:
        file: at the start of the picture.
        reference: its name; the suffix tells a DICOM.
        size: what it will be resized to: a JPEG is decoded no larger than this needs.

    Raises:
        ValueError: naming the file, for what is no picture, is cut off or damaged, or is of more than 8 bits that are
            all equal.
    """
    if reference.lower().endswith(DICOM):
        from datamodules.dicom import read_dicom

        return Image.fromarray(read_dicom(file, reference=reference))
    try:
        data = file.read()
        _refuse_damaged_png(data)
        with Image.open(io.BytesIO(data)) as picture:
            # A JPEG decodes at 1/2, 1/4 or 1/8 for little; twice the wanted side keeps 56 dB to the full decode.
            picture.draft("L", (2 * size, 2 * size))
            # MPO: a camera's JPEG with a second one behind it.
            if picture.format in ("JPEG", "MPO"):
                if picture.mode != "L":
                    # Four inks, which Pillow makes grey otherwise than simplejpeg does.
                    refuse_damaged(data)
                elif (pixels := decode_grey(data, width=picture.width, height=picture.height)) is not None:
                    return Image.fromarray(pixels)
            return _grey(picture, reference)
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(
            f"{reference}: cannot be read as an image ({error}); fetch it again, or take its row out of the table"
        ) from error


def fit(grey: Image.Image, *, size: int) -> np.ndarray:
    """A picture of mode "L" padded to a centred square and resized: uint8 [size, size]."""
    width, height = grey.size
    side = max(width, height)
    if width != height:
        square = Image.new("L", (side, side), 0)
        square.paste(grey, ((side - width) // 2, (side - height) // 2))
        grey = square
    if side != size:
        grey = grey.resize((size, size), Image.Resampling.LANCZOS)
    return np.array(grey, dtype=np.uint8)


def picture_size(reference: str) -> tuple[int, int]:
    """Width and height in pixels, from the header alone.

    Raises:
        ValueError: naming the file, when it is missing or no picture.
    """
    if reference.lower().endswith(DICOM):
        from datamodules.dicom import dicom_size

        with open_image(reference) as file:
            return dicom_size(file, reference=reference)
    try:
        with open_image(reference) as file, Image.open(file) as picture:
            return picture.size
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(f"{reference}: cannot be read as an image ({error}); fetch it again") from error


def read_masks(
    reference: str, *, boxes: str | Sequence[Box], size: int, shape: tuple[int, int] | None = None
) -> np.ndarray:
    """Where each finding is: bool [14, size, size], all False where that is not known.

    Args:
        reference: as in `read_image`; a phantom has its own masks.
        boxes: the manifest's `boxes` of the row. A box covers the pixels whose centres lie in it.
        size: side in pixels.
        shape: the picture's width and height; None reads them from its header.
    """
    if reference.startswith(PHANTOM):
        from datamodules.phantom import render

        return np.asarray(render.masks(_phantom(reference), size=size), dtype=bool)
    masks = np.zeros((len(FINDINGS), size, size), dtype=bool)
    found = decode_boxes(boxes) if isinstance(boxes, str) else boxes
    if not found:
        return masks
    width, height = shape or picture_size(reference)
    side = max(width, height)
    centres = (np.arange(size) + 0.5) / size
    for box in found:
        # Boxes are fractions of the picture; the padding of read_image moves and shrinks them.
        left, right = ((x * width + (side - width) // 2) / side for x in (box.x0, box.x1))
        top, bottom = ((y * height + (side - height) // 2) / side for y in (box.y0, box.y1))
        inside = ((centres >= top) & (centres < bottom))[:, None] & ((centres >= left) & (centres < right))[None, :]
        masks[FINDINGS.index(box.finding)] |= inside
    return masks


def scale_to_bytes(values: np.ndarray, *, reference: str) -> np.ndarray:
    """Pixels of any depth as uint8 of the same shape: the smallest value becomes 0, the largest 255.

    Args:
        values: float32 [H,W].
        reference: the file, for the message.

    Raises:
        ValueError: when a pixel is not finite, or all are equal.
    """
    bad = int((~np.isfinite(values)).sum())
    if bad:
        raise ValueError(f"{reference}: {bad} of {values.size} pixels are not finite; fetch the image again")
    low, high = float(values.min()), float(values.max())
    if low == high:
        raise ValueError(f"{reference}: every pixel is {low:g}, there is nothing in it; take its row out of the table")
    return np.round((values - low) * (255.0 / (high - low))).astype(np.uint8)


def _refuse_damaged_png(data: bytes) -> None:
    if data.startswith(b"\x89PNG"):
        # Pillow looks at the checksums only when asked, and of a picture that it will not decode after that.
        with Image.open(io.BytesIO(data)) as picture:
            picture.verify()


def _grey(picture: Image.Image, reference: str) -> Image.Image:
    if picture.mode not in ("F", "I") and not picture.mode.startswith("I;16"):
        return picture.convert("L")
    return Image.fromarray(scale_to_bytes(np.asarray(picture, dtype=np.float32), reference=reference))


def _phantom(reference: str) -> "Study":
    # Imported where it is used: pictures on disk need nothing of it.
    from datamodules.layouts.phantom import parse_reference
    from datamodules.phantom.study import study

    return study(*parse_reference(reference))


def _checked(pixels: np.ndarray, reference: str, size: int) -> np.ndarray:
    if pixels.dtype != np.uint8 or pixels.shape != (size, size):
        raise ValueError(f"{reference}: expected uint8 {(size, size)} and found {pixels.dtype} {pixels.shape}")
    return pixels
