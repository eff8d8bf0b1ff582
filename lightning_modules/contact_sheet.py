"""Written samples side by side in one picture."""

import math
import os
from pathlib import Path

import numpy as np
from PIL import Image


def write_contact_sheet(images: list[Path], path: Path) -> None:
    """Write greyscale pictures of one size, row by row in a square, as a PNG; under a temporary name first."""
    pixels = [np.asarray(Image.open(image)) for image in images]
    columns = math.ceil(math.sqrt(len(pixels)))
    size = pixels[0].shape[0]
    sheet = np.zeros((math.ceil(len(pixels) / columns) * size, columns * size), dtype=np.uint8)
    for i, image in enumerate(pixels):
        top, left = i // columns * size, i % columns * size
        sheet[top : top + size, left : left + size] = image
    temporary = path.with_name("." + path.name + ".tmp")
    Image.fromarray(sheet).save(temporary, format="PNG")
    os.replace(temporary, path)
