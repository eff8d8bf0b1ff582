"""Tiles of an explanation: a radiograph, a word's heat map over it, and the cells of its clues.

Tiles are uint8 [S,S,3] or RGB pictures of that size. H × W pixels of an image, S the width of a tile.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from callbacks.protocols import ClueOrigin, WordMap

# Ten points of matplotlib's "plasma" (CC0), which is perceptually uniform: equal steps of the value look equally large.
# Its hues stand out of a grey picture.
RAMP = np.array(
    [
        (13, 8, 135), (71, 3, 159), (115, 1, 168), (156, 23, 158), (189, 55, 134),
        (216, 87, 107), (237, 121, 83), (250, 158, 59), (253, 201, 38), (240, 249, 33),
    ],
    dtype=np.float64,
)  # fmt: skip
OPACITY = 0.65  # at a peak with full evidence: the radiograph must stay visible below
FAINTEST = 0.15  # share of it that is left without any evidence
OUTLINE = (0, 255, 255)  # no colour of the ramp comes near it
# The bright ones of Okabe and Ito's colours, which the colour-blind tell apart; a word each, in turn.
WORD_COLOURS = ((230, 159, 0), (86, 180, 233), (0, 200, 140), (240, 228, 66), (255, 110, 40), (230, 140, 200))


def colours(share: np.ndarray) -> np.ndarray:
    """The ramp's colours at float [...] in [0,1], uint8 [...,3]."""
    steps = np.linspace(0, 1, len(RAMP))
    return np.stack([np.interp(share, steps, RAMP[:, c]) for c in range(3)], axis=-1).round().astype(np.uint8)


def strength(heat: Tensor) -> Tensor:
    """Where a map lies between its median (0, and all below) and its highest value (1): float [H,W] → float [H,W].

    So half of the pixels stay clear; a map that is the same everywhere is clear throughout.
    """
    heat = heat.float()
    low, high = heat.median(), heat.max()
    return ((heat - low) / (high - low).clamp_min(1e-6)).clamp(0, 1)


def probability(logit: float) -> float:
    """The logistic function, for logits of any size."""
    return 0.5 * (1 + math.tanh(logit / 2))


def radiograph(image: Tensor, *, size: int) -> np.ndarray:
    """Float [H,W] in [-1,1] → uint8 [S,S,3]."""
    return np.repeat(_grey(image, size=size)[..., None], 3, axis=-1).round().astype(np.uint8)


def overlay(image: Tensor, word: WordMap, *, size: int) -> np.ndarray:
    """The heat map over the radiograph, the fainter the less evidence the image gives, uint8 [S,S,3].

    Args:
        image: float [H,W] in [-1,1].
        word: its map has the same shape.
        size: S.
    """
    share = _enlarged(strength(word.heat), size=size)
    opacity = OPACITY * (FAINTEST + (1 - FAINTEST) * probability(word.evidence))
    alpha = (opacity * share)[..., None]  # what is low in the map stays clear
    return (alpha * colours(share) + (1 - alpha) * _grey(image, size=size)[..., None]).round().astype(np.uint8)


def outline(region: Tensor, *, size: int, width: int = 2) -> np.ndarray:
    """The inner border, `width` pixels wide, of a region: bool [H,W] → bool [S,S]."""
    whole = F.interpolate(region[None, None].float(), size=(size, size), mode="nearest")[0]
    # Beyond the picture counts as inside, so that a region at its border is not closed by a line there.
    reach = 2 * width + 1
    outside = F.max_pool2d(F.pad(1 - whole, (width,) * 4), reach, stride=1)
    return ((whole > 0) & (outside > 0))[0].numpy()


def word_tile(image: Tensor, word: WordMap, region: Tensor | None, *, size: int) -> Image.Image:
    """The overlay with the region's outline and a ring around the peak."""
    pixels = overlay(image, word, size=size)
    if region is not None:
        pixels[outline(region, size=size)] = OUTLINE
    tile = Image.fromarray(pixels)
    ring(ImageDraw.Draw(tile), word.peak[0] * size, word.peak[1] * size, radius=max(4, size // 28))
    return tile


def ring(draw: ImageDraw.ImageDraw, x: float, y: float, *, radius: float) -> None:
    """A white ring with a black rim, to be seen on any ground."""
    for more, ink, width in ((1, (0, 0, 0), 4), (0, (255, 255, 255), 2)):
        reach = radius + more
        draw.ellipse((x - reach, y - reach, x + reach, y + reach), outline=ink, width=width)


def clue_words(clues: Sequence[ClueOrigin]) -> dict[str, tuple[int, int, int]]:
    """The words that fetched clues, in order, each with its colour."""
    words = list(dict.fromkeys(clue.word for clue in clues))
    return {word: WORD_COLOURS[i % len(WORD_COLOURS)] for i, word in enumerate(words)}


def clue_tile(image: Tensor, clues: Sequence[ClueOrigin], *, size: int) -> Image.Image:
    """Over the darkened radiograph the grid of codes, and the cells that clues fill in the colour of their word.

    A clue keeps the place that it had in the training image, of which no pixel is drawn. `clues` holds at least one.
    """
    tile = Image.fromarray((radiograph(image, size=size) * 0.6).astype(np.uint8))
    draw = ImageDraw.Draw(tile, "RGBA")
    ink = clue_words(clues)
    for line in range(1, clues[0].grid):
        at = line * size / clues[0].grid
        draw.line((at, 0, at, size), fill=(255, 255, 255, 40))
        draw.line((0, at, size, at), fill=(255, 255, 255, 40))
    for clue in clues:
        edge = size / clue.grid
        for position in clue.positions:
            row, column = divmod(position, clue.grid)
            corners = (column * edge, row * edge, (column + 1) * edge - 1, (row + 1) * edge - 1)
            draw.rectangle(corners, fill=(*ink[clue.word], 110), outline=(*ink[clue.word], 255), width=2)
    return tile


def _grey(image: Tensor, *, size: int) -> np.ndarray:
    return ((_enlarged(image, size=size) + 1) * 127.5).clip(0, 255)


def _enlarged(values: Tensor, *, size: int) -> np.ndarray:
    scaled = F.interpolate(values[None, None].detach().float(), size=(size, size), mode="bilinear", antialias=True)
    return scaled[0, 0].numpy()
