"""NIH's BBox_List_2017.csv: where eight of the findings are, on 880 of the images.

The header's nine fields are "Image Index,Finding Label,Bbox [x,y,w,h],,,", the rows have six. "Infiltrate" stands for
"Infiltration".
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from datamodules.layouts.source import find_file, read_csv, with_gz
from datamodules.manifest import Box, Remark, encode_boxes

BOX_FILE = "BBox_List_2017.csv"
# Boxes are in pixels of the published 1024 × 1024 images, whatever the size of the copy at hand.
PUBLISHED_SIZE = 1024.0
# Annotators' rounding puts a few edges a pixel outside: so much, in fractions, is cut off.
ROUNDING = 0.01


def read_boxes(
    folder: Path, *, finding_of: Mapping[str, str | None], named: Mapping[str, str]
) -> tuple[dict[str, str], list[Remark], list[Remark]]:
    """The boxes of each image, as `encode_boxes` writes them.

    Args:
        folder: that holds the file, gzipped or not; without it there are no boxes.
        finding_of: NIH's name of a finding → CheXpert's.
        named: image id → NIH's findings of its row, joined by "|".

    Returns:
        (image id → boxes, boxes that are left out, boxes that are odd).

    Raises:
        ValueError: naming file and row, for a finding without a CheXpert name or an edge that is no number.
    """
    path = find_file(folder, with_gz(BOX_FILE))
    if path is None:
        return {}, [], []
    # Columns 2 to 5 are x, y, w, h whatever a copy calls them.
    table = read_csv(path, first=6)
    table.columns = pd.Index(["image", "finding", "x", "y", "w", "h"])
    image = table["image"].str.rsplit(".", n=1).str[0]
    source = table["finding"].replace("Infiltrate", "Infiltration")
    finding = source.map(finding_of)
    wrong = np.flatnonzero(finding.isna())
    if len(wrong):
        row = int(wrong[0])
        raise ValueError(
            f"{path}: row {row + 2}: finding {table['finding'].iloc[row]!r} has no CheXpert label; known are "
            f"{sorted(name for name, label in finding_of.items() if label)}; mend the row"
        )
    numbers = table[["x", "y", "w", "h"]].apply(pd.to_numeric, errors="coerce")
    wrong = np.flatnonzero(numbers.isna().any(axis=1))
    if len(wrong):
        row = int(wrong[0])
        raise ValueError(
            f"{path}: row {row + 2}: box {table.iloc[row, 2:].tolist()} is not four numbers x, y, w, h; mend the row"
        )
    x, y, w, h = (numbers[name].to_numpy() for name in numbers)
    edges = np.stack([x, y, x + w, y + h], axis=1) / PUBLISHED_SIZE
    outside = (edges < -ROUNDING).any(axis=1) | (edges > 1 + ROUNDING).any(axis=1) | (w <= 0) | (h <= 0)
    known = image.isin(list(named)).to_numpy()
    again = table.duplicated().to_numpy() & known & ~outside
    kept = known & ~outside & ~again
    beyond = kept & ((edges < 0) | (edges > 1)).any(axis=1)
    contrary = [
        name not in named[one].split("|") if take else False
        for one, name, take in zip(image, source, kept, strict=True)
    ]
    boxes: dict[str, list[Box]] = {}
    for index in np.flatnonzero(kept):
        box = Box(finding.iloc[index], *np.clip(edges[index], 0.0, 1.0).tolist())
        boxes.setdefault(image.iloc[index], []).append(box)
    mend = f"mend or remove the row of {BOX_FILE}"
    drops = [
        Remark("box that is not inside the 1024 × 1024 picture", tuple(image[outside]), "error", mend),
        Remark("box given twice", tuple(image[again]), "error", mend),
        Remark("box of a picture that no row of the table names", tuple(image[~known & ~outside]), "error", mend),
    ]
    notes = [
        Remark("box that reaches up to 1 % over the edge: cut off", tuple(image[beyond]), "note"),
        Remark("box of a finding that the picture's row does not name", tuple(image[contrary]), "warning", mend),
    ]
    return {one: encode_boxes(found) for one, found in boxes.items()}, drops, notes
