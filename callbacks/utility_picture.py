"""The curves of `SyntheticUtility` as a picture: AUROC over the share of real images, a line for each ratio."""

import math
from collections.abc import Mapping

from PIL import Image, ImageDraw, ImageFont

from callbacks.metrics.utility import Cell, Estimate

SIZE, LEFT, TOP, BOTTOM, RIGHT = (760, 460), 64, 40, 64, 190
FONT_SIZE = 13
GREY = (225, 225, 225)
# Okabe and Ito's colours, which the colour-blind can tell apart.
COLOURS = ((0, 0, 0), (213, 94, 0), (0, 114, 178), (0, 158, 115), (204, 121, 167), (230, 159, 0), (86, 180, 233))
DODGE = 5  # pixels between the points of one share: their intervals would hide one another


def draw_curves(estimates: Mapping[Cell, Estimate]) -> Image.Image:
    """One point a cell with its interval where it has one; a dashed line at .5, what guessing gives.

    The shares stand at equal distances, as they are usually powers of ten with 0.
    """
    shares, ratios = (sorted({getattr(cell, name) for cell in estimates}) for name in ("share", "ratio"))
    # Student's interval of two seeds may go beyond 0 and 1.
    seen = [min(1.0, max(0.0, v)) for estimate in estimates.values() for v in estimate if math.isfinite(v)]
    low, high = math.floor(10 * min([0.5, *seen])) / 10, math.ceil(10 * max([0.6, *seen])) / 10
    width, height = SIZE[0] - LEFT - RIGHT, SIZE[1] - TOP - BOTTOM
    picture = Image.new("RGB", SIZE, "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(FONT_SIZE)

    def across(share: float) -> float:
        return LEFT + width * (shares.index(share) + 0.5) / len(shares)

    def down(value: float) -> float:
        return TOP + height * (high - value) / (high - low)

    draw.text((LEFT, 12), "macro AUROC on real test images, 95 % over seeds", fill="black", font=font)
    for step in range(round(low * 20), round(high * 20) + 1):
        y = down(step / 20)
        draw.line((LEFT, y, LEFT + width, y), fill=GREY)
        draw.text((LEFT - 8, y), f"{step / 20:.2f}", fill="black", font=font, anchor="rm")
    for dash in range(LEFT, LEFT + width, 8):
        draw.line((dash, down(0.5), dash + 3, down(0.5)), fill="black")
    for share in shares:
        draw.text((across(share), TOP + height + 8), f"{100 * share:g} %", fill="black", font=font, anchor="ma")
    label = "share of the real training images"
    draw.text((LEFT + width / 2, TOP + height + 32), label, fill="black", font=font, anchor="ma")
    for i, ratio in enumerate(ratios):
        colour = COLOURS[i % len(COLOURS)]
        aside = DODGE * (i - (len(ratios) - 1) / 2)
        points = []
        for share in shares:
            estimate = estimates.get(Cell(share, ratio))
            if estimate is None or not math.isfinite(estimate.mean):
                continue
            x, y = across(share) + aside, down(estimate.mean)
            points.append((x, y))
            if math.isfinite(estimate.low):
                ends = down(max(low, estimate.low)), down(min(high, estimate.high))
                draw.line((x, ends[0], x, ends[1]), fill=colour, width=2)
            draw.ellipse((x - 4, y - 4, x + 4, y + 4), fill=colour)
        if len(points) > 1:
            draw.line(points, fill=colour, width=2)
        y = TOP + 12 + 22 * i
        draw.line((SIZE[0] - RIGHT + 16, y, SIZE[0] - RIGHT + 40, y), fill=colour, width=3)
        text = f"+ {ratio:g} x synthetic" if ratio else "real alone"
        draw.text((SIZE[0] - RIGHT + 48, y), text, fill="black", font=font, anchor="lm")
    return picture
