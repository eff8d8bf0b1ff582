"""Several readers' boxes of one picture merged: those that overlap are averaged, and kept where enough agree."""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from datamodules.manifest import Box, Level, Remark, encode_boxes

OVERLAP = 0.4  # intersection over union from which two readers' boxes are of one thing
# Edges may lie this far outside the picture, in its width or height: readers drew on a screen.
MARGIN = 0.01
EDGES = ["x_min", "y_min", "x_max", "y_max"]

Edges = tuple[float, float, float, float]


def merge(boxes: Sequence[tuple[str, Edges]], *, needed: int) -> list[Edges]:
    """Boxes of one finding in one picture on which readers agree.

    Boxes go, in the order of reader and edges, to the group that has none of their reader's yet and whose mean they
    overlap most, from `OVERLAP` on; else they open a group. So the order of the rows in a file does not matter.

    Args:
        boxes: (reader, edges x0, y0, x1, y1), in any unit.
        needed: how many readers a group must have to be kept.

    Returns:
        The mean of each group that is kept, in the order in which the groups were opened.
    """
    groups: list[dict[str, Edges]] = []
    for reader, edges in sorted(set(boxes)):
        free = [group for group in groups if reader not in group]
        overlaps = [overlap(mean(list(group.values())), edges) for group in free]
        best = int(np.argmax(overlaps)) if free else -1
        if free and overlaps[best] >= OVERLAP:
            free[best][reader] = edges
        else:
            groups.append({reader: edges})
    return [mean(list(group.values())) for group in groups if len(group) >= needed]


def mean(boxes: Sequence[Edges]) -> Edges:
    """The mean of each edge."""
    x0, y0, x1, y1 = (sum(edges) / len(boxes) for edges in zip(*boxes, strict=True))
    return x0, y0, x1, y1


def overlap(a: Edges, b: Edges) -> float:
    """Intersection over union, 0 for boxes that do not meet."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in (a, b)]
    return width * height / (sum(areas) - width * height)


def merged_boxes(
    drawn: pd.DataFrame,
    *,
    sizes: dict[str, tuple[int, int]],
    labels: pd.DataFrame,
    needed: Callable[[int], int],
    readers: pd.Series,
) -> tuple[pd.Series, list[Remark]]:
    """The manifest's column `boxes` and what is odd.

    Args:
        drawn: a row a box with image_id, rad_id, finding ("" where CheXpert has no name for it) and `EDGES` in pixels,
            which are NaN where the file has none.
        sizes: width and height of the original picture, by image id; those not in it have no boxes.
        labels: the merged labels, index image_id: a box belongs to a finding that is 1.
        needed: how many readers must agree, of so many who read the picture.
        readers: how many read it, index image_id.

    Returns:
        (text by image id, remarks).
    """
    named, whole = drawn["finding"] != "", drawn[EDGES].notna().all(axis=1)
    width, height = (
        drawn["image_id"].map({image: size[axis] for image, size in sizes.items()}).astype(np.float64)
        for axis in (0, 1)
    )
    known = width.notna()
    x0, x1 = (drawn[edge] / width for edge in ("x_min", "x_max"))
    y0, y1 = (drawn[edge] / height for edge in ("y_min", "y_max"))
    flat = (drawn["x_min"] >= drawn["x_max"]) | (drawn["y_min"] >= drawn["y_max"])
    outside = (x0 < -MARGIN) | (y0 < -MARGIN) | (x1 > 1 + MARGIN) | (y1 > 1 + MARGIN)
    usable = named & whole & known & ~flat & ~outside
    edges = np.column_stack([column.clip(0.0, 1.0) for column in (x0, y0, x1, y1)])

    grouped: dict[tuple[str, str], list[tuple[str, Edges]]] = {}
    rows = drawn[usable]
    for image, finding, reader, box in zip(
        rows["image_id"], rows["finding"], rows["rad_id"], edges[usable.to_numpy()].tolist(), strict=True
    ):
        grouped.setdefault((image, finding), []).append((reader, (box[0], box[1], box[2], box[3])))
    texts: dict[str, list[Box]] = {}
    apart, denied = [], []
    for (image, finding), boxes in grouped.items():
        kept = merge(boxes, needed=needed(int(readers[image])))
        texts.setdefault(image, []).extend(Box(finding, *box) for box in kept)
        positive = labels.at[image, finding] == 1
        if positive and not kept:
            apart.append(image)
        if kept and not positive:
            denied.append(image)

    def remark(reason: str, wrong: pd.Series | list[str], level: Level, mend: str = "") -> Remark:
        images = wrong if isinstance(wrong, list) else drawn["image_id"][wrong]
        return Remark(reason, tuple(dict.fromkeys(images)), level, mend)

    remarks = [
        remark("boxes of classes that CheXpert has no name for were left out", ~named & whole, "note"),
        remark("a box without four edges was left out", named & ~whole, "error", "mend the row of the annotations"),
        remark(
            "the original picture's size is not known; its boxes were left out",
            named & whole & ~known,
            "warning",
            "have the DICOM in the folder, or give layout_options.sizes: a table of image_id, width, height",
        ),
        remark("an empty box was left out", named & whole & flat, "error", "mend the row of the annotations"),
        remark(
            "a box outside the picture was left out",
            named & whole & ~flat & outside,
            "error",
            "mend the row of the annotations, or the size in layout_options.sizes",
        ),
        remark("a finding is present, but its readers' boxes do not overlap: no box", apart, "note"),
        remark("boxes of a finding that the image labels do not give", denied, "error", "mend one of the two tables"),
    ]
    return pd.Series({image: encode_boxes(found) for image, found in texts.items()}, dtype=object), remarks
