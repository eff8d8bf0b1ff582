"""Comparing what a layout's reader found with what the phantom's writer says it wrote."""

from pathlib import Path

import numpy as np

from datamodules.manifest import Manifest
from datamodules.reports.labels import FINDINGS

TEXTS = ("image_id", "study_id", "patient_id", "view", "split", "report", "report_source", "sex")


def assert_same(found: Manifest, written: Manifest, *, but: tuple[str, ...] = ()) -> None:
    """Equal rows in any order: ids, views, splits, texts, labels, boxes, ages, and the same files."""
    a, b = (m.frame.sort_values("image_id").reset_index(drop=True) for m in (found, written))
    assert a["image_id"].tolist() == b["image_id"].tolist()
    for column in TEXTS:
        if column not in but:
            assert a[column].tolist() == b[column].tolist(), column
    assert [Path(x).resolve() if x else x for x in a["image"]] == [Path(x).resolve() if x else x for x in b["image"]]
    for finding in FINDINGS:
        np.testing.assert_array_equal(a[finding].to_numpy(), b[finding].to_numpy(), err_msg=finding)
    if "age" not in but:
        np.testing.assert_allclose(a["age"].to_numpy(), b["age"].to_numpy(), err_msg="age")
    if "boxes" not in but:
        assert_same_boxes(Manifest(a, "a"), Manifest(b, "b"))


def assert_same_boxes(found: Manifest, written: Manifest) -> None:
    """Equal findings in order, edges to a thousandth of the image."""
    for row in range(len(found)):
        mine, theirs = sorted_boxes(found, row), sorted_boxes(written, row)
        assert [box[0] for box in mine] == [box[0] for box in theirs]
        np.testing.assert_allclose([box[1:] for box in mine], [box[1:] for box in theirs], atol=1e-3)


def sorted_boxes(manifest: Manifest, row: int) -> list[tuple]:
    return sorted((b.finding, b.x0, b.y0, b.x1, b.y1) for b in manifest.boxes(row))
