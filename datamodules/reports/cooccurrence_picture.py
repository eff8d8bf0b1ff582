"""A picture of the vocabulary: which anatomy the reports name for which pathology."""

from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from datamodules.files import replacing
from datamodules.reports.counting import ANY
from datamodules.reports.keywords import SIDES
from datamodules.reports.vocabulary import Vocabulary

CELL = (46, 24)  # width and height in pixels: four digits fit
FONT_SIZE = 14
MARGIN = 12
# White to dark blue; the numbers turn white where the cell is dark.
LIGHT, DARK = np.array([255, 255, 255]), np.array([8, 48, 107])
TITLE = (
    "Reports that state the pathology of the column in a sentence that names the anatomy of the row",
    "(left, right and both together). Behind each pathology: the reports that state it; shade: the share of these.",
)


def cooccurrence_table(vocabulary: Vocabulary, *, words: int) -> tuple[list[str], list[str], np.ndarray]:
    """The most frequent part of the co-occurrence, the sides of an anatomy word added up.

    Returns:
        Anatomy words without sides, most often named for a pathology first; pathology words, most often stated first;
        int64 [anatomy, pathology] reports.
    """
    stated = {e.word: e.stated for e in vocabulary.entries.values() if e.kind == "pathology" and e.stated}
    columns = sorted(stated, key=lambda word: (-stated[word], word))[:words]
    cells: dict[str, Counter[str]] = {}
    for anatomy, table in vocabulary.cooccurrence.items():
        side, _, bare = anatomy.partition(" ")
        row = cells.setdefault(bare if side in SIDES else anatomy, Counter())
        for pathology, findings in table.items():
            row[pathology] += findings[ANY]
    totals = {word: sum(row[column] for column in columns) for word, row in cells.items()}
    rows = sorted((word for word in totals if totals[word]), key=lambda word: (-totals[word], word))[:words]
    counts = np.array([[cells[row][column] for column in columns] for row in rows], dtype=np.int64)
    return rows, columns, counts.reshape(len(rows), len(columns))


def draw_cooccurrence(vocabulary: Vocabulary, *, words: int = 24) -> Image.Image:
    """The table as a heat map with the numbers in it.

    Args:
        vocabulary: what is drawn.
        words: at most so many rows and columns.
    """
    rows, columns, counts = cooccurrence_table(vocabulary, words=words)
    font = ImageFont.load_default(FONT_SIZE)
    names = [f"{column} ({vocabulary.entries[column].stated})" for column in columns]
    left = 2 * MARGIN + round(max((font.getlength(row) for row in rows), default=0))
    head = MARGIN + len(TITLE) * (FONT_SIZE + 6)
    top = head + MARGIN + round(max((font.getlength(name) for name in names), default=0))
    width = max(left + len(columns) * CELL[0], round(max(font.getlength(line) for line in TITLE)) + MARGIN) + MARGIN
    picture = Image.new("RGB", (width, top + len(rows) * CELL[1] + MARGIN), "white")
    draw = ImageDraw.Draw(picture)
    for i, line in enumerate(TITLE):
        draw.text((MARGIN, MARGIN + i * (FONT_SIZE + 6)), line, fill="black", font=font)
    for j, name in enumerate(names):
        label = _upright(name, font)
        picture.paste(label, (left + j * CELL[0] + (CELL[0] - label.width) // 2, top - label.height - 4))
    for i, row in enumerate(rows):
        y = top + i * CELL[1]
        draw.text((left - 6, y + CELL[1] // 2), row, fill="black", font=font, anchor="rm")
        for j, column in enumerate(columns):
            x = left + j * CELL[0]
            # The square root keeps rare pairs visible.
            share = (counts[i, j] / vocabulary.entries[column].stated) ** 0.5
            colour = tuple(np.round(LIGHT + min(1.0, share) * (DARK - LIGHT)).astype(int).tolist())
            draw.rectangle((x, y, x + CELL[0] - 1, y + CELL[1] - 1), fill=colour, outline=(225, 225, 225))
            if counts[i, j]:
                ink = "white" if share > 0.55 else "black"
                middle = (x + CELL[0] // 2, y + CELL[1] // 2)
                draw.text(middle, _short(int(counts[i, j])), fill=ink, font=font, anchor="mm")
    return picture


def save_cooccurrence(vocabulary: Vocabulary, path: Path) -> None:
    """Write the heat map as a PNG under a temporary name, then rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        draw_cooccurrence(vocabulary).save(temporary, format="PNG")


def _upright(text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> Image.Image:
    label = Image.new("RGB", (round(font.getlength(text)) + 2, FONT_SIZE + 6), "white")
    ImageDraw.Draw(label).text((0, 1), text, fill="black", font=font)
    return label.rotate(90, expand=True)


def _short(count: int) -> str:
    return str(count) if count < 10_000 else f"{count / 1000:.0f}k"
