"""Phantoms in the layout of NIH ChestX-ray14: entry table, split lists, boxes, 1024 px coordinates.

A finding that is present is named; what the report hedges is not, as NIH's miner leaves uncertain mentions out.
Enlarged Cardiomediastinum, Fracture and Support Devices have no name there and are left out too, so a study with
nothing else is "No Finding". A lung lesion is a Mass or a Nodule. Hernia, which CheXpert does not know, is put into a
few rows. As in the published lists, every picture with a box is of a patient in test_list.txt.
"""

from pathlib import Path
from typing import Literal

import numpy as np

from datamodules.manifest import Box, Manifest, encode_boxes, make_manifest
from datamodules.phantom.disk.carve import is_carved
from datamodules.phantom.disk.common import Phantom, phantoms, quirk, save_picture
from datamodules.reports.labels import FINDINGS

NAMES = {
    "Cardiomegaly": "Cardiomegaly",
    "Lung Opacity": "Infiltration",
    "Edema": "Edema",
    "Consolidation": "Consolidation",
    "Pneumonia": "Pneumonia",
    "Atelectasis": "Atelectasis",
    "Pneumothorax": "Pneumothorax",
    "Pleural Effusion": "Effusion",
    "Pleural Other": "Pleural_Thickening",
}
BOXED = ("Atelectasis", "Effusion", "Cardiomegaly", "Infiltration", "Pneumonia", "Pneumothorax", "Mass", "Nodule")
NEVER = ("Enlarged Cardiomediastinum", "Fracture", "Support Devices")
OPAQUE = ("Lung Lesion", "Edema", "Consolidation", "Pneumonia", "Atelectasis")
HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)
BOX_HEADER = "Image Index,Finding Label,Bbox [x,y,w,h],,,"
CARVED = 0.1


def write(
    out: Path,
    *,
    studies: int,
    seed: int,
    size: int,
    folders: Literal[1, 12] = 12,
    jpeg: bool = False,
    v2020: bool = True,
) -> Manifest:
    """Write the tables, the lists and the pictures into `out`.

    Args:
        out: an empty folder.
        studies: how many.
        seed: of the phantoms.
        size: side of the pictures; boxes are in pixels of 1024 whatever it is.
        folders: 12 are images_001/images/ ... as the archives unpack, 1 is images/.
        jpeg: whether the pictures are JPEG copies; the tables name PNG all the same.
        v2020: whether the table is the 2020 edition. The first one writes ages as 058Y, some with typing errors, and
            ends each row with a comma.

    Returns:
        The manifest that the reader must give with its default options.
    """
    rows: list[dict] = []
    lines: list[str] = []
    boxes: list[str] = []
    lists: dict[str, list[str]] = {"train_val": [], "test": []}
    drawn = list(phantoms(studies=studies, seed=seed, size=size))
    # A patient is in one list: in test if the phantom says so, or if any of the patient's pictures has a box.
    tested = {one.patient for one in drawn if one.split == "test" or _boxes(one)}
    for one in drawn:
        stem = f"{one.patient + 1:08d}_{one.study.index % 2:03d}"
        place = f"images_{one.study.index * folders // studies + 1:03d}/images" if folders > 1 else "images"
        image = out / place / f"{stem}.{'jpg' if jpeg else 'png'}"
        save_picture(one.pixels, image)
        typo = not v2020 and quirk(one, "age 414", share=0.1)
        age = f"{one.study.age}" if v2020 else f"{414 if typo else one.study.age:03d}Y"
        fields = [f"{stem}.png", "|".join(_names(one)), one.study.index % 2, one.patient + 1, age, one.study.sex]
        fields += [one.study.view, 2500, 2048, 0.171, 0.171]
        lines.append(",".join(map(str, fields)))
        patient = str(one.patient + 1)
        listed = "test" if one.patient in tested else "train_val"
        lists[listed].append(f"{stem}.png")
        for name, box in _boxes(one):
            x, y, w, h = (1024 * value for value in (box.x0, box.y0, box.x1 - box.x0, box.y1 - box.y0))
            boxes.append(f"{stem}.png,{'Infiltrate' if name == 'Infiltration' else name},{x!r},{y!r},{w!r},{h!r}")
        rows.append(
            {
                "image": str(image),
                "image_id": stem,
                "study_id": stem,
                "patient_id": patient,
                "view": one.study.view,
                "split": "test" if listed == "test" else "validate" if is_carved(patient, share=CARVED) else "train",
                "report_source": "none",
                "sex": one.study.sex,
                "age": np.nan if typo else one.study.age,
                "boxes": encode_boxes([box for _, box in _boxes(one)]),
                **_labels(one),
            }
        )
    edition, comma = ("Data_Entry_2017_v2020.csv", "") if v2020 else ("Data_Entry_2017.csv", ",")
    _save(out / edition, [HEADER + comma, *(line + comma for line in lines)])
    _save(out / "BBox_List_2017.csv", [BOX_HEADER, *boxes])
    for name, images in lists.items():
        _save(out / f"{name}_list.txt", images)
    return make_manifest(rows, source="nih")


def _names(one: Phantom) -> list[str]:
    """NIH's names of what is present, in the order of the alphabet."""
    found = {NAMES[finding] for finding in one.positive() if finding in NAMES}
    if "Lung Lesion" in one.positive():
        found.add(_lesion(one))
    if quirk(one, "hernia", share=0.1):
        found.add("Hernia")
    return sorted(found) or ["No Finding"]


def _lesion(one: Phantom) -> str:
    return "Mass" if quirk(one, "mass", share=0.5) else "Nodule"


def _labels(one: Phantom) -> dict[str, float]:
    present = set(one.positive()) - {*NEVER, "No Finding"}
    labels = {finding: float(finding in present) for finding in FINDINGS}
    labels["Lung Opacity"] = float(bool(present & {"Lung Opacity", *OPAQUE}))
    labels["No Finding"] = float(_names(one) == ["No Finding"])
    return labels | dict.fromkeys(NEVER, np.nan)


def _boxes(one: Phantom) -> list[tuple[str, Box]]:
    """Boxes that are written, with NIH's names: of a share of the pictures, of the eight findings that NIH boxed."""
    if not quirk(one, "boxed", share=0.15):
        return []
    named = [(_lesion(one) if b.finding == "Lung Lesion" else NAMES.get(b.finding), b) for b in one.boxes]
    return [(name, box) for name, box in named if name in BOXED and one.labels[box.finding] == 1]


def _save(path: Path, lines: list[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
