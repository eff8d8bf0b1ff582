"""VinDr-CXR's tables, as PhysioNet and as Kaggle give them: which reader gave which class, and drew which box."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd

from datamodules.layouts.source import find_file, read_csv, require_columns, require_file, with_gz
from datamodules.layouts.vindr_boxes import EDGES
from datamodules.manifest import Remark

LABELS: dict[str, str | None] = {
    "Aortic enlargement": None,
    "Atelectasis": "Atelectasis",
    "Calcification": None,
    "Cardiomegaly": "Cardiomegaly",
    "Clavicle fracture": "Fracture",
    "Consolidation": "Consolidation",
    "Edema": "Edema",
    "Emphysema": None,
    "Enlarged PA": None,
    "ILD": "Lung Opacity",  # interstitial markings are an opacity in CheXpert
    "Infiltration": "Lung Opacity",
    "Lung Opacity": "Lung Opacity",
    "Lung cavity": "Lung Lesion",
    "Lung cyst": None,
    "Mediastinal shift": None,
    "Nodule/Mass": "Lung Lesion",
    "Pleural effusion": "Pleural Effusion",
    "Pleural thickening": "Pleural Other",
    "Pneumothorax": "Pneumothorax",
    "Pulmonary fibrosis": None,
    "Rib fracture": "Fracture",
    "Other lesion": None,
    "COPD": None,
    "Lung tumor": "Lung Lesion",
    "Pneumonia": "Pneumonia",
    "Tuberculosis": None,
    "Other diseases": None,
    "No finding": "No Finding",
}
# Kaggle's classes; the others' boxes are there under "Other lesion".
KAGGLE = (
    *("Aortic enlargement", "Atelectasis", "Calcification", "Cardiomegaly", "Consolidation", "ILD", "Infiltration"),
    *("Lung Opacity", "Nodule/Mass", "Other lesion", "Pleural effusion", "Pleural thickening", "Pneumothorax"),
    *("Pulmonary fibrosis", "No finding"),
)
# image_labels_test.csv has the singular.
RENAMED = {"Other disease": "Other diseases"}
PLACES = ("annotations/", "")
CONSENSUS = "consensus"
PARTS = ("train", "test")
NO_FINDING = "No finding"
TWICE = "remove the row"


@dataclasses.dataclass
class Readings:
    """What the tables say, before readers are merged.

    Attributes:
        given: a row a reader's reading, with image_id, rad_id, part ("train" or "test") and a bool for each class.
        drawn: a row a box, with image_id, rad_id, finding ("" where CheXpert has no name) and `EDGES` in pixels.
        classes: the classes that readers could give.
        drops: rows that were left out.
        notes: what is odd.
    """

    given: pd.DataFrame
    drawn: pd.DataFrame
    classes: tuple[str, ...]
    drops: list[Remark]
    notes: list[Remark]


def read_physionet(folder: Path) -> Readings:
    """The four tables of PhysioNet; either part may be missing as a whole.

    Raises:
        FileNotFoundError: when a part has labels and no annotations.
        ValueError: naming file and row, for missing columns, values other than 0 and 1, an image in both parts.
    """
    given, drawn = [], []
    drops: list[Remark] = []
    notes: list[Remark] = []
    for part in PARTS:
        file = find_file(folder, [name for place in PLACES for name in with_gz(f"{place}image_labels_{part}.csv")])
        if file is None:
            reason = f"image_labels_{part}.csv is missing; this part was not read"
            notes.append(Remark(reason, (part,), "error", "fetch annotations/ again"))
            continue
        table = read_csv(file, columns=["image_id"]).rename(columns=RENAMED)
        read, without, empty = _classes(table, file, part)
        given.append(read)
        drops += without
        notes += empty
        names = [name for place in PLACES for name in with_gz(f"{place}annotations_{part}.csv")]
        boxes = require_file(folder, names, layout="vindr", expected="annotations beside the image labels")
        shown, odd = _drawn(read_csv(boxes, columns=["image_id", "class_name", *EDGES]), boxes, set(LABELS))
        strange = ~shown["image_id"].isin(read["image_id"])
        why = "boxes of an image that the image labels do not have"
        drops += [
            *odd,
            Remark(why, tuple(dict.fromkeys(shown["image_id"][strange])), "error", "fetch both tables again"),
        ]
        drawn.append(shown[~strange])
    readings = pd.concat(given, ignore_index=True)
    both = set.intersection(*(set(read["image_id"]) for read in given)) if len(given) == 2 else set()
    if both:
        raise ValueError(
            f"layout vindr: {folder}: image {min(both)} is in image_labels_train.csv and in image_labels_test.csv "
            f"({len(both)} images are); fetch the tables again"
        )
    return Readings(readings, pd.concat(drawn, ignore_index=True), tuple(LABELS), drops, notes)


def read_kaggle(folder: Path) -> Readings:
    """Kaggle's train.csv, where a row is a box, or "No finding" without one.

    Raises:
        FileNotFoundError: when it is missing.
        ValueError: naming file and row, for missing columns or an unknown class.
    """
    expected = "train/*.dicom and train.csv (Kaggle), or annotations/image_labels_{train,test}.csv (PhysioNet)"
    file = require_file(folder, with_gz("train.csv"), layout="vindr", expected=expected)
    table = read_csv(file, columns=["image_id", "class_name", "rad_id", *EDGES])
    drawn, drops = _drawn(table, file, set(KAGGLE))
    given = pd.get_dummies(table["class_name"], dtype=bool).reindex(columns=list(KAGGLE), fill_value=False)
    given.insert(0, "rad_id", table["rad_id"])
    given.insert(0, "image_id", table["image_id"])
    given = given.groupby(["image_id", "rad_id"], sort=True, as_index=False).any()
    given["part"] = "train"
    return Readings(given, drawn, KAGGLE, drops, [])


def _classes(table: pd.DataFrame, file: Path, part: str) -> tuple[pd.DataFrame, list[Remark], list[Remark]]:
    """A row a reading with a bool for each class; the drops and the notes."""
    names = list(LABELS)
    needed = names if part == "test" else ["rad_id", *names]
    require_columns(table, file=file, options=dict.fromkeys(needed, "take the file as it is published"))
    if "rad_id" not in table:
        # The test part is one consensus of five readers.
        table = table.assign(rad_id=CONSENSUS)
    values = table[names].apply(lambda column: column.str.strip())
    wrong = ~values.isin(["0", "1", "0.0", "1.0", ""])
    if wrong.any(axis=None):
        row, column = np.argwhere(wrong.to_numpy())[0]
        raise ValueError(
            f"{file}: row {row + 2}: {names[column]} is {values.iat[row, column]!r}, expected 0 or 1 "
            f"({int(wrong.to_numpy().sum())} fields); mend the row, or fetch the file again"
        )
    given = pd.concat([table[["image_id", "rad_id"]], values.isin(["1", "1.0"])], axis=1).assign(part=part)
    twice = given.duplicated(["image_id", "rad_id"])
    empty = (values == "").any(axis=1)
    drop = Remark("a reader's row is given twice; the first is kept", tuple(given["image_id"][twice]), "error", TWICE)
    note = Remark("an empty label field was taken as 0", tuple(dict.fromkeys(given["image_id"][empty])), "warning")
    return given[~twice], [drop], [note]


def _drawn(table: pd.DataFrame, file: Path, known: set[str]) -> tuple[pd.DataFrame, list[Remark]]:
    """A row a box, see `Readings.drawn`; a box that is given twice is once in it and once in the drops."""
    wrong = np.flatnonzero(~table["class_name"].isin(list(known)).to_numpy())
    if len(wrong):
        raise ValueError(
            f"{file}: row {wrong[0] + 2}: class {table['class_name'].iloc[wrong[0]]!r} is not one of {sorted(known)} "
            f"({len(wrong)} rows); mend the row"
        )
    if "rad_id" not in table:
        table = table.assign(rad_id=CONSENSUS)
    edges = table[EDGES].apply(lambda column: column.str.strip())
    numbers = edges.apply(pd.to_numeric, errors="coerce")
    bad = np.argwhere((numbers.isna() & (edges != "")).to_numpy())
    if len(bad):
        row, column = bad[0]
        raise ValueError(
            f"{file}: row {row + 2}: {EDGES[column]} is {edges.iat[row, column]!r}, expected pixels; mend it"
        )
    drawn = pd.concat([table[["image_id", "rad_id"]], numbers], axis=1)
    drawn["finding"] = table["class_name"].map(LABELS).fillna("")
    drawn = drawn[(table["class_name"] != NO_FINDING).to_numpy()]
    # Compared with its class: two classes of one finding may share a box.
    twice = table.loc[drawn.index, ["image_id", "rad_id", "class_name", *EDGES]].duplicated()
    return drawn[~twice], [
        Remark("a box is given twice; it is kept once", tuple(drawn["image_id"][twice]), "error", TWICE)
    ]
