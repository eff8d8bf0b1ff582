"""A VinDr-CXR folder as PhysioNet lays it out, made by hand from readings and boxes."""

from pathlib import Path

import numpy as np
import pandas as pd

from datamodules.layouts.vindr_boxes import EDGES
from datamodules.layouts.vindr_tables import LABELS
from datamodules.manifest import Manifest, Remark
from datamodules.phantom.disk.dicom_file import save_dicom


def remark(manifest: Manifest, reason: str, *, among: str = "notes") -> Remark:
    """The one remark of this reason in the ledger."""
    found = [r for r in getattr(manifest, among) if r.reason == reason]
    assert len(found) == 1, [r.reason for r in getattr(manifest, among)]
    return found[0]


def labels_of(readings: list[tuple[str, str, str]], *, rad_id: bool = True) -> pd.DataFrame:
    """A label table of (image, reader, classes joined by a comma)."""
    rows = []
    for image, reader, classes in readings:
        row = {"image_id": image, "rad_id": reader} | {name: int(name in classes.split(",")) for name in LABELS}
        rows.append(row)
    table = pd.DataFrame(rows)
    return table if rad_id else table.drop(columns="rad_id").rename(columns={"Other diseases": "Other disease"})


def boxes_of(boxes: list[tuple], *, rad_id: bool = True) -> pd.DataFrame:
    """An annotation table of (image, reader, class, x0, y0, x1, y1)."""
    table = pd.DataFrame(boxes, columns=["image_id", "rad_id", "class_name", *EDGES])
    return table if rad_id else table.drop(columns="rad_id")


THREE = [("a", "R1", "Cardiomegaly"), ("a", "R2", "Cardiomegaly"), ("a", "R3", "No finding")]
BOXES = [
    ("a", "R1", "Cardiomegaly", 20, 40, 60, 80),
    ("a", "R2", "Cardiomegaly", 24, 44, 64, 84),
    ("a", "R3", "No finding", "", "", "", ""),
]


def save(folder: Path, *, train=THREE, boxes=BOXES, test=None, test_boxes=(), size=(200, 100)) -> Path:
    """The PhysioNet layout in `folder`, with a DICOM of `size` (width, height) for each image."""
    tables = folder / "annotations"
    tables.mkdir(parents=True)
    train = labels_of(train) if isinstance(train, list) else train
    train.to_csv(tables / "image_labels_train.csv", index=False)
    (boxes_of(boxes) if isinstance(boxes, list) else boxes).to_csv(tables / "annotations_train.csv", index=False)
    if test is not None:
        labels_of(test, rad_id=False).to_csv(tables / "image_labels_test.csv", index=False)
        boxes_of(list(test_boxes), rad_id=False).to_csv(tables / "annotations_test.csv", index=False)
    grey = np.tile(np.arange(size[0], dtype=np.uint8), (size[1], 1))
    for image in train["image_id"].unique():
        save_dicom(grey, folder / "train" / f"{image}.dicom", bits=12)
    for image, *_ in test or []:
        save_dicom(grey, folder / "test" / f"{image}.dicom", bits=12)
    return folder
