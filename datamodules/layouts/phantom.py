"""The procedural phantom as a data set: no file is read, an image is the reference "phantom:<seed>:<index>"."""

import hashlib
import re

from datamodules.manifest import Manifest, encode_boxes, make_manifest
from datamodules.phantom.render import boxes
from datamodules.phantom.report import report, study_labels
from datamodules.phantom.study import study
from datamodules.reports.labels import FINDINGS, SPLITS
from datamodules.reports.sections import Section, choose, split_sections

_REFERENCE = re.compile(r"phantom:(\d+):(\d+)")


def make_reference(seed: int, *, index: int) -> str:
    """The `image` column's text for one phantom."""
    return f"phantom:{seed}:{index}"


def parse_reference(image: str) -> tuple[int, int]:
    """The inverse of `make_reference`.

    Raises:
        ValueError: if the text is no such reference.
    """
    match = _REFERENCE.fullmatch(image)
    if match is None:
        raise ValueError(f"{image!r} is no reference to a phantom; expected phantom:<seed>:<index>, as in phantom:0:12")
    return int(match[1]), int(match[2])


def split_of(patient_id: str) -> str:
    """The split of a patient: a function of the patient alone, 80 % train, 10 % validate, 10 % test."""
    part = int(hashlib.sha256(patient_id.encode()).hexdigest()[:8], 16) % 10
    return "validate" if part == 8 else "test" if part == 9 else "train"


def read(
    root: str = "phantom", *, studies: int, seed: int = 0, section: Section = "findings", split: str | None = None
) -> Manifest:
    """The manifest of studies 0 .. `studies` - 1.

    Args:
        root: not used; every layout takes one.
        studies: how many, ≥ 1; studies 2k and 2k+1 are one patient.
        seed: of the data set.
        section: which part of the report becomes the `report` column.
        split: puts all studies into this one: a larger test set, of another seed than what was trained on.

    Raises:
        ValueError: if `studies` is less than 1, or for a split that does not exist.
    """
    if studies < 1:
        raise ValueError(f"the phantom data set needs studies >= 1, but got {studies}")
    if split not in (None, *SPLITS):
        raise ValueError(f"layout_options.split is {split!r}; expected null or one of {list(SPLITS)}")
    rows = []
    for index in range(studies):
        one = study(seed, index)
        text, source = choose(split_sections(report(one)), section)
        row = {
            "image": make_reference(seed, index=index),
            "image_id": one.study_id,
            "study_id": one.study_id,
            "patient_id": one.patient_id,
            "view": one.view,
            "split": split or split_of(one.patient_id),
            "report": text,
            "report_source": source,
            "boxes": encode_boxes(boxes(one)),
            "sex": one.sex,
            "age": one.age,
        }
        rows.append(row | dict(zip(FINDINGS, study_labels(one).tolist(), strict=True)))
    return make_manifest(rows, source="phantom")
