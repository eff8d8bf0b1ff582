"""NIH ChestX-ray14 as published (Wang et al., CVPR 2017): entry CSV, split lists, boxes, images. It has no reports.

Labels. NIH's 14 classes are text-mined and closed: what is not named is taken as absent. They go to CheXpert's names
by `LABELS`. Emphysema, Fibrosis and Hernia have no CheXpert name: such a study has "No Finding" = 0 and may have no 1.
Lung Opacity follows CheXpert's hierarchy: 1 where Infiltration, Consolidation, Edema, Pneumonia, Atelectasis, Nodule or
Mass is named, else 0. What NIH never labels (Enlarged Cardiomediastinum, Fracture, Support Devices) is NaN.
"""

from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from datamodules.layouts.source import hash_fractions, require_columns, open_root
from datamodules.layouts.views import normalise_views
from datamodules.manifest import Box, Remark, Manifest, encode_boxes, make_manifest
from datamodules.reports.labels import FINDINGS

LABELS: dict[str, str | None] = {
    "No Finding": "No Finding",
    "Atelectasis": "Atelectasis",
    "Cardiomegaly": "Cardiomegaly",
    "Consolidation": "Consolidation",
    "Edema": "Edema",
    "Effusion": "Pleural Effusion",
    "Infiltration": "Lung Opacity",
    "Mass": "Lung Lesion",
    "Nodule": "Lung Lesion",
    "Pleural_Thickening": "Pleural Other",
    "Pneumonia": "Pneumonia",
    "Pneumothorax": "Pneumothorax",
    "Emphysema": None,
    "Fibrosis": None,
    "Hernia": None,
}
UNLABELLED = ("Enlarged Cardiomediastinum", "Fracture", "Support Devices")
OPACITIES = ("Lung Lesion", "Edema", "Consolidation", "Pneumonia", "Atelectasis")
ENTRY_FILES = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
# Boxes are in pixels of the published 1024 × 1024 images, whatever the size of the copy at hand.
PUBLISHED_SIZE = 1024.0
OLDEST = 110.0
EXPECTED = "Data_Entry_2017_v2020.csv, train_val_list.txt, test_list.txt and images*/ (BBox_List_2017.csv is optional)"


def read(
    root: str | Path | None,
    *,
    seed: int = 0,
    validate: float = 0.1,
    boxed_patients: Literal["listed", "test"] = "listed",
) -> Manifest:
    """Read the data set.

    Args:
        root: the folder with the CSV files and `images*/` (also `images_001/images/`).
        seed: of the hash that carves `validate` out of train_val_list.txt, by patient.
        validate: share of the train_val patients that become the validate split, in [0, 1).
        boxed_patients: "listed" keeps to the split lists; "test" moves every patient with a box to test, so that the
            pointing game has its cases also where the lists are not the published ones (these hold all boxes in test).

    Returns:
        One row an image, report "" and report_source "none". Rows without an image file, and rows in neither split
        list, are in `drops`. An age over 110 years (NIH has typing errors such as 414) is NaN.

    Raises:
        FileNotFoundError: naming the file or folder that is missing.
        ValueError: for missing columns, an unknown label or view, a patient in both split lists.
    """
    folder = open_root(root, layout="nih", expected=EXPECTED)
    entry = next((folder / name for name in ENTRY_FILES if (folder / name).is_file()), None)
    if entry is None:
        raise FileNotFoundError(f"layout nih: {folder} has neither {' nor '.join(ENTRY_FILES)}; expected {EXPECTED}")
    table = pd.read_csv(entry, dtype=str, keep_default_na=False)
    names = ("Image Index", "Finding Labels", "Patient ID", "View Position")
    require_columns(table, file=entry, options=dict.fromkeys(names, "take the CSV as NIH publishes it"))

    stems = table["Image Index"].map(_stem)
    frame = pd.DataFrame({"image_id": stems, "study_id": stems, "patient_id": table["Patient ID"]})
    frame["image"] = stems.map(_images(folder)).fillna("")
    frame["split"] = _splits(folder, frame, seed=seed, validate=validate)
    frame["view"] = normalise_views(table["View Position"], file=entry, option="mend the row")
    frame["report_source"] = "none"
    frame["age"] = _ages(table["Patient Age"]) if "Patient Age" in table else np.nan
    frame["sex"] = table.get("Patient Gender", "")
    frame = pd.concat([frame, _labels(table["Finding Labels"], file=entry)], axis=1)
    frame["boxes"] = stems.map(_boxes(folder)).fillna("")
    if boxed_patients == "test":
        boxed = frame["patient_id"].isin(frame.loc[frame["boxes"] != "", "patient_id"])
        frame.loc[boxed & (frame["split"] != ""), "split"] = "test"

    listed, present = frame["split"] != "", frame["image"] != ""
    drops = []
    if not listed.all():
        drops.append(Remark("in neither train_val_list.txt nor test_list.txt", tuple(frame.loc[~listed, "image_id"])))
    if not (present | ~listed).all():
        drops.append(Remark("no image file of this name under images*/", tuple(frame.loc[listed & ~present, "image_id"])))
    kept = frame[listed & present]
    if kept.empty:
        raise FileNotFoundError(
            f"layout nih: none of the {len(frame)} images of {entry.name} is under {folder}/images*/ and in a split "
            f"list; expected for instance images/{table['Image Index'].iloc[0] if len(table) else '00000001_000.png'}"
        )
    try:
        return make_manifest(kept, source="nih", drops=drops)
    except ValueError as error:
        raise ValueError(f"{entry}: {error}") from error


def _stem(name: str) -> str:
    return name.rsplit(".", 1)[0]


def _images(folder: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for images in sorted(folder.glob("images*")):
        for path in sorted(images.rglob("*")):
            if path.suffix.lower() in IMAGE_SUFFIXES:
                found.setdefault(path.stem, str(path))
    return found


def _splits(folder: Path, frame: pd.DataFrame, *, seed: int, validate: float) -> np.ndarray:
    lists = {}
    for name in ("train_val_list.txt", "test_list.txt"):
        path = folder / name
        if not path.is_file():
            raise FileNotFoundError(f"layout nih: {path} is missing; expected {EXPECTED}")
        lists[name] = {_stem(line.strip()) for line in path.read_text().splitlines() if line.strip()}
    carved = hash_fractions(frame["patient_id"], seed=seed) < validate
    in_test = frame["image_id"].isin(lists["test_list.txt"])
    in_train = frame["image_id"].isin(lists["train_val_list.txt"])
    return np.select([in_test, in_train & carved, in_train], ["test", "validate", "train"], "").astype(object)


def _ages(texts: pd.Series) -> np.ndarray:
    # The first edition writes 058Y, 013M, 028D; the 2020 edition plain years.
    parts = texts.str.strip().str.extract(r"^(\d+)([YMD]?)$")
    years = pd.to_numeric(parts[0]) / parts[1].map({"": 1.0, "Y": 1.0, "M": 12.0, "D": 365.25})
    return years.where(years <= OLDEST).to_numpy(dtype=np.float32)


def _labels(joined: pd.Series, *, file: Path) -> pd.DataFrame:
    named = joined.str.get_dummies(sep="|")
    unknown = sorted(set(named.columns) - set(LABELS))
    if unknown:
        row = int(np.flatnonzero(named[unknown[0]].to_numpy())[0])
        raise ValueError(
            f"{file}: row {row + 2}: finding {unknown[0]!r} is not one of NIH's {sorted(LABELS)}; mend the row"
        )
    labels = pd.DataFrame(0.0, index=joined.index, columns=list(FINDINGS))
    for column in named.columns:
        target = LABELS[column]
        if target is not None:
            labels[target] = np.maximum(labels[target], named[column])
    labels["Lung Opacity"] = labels[["Lung Opacity", *OPACITIES]].max(axis=1)
    labels[list(UNLABELLED)] = np.nan
    # An empty field says nothing, not "nothing found".
    labels.loc[joined.str.strip() == "", :] = np.nan
    return labels


def _boxes(folder: Path) -> dict[str, str]:
    path = folder / "BBox_List_2017.csv"
    if not path.is_file():
        return {}
    table = pd.read_csv(path)
    # The header's fields are "Bbox [x", "y", "w", "h]": columns 2 to 5 whatever a copy calls them.
    if table.shape[1] < 6:
        raise ValueError(f"{path}: expected 6 columns (image, finding, x, y, w, h) and found {list(table.columns)}")
    boxes: dict[str, list[Box]] = {}
    for row, (image, name, x, y, w, h) in enumerate(table.iloc[:, :6].itertuples(index=False), start=2):
        finding = LABELS.get("Infiltration" if name == "Infiltrate" else name)
        if finding is None:
            raise ValueError(f"{path}: row {row}: finding {name!r} has no CheXpert label; known are {sorted(LABELS)}")
        left, top, right, bottom = (float(v) / PUBLISHED_SIZE for v in (x, y, x + w, y + h))
        # Annotators' rounding puts a few edges a pixel outside.
        if not (-0.01 <= left < right <= 1.01 and -0.01 <= top < bottom <= 1.01):
            raise ValueError(
                f"{path}: row {row}: box x {x:.0f}..{x + w:.0f}, y {y:.0f}..{y + h:.0f} is not inside 0..1024; "
                "mend the row"
            )
        box = Box(finding, max(left, 0.0), max(top, 0.0), min(right, 1.0), min(bottom, 1.0))
        boxes.setdefault(_stem(str(image)), []).append(box)
    return {image: encode_boxes(found) for image, found in boxes.items()}
