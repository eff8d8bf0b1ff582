"""Composes explanations: a band an image with its tiles, what each says below it, and the report with its words marked.

Below a tile stand the word, what the report says of it and the evidence of the image, and the cosines that its colours
run over.
"""

import dataclasses
import functools
import math
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from callbacks.grids import MARGIN, wrap
from callbacks.overlays import (
    OUTLINE,
    clue_tile,
    clue_words,
    colours,
    probability,
    radiograph,
    ring,
    word_tile,
)
from callbacks.protocols import ClueOrigin, WordMap

FONT_SIZE = 13
LINE = FONT_SIZE + 4
MAX_LINES = 14  # of a report, over the whole width
WORD = re.compile(r"\S+")
Ink = tuple[int, int, int]
BLACK: Ink = (0, 0, 0)
WHITE: Ink = (255, 255, 255)
# How each status is written below a tile, before the word and after it.
STATUS: dict[str, tuple[Ink, str, str]] = {
    "present": (BLACK, "", "stated"),
    "uncertain": ((150, 85, 0), "? ", "doubtful"),
    "absent": ((115, 115, 115), "no ", "denied"),
}


@dataclasses.dataclass(frozen=True)
class Explained:
    """What one band shows.

    Attributes:
        title: the image's id.
        image: float [H,W] in [-1,1].
        report: the text.
        maps: one a tile, in this order.
        regions: for each map bool [H,W], where its finding was marked; None where nobody marked it.
        clues: key patches that the report fetched; one tile more if there are any.
    """

    title: str
    image: Tensor
    report: str
    maps: Sequence[WordMap]
    regions: Sequence[Tensor | None]
    clues: Sequence[ClueOrigin] = ()


@dataclasses.dataclass(frozen=True)
class Piece:
    """A word of a line of the report: its text, colour, and whether a tile shows it."""

    text: str
    ink: Ink = BLACK
    shown: bool = False


def compose_explanations(explained: Sequence[Explained], *, cell: int, columns: int) -> Image.Image:
    """One band an image under a common legend, RGB.

    Args:
        explained: at least one.
        cell: width of a tile in pixels.
        columns: tiles side by side.
    """
    width = MARGIN + columns * (cell + MARGIN)
    marked = any(region is not None for one in explained for region in one.regions)
    bands = [_legend(width, marked=marked), *(_band(one, cell=cell, columns=columns, width=width) for one in explained)]
    picture = Image.new("RGB", (width, sum(band.height for band in bands)), color=WHITE)
    top = 0
    for band in bands:
        picture.paste(band, (0, top))
        top += band.height
    return picture


def report_lines(one: Explained, *, width: int) -> list[list[Piece]]:
    """The report in lines no wider than `width` pixels, at most `MAX_LINES`; words that a tile shows are marked."""
    font, used = _font(), 0.0
    lines: list[list[Piece]] = [[]]
    space = font.getlength(" ")
    for match in WORD.finditer(one.report or "(no report)"):
        status = next((m.status for m in one.maps if match.start() < m.span[1] and match.end() > m.span[0]), None)
        needed = font.getlength(match.group())
        if lines[-1] and used + needed > width:
            lines.append([])
            used = 0.0
        lines[-1].append(Piece(match.group(), STATUS[status or "present"][0], status is not None))
        used += needed + space
    if len(lines) > MAX_LINES:
        lines = [*lines[: MAX_LINES - 1], [*lines[MAX_LINES - 1][:-1], Piece("...")]]
    return [line for line in lines if line]


def caption(word: WordMap) -> list[str]:
    """Three lines: the word as the report means it, status and evidence, the cosines of the colours' ends."""
    _, before, said = STATUS[word.status]
    name = f"{word.side} {word.word}" if word.side and word.kind == "pathology" else word.word
    said = "named" if word.kind == "anatomy" else said
    low, high = float(word.heat.median()), float(word.heat.max())
    evidence = f"evidence {100 * probability(word.evidence):.0f} %"
    return [f"{before}{name}", f"{said}; {evidence}", f"cosine {low:.2f} to {high:.2f}"]


def clue_caption(clues: Sequence[ClueOrigin]) -> list[tuple[str, Ink]]:
    """A heading, and for each word that fetched key patches how many cells they fill and how well the best fits."""
    cells = Counter[str]()
    best: dict[str, float] = {}
    for clue in clues:
        cells[clue.word] += len(clue.positions)
        best[clue.word] = max(best.get(clue.word, -1.0), clue.score)
    # Dark enough to be read on white.
    ink = {word: (r * 6 // 10, g * 6 // 10, b * 6 // 10) for word, (r, g, b) in clue_words(clues).items()}
    lines = [(f"{word}: {cells[word]}; {best[word]:.2f}", ink[word]) for word in ink]
    return [("key patches by word: cells; best cosine", BLACK), *lines]


def _legend(width: int, *, marked: bool) -> Image.Image:
    bar = Image.fromarray(np.repeat(colours(np.linspace(0, 1, 90))[None], FONT_SIZE, axis=0))
    parts = [
        ("", "colour: cosine with the word, from its median"),
        ("bar", "to its highest in this image, each word for itself"),
        ("", "fainter: less evidence in the image"),
        ("ring", "highest"),
    ]
    parts += [("box", "marked region")] if marked else []
    room = {"bar": 96, "ring": 22, "box": 22, "": 0}
    font, place = _font(), []
    left, top = MARGIN, MARGIN
    for sign, text in parts:
        needed = room[sign] + math.ceil(font.getlength(text))
        if left + needed > width and left > MARGIN:
            left, top = MARGIN, top + LINE
        place.append((left, top))
        left += needed + 10
    picture = Image.new("RGB", (width, top + LINE + MARGIN), color=WHITE)
    draw = ImageDraw.Draw(picture)
    for (sign, text), (left, top) in zip(parts, place, strict=True):
        if sign == "bar":
            picture.paste(bar, (left, top + 2))
        elif sign == "ring":
            ring(draw, left + 9, top + 8, radius=6)
        elif sign == "box":
            draw.rectangle((left + 2, top + 2, left + 15, top + 14), outline=OUTLINE, fill=(90, 90, 90), width=2)
        draw.text((left + room[sign], top), text, fill=BLACK, font=font)
    return picture


def _band(one: Explained, *, cell: int, columns: int, width: int) -> Image.Image:
    tiles = [Image.fromarray(radiograph(one.image, size=cell))]
    below: list[list[tuple[str, Ink]]] = [[("radiograph", BLACK)]]
    for word, region in zip(one.maps, one.regions, strict=True):
        tiles.append(word_tile(one.image, word, region, size=cell))
        below.append(_wrapped([(text, STATUS[word.status][0]) for text in caption(word)], width=cell))
    if one.clues:
        tiles.append(clue_tile(one.image, one.clues, size=cell))
        below.append(_wrapped(clue_caption(one.clues), width=cell))
    lines = report_lines(one, width=width - 2 * MARGIN)
    rows = [range(start, min(start + columns, len(tiles))) for start in range(0, len(tiles), columns)]
    heights = [cell + LINE * max(len(below[i]) for i in row) + MARGIN for row in rows]
    above = LINE + MARGIN
    picture = Image.new("RGB", (width, above + sum(heights) + LINE * len(lines) + 2 * MARGIN), color=WHITE)
    draw = ImageDraw.Draw(picture)
    draw.line((0, 0, width, 0), fill=(190, 190, 190))
    draw.text((MARGIN, 3), _cut(one.title, width=width - 2 * MARGIN), fill=BLACK, font=_font())
    top = above
    for row, height in zip(rows, heights, strict=True):
        for column, i in enumerate(row):
            left = MARGIN + column * (cell + MARGIN)
            picture.paste(tiles[i], (left, top))
            for j, (text, ink) in enumerate(below[i]):
                draw.text((left, top + cell + 2 + j * LINE), text, fill=ink, font=_font())
        top += height
    _write_report(draw, lines, top=top)
    return picture


def _write_report(draw: ImageDraw.ImageDraw, lines: list[list[Piece]], *, top: int) -> None:
    font = _font()
    for j, line in enumerate(lines):
        left, y = float(MARGIN), top + j * LINE
        for piece in line:
            end = left + font.getlength(piece.text)
            draw.text((left, y), piece.text, fill=piece.ink, font=font)
            if piece.shown:
                draw.line((left, y + LINE - 2, end, y + LINE - 2), fill=piece.ink)
            left = end + font.getlength(" ")


def _wrapped(lines: list[tuple[str, Ink]], *, width: int) -> list[tuple[str, Ink]]:
    return [(part, ink) for text, ink in lines for part in wrap(text, font=_font(), width=width)]


def _cut(text: str, *, width: int) -> str:
    """The text, or as much of it and "..." as `width` pixels hold."""
    font = _font()
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."


@functools.cache
def _font() -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(FONT_SIZE)
