"""Several small line charts in one picture."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

SIZE, MARGIN, FONT_SIZE, COLUMNS = (300, 220), 44, 12, 3
# Okabe and Ito's colours, which the colour-blind can tell apart.
COLOURS = ((213, 94, 0), (0, 114, 178), (0, 158, 115), (204, 121, 167), (230, 159, 0), (86, 180, 233), (0, 0, 0))


@dataclass(frozen=True)
class Chart:
    """One chart: lines over equally distant steps, each of them by its name."""

    title: str
    lines: Mapping[str, Sequence[float]]


def draw(charts: Sequence[Chart], path: Path) -> None:
    """Draw the charts in rows of three, and what the colours stand for in the place after the last."""
    rows = math.ceil((len(charts) + 1) / COLUMNS)
    picture = Image.new("RGB", (COLUMNS * SIZE[0], rows * SIZE[1]), "white")
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(FONT_SIZE)
    for place, chart in enumerate(charts):
        _draw_one(pen, font, chart, (place % COLUMNS * SIZE[0], place // COLUMNS * SIZE[1]))
    left, top = len(charts) % COLUMNS * SIZE[0] + MARGIN, len(charts) // COLUMNS * SIZE[1] + MARGIN
    for i, name in enumerate(dict.fromkeys(name for chart in charts for name in chart.lines)):
        y = top + 20 * i
        pen.line((left, y, left + 24, y), fill=COLOURS[i % len(COLOURS)], width=3)
        pen.text((left + 32, y), name, fill="black", font=font, anchor="lm")
    picture.save(path)


def _draw_one(
    pen: ImageDraw.ImageDraw, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, chart: Chart, corner: tuple[int, int]
) -> None:
    values = [value for line in chart.lines.values() for value in line if math.isfinite(value)]
    low, high = min(values), max(values)
    span = high - low or 1.0
    left, top = corner[0] + MARGIN, corner[1] + MARGIN // 2 + 10
    width, height = SIZE[0] - MARGIN - 16, SIZE[1] - MARGIN - 30
    pen.text((left, corner[1] + 8), chart.title, fill="black", font=font)
    pen.rectangle((left, top, left + width, top + height), outline=(200, 200, 200))
    for value in (low, high):
        y = top + height * (1 - (value - low) / span)
        pen.text((left - 4, y), f"{value:.3g}", fill="black", font=font, anchor="rm")
    for i, line in enumerate(chart.lines.values()):
        points = [
            (left + width * step / max(1, len(line) - 1), top + height * (1 - (value - low) / span))
            for step, value in enumerate(line)
            if math.isfinite(value)
        ]
        for x, y in points:
            pen.ellipse((x - 2, y - 2, x + 2, y + 2), fill=COLOURS[i % len(COLOURS)])
        if len(points) > 1:
            pen.line(points, fill=COLOURS[i % len(COLOURS)], width=2)
