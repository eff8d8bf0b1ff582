"""VinDr-CXR (Nguyen et al., Scientific Data 2022): DICOM, labels and boxes of several readers. It has no reports.

Two layouts. PhysioNet: `train/<image_id>.dicom`, `test/`, and `annotations/` (or the root) with
`image_labels_{train,test}.csv` and `annotations_{train,test}.csv`; three of 17 readers read each picture of train, and
those of test have one consensus. Kaggle: `train/<image_id>.dicom` and `train.csv`, with 14 of the classes and "No
finding"; its test pictures have no labels.

Readers are merged by `merge`. Under "majority", the default, a label is 1 where more than half of the picture's readers
give it, 0 where none does, and -1 (uncertain) between: one reader of three neither confirms nor excludes a finding, and
the label policy of the data module then says what an uncertain label is. Under "any" it is 1 from one reader on, under
"all" only where all agree; there is no -1. Boxes are merged by the same number of readers, see `vindr_boxes`.

Labels. A reader looks for every class, so what is not given is absent. Classes go to CheXpert's findings by
`vindr_tables.LABELS`; Lung Opacity is also 1 for a reader who gives one of its children in CheXpert's hierarchy. What
has no class (Enlarged Cardiomediastinum, Support Devices; in Kaggle also Edema, Pneumonia, Fracture) is NaN. All
pictures are PA by the data set's description, and no patients are told, so each picture is its own patient.
"""

import itertools
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from datamodules.dicom import dicom_size, require_pydicom
from datamodules.images import DICOM
from datamodules.layouts.source import (
    IMAGE_SUFFIXES,
    as_path,
    find_file,
    hash_fractions,
    list_files,
    open_root,
    read_csv,
    read_start,
    require_columns,
    with_gz,
)
from datamodules.layouts.vindr_boxes import EDGES, merged_boxes
from datamodules.layouts.vindr_tables import LABELS, PARTS, PLACES, Readings, read_kaggle, read_physionet
from datamodules.manifest import Manifest, Remark, make_manifest
from datamodules.reports.labels import FINDINGS

OPACITIES = ("Lung Lesion", "Edema", "Consolidation", "Pneumonia", "Atelectasis")
EXPECTED = (
    "train/*.dicom, test/*.dicom and annotations/{image_labels,annotations}_{train,test}.csv (PhysioNet), or "
    "train/*.dicom and train.csv (Kaggle)"
)
PUBLISHED = {"images": 18_000, "test": 3_000}  # PhysioNet's
PUBLISHED_KAGGLE = {"images": 15_000}  # those with labels

Merge = Literal["majority", "any", "all"]


def recognise(root: Path) -> bool:
    """Whether this folder holds one of VinDr-CXR's layouts, or DICOM beside a train.csv without a header."""
    if _is_physionet(root):
        return True
    file = find_file(root, with_gz("train.csv"))
    if file is None:
        return False
    header = read_start(file).split("\n")[0].strip().split(",")
    # One of its columns may be lost.
    if len({"image_id", "class_name", "rad_id", *EDGES} & set(header)) >= len(EDGES) + 2:
        return True
    # A look at the first few: there are 15,000.
    pictures = (root / "train").iterdir() if len(header) == 1 and (root / "train").is_dir() else iter(())
    return any(picture.name.lower().endswith(DICOM) for picture in itertools.islice(pictures, 5))


def published(root: Path) -> dict[str, int]:
    """The published counts of PhysioNet's or Kaggle's edition."""
    return PUBLISHED if find_file(root, with_gz("train.csv")) is None else PUBLISHED_KAGGLE


def read(
    root: str | Path | None,
    *,
    images: bool = True,
    seed: int = 0,
    validate: float = 0.1,
    merge: Merge = "majority",
    sizes: str | None = None,
) -> Manifest:
    """Read the data set.

    Args:
        root: the folder of either layout. Pictures are found by their stem in any folder below it, also as copies of
            another format.
        images: False reads the tables alone: every row is kept, with image "".
        seed: of the hash that carves `validate` out of train, by image.
        validate: share of train that becomes the validate split, in [0, 0.5). Of Kaggle's layout, whose test pictures
            have no labels, the same share becomes test.
        merge: how several readers become one label, see above.
        sizes: a CSV of image_id, width, height of the original pictures (also Kaggle's train_meta.csv with dim0, dim1),
            below the root or anywhere. Boxes are in pixels of the originals; without it their DICOM headers give the
            size, and copies in another format have no boxes.

    Returns:
        One row an image, report "" and report_source "none".

    Raises:
        FileNotFoundError: when the root or its tables are missing, or none of the pictures is there.
        ImportError: when DICOM headers are needed and pydicom is missing.
        ValueError: naming file and row, for missing columns, an unknown class or label, an image in both parts.
    """
    if merge not in ("majority", "any", "all") or not 0 <= validate < 0.5:
        raise ValueError(
            f"layout vindr: merge = {merge!r}, validate = {validate}; expected 'majority', 'any' or 'all', and 0 to 0.5"
        )
    folder = open_root(root, layout="vindr", expected=EXPECTED)
    physionet = _is_physionet(folder)
    readings = read_physionet(folder) if physionet else read_kaggle(folder)
    labels, readers, notes = _merged(readings, merge=merge)
    frame = pd.DataFrame({"image_id": labels.index, "study_id": labels.index, "patient_id": labels.index})
    parts = readings.given.groupby("image_id", sort=True)["part"].first()
    fractions = hash_fractions(labels.index, seed=seed)
    test = (parts == "test").to_numpy() | (not physionet and (fractions >= validate) & (fractions < 2 * validate))
    frame["split"] = np.select([test, fractions < validate], ["test", "validate"], "train")
    frame["view"], frame["report_source"] = "PA", "none"
    frame = pd.concat([frame, labels.reset_index(drop=True)], axis=1)
    frame["image"], drops = "", list(readings.drops)
    if images:
        found, strangers = _pictures(folder, frame["image_id"], physionet=physionet)
        frame["image"] = frame["image_id"].map(found).fillna("")
        notes += strangers
        missing = frame["image"] == ""
        drops.append(
            Remark(
                "no picture of this name",
                tuple(frame["image_id"][missing]),
                "error",
                "fetch train/<image_id>.dicom or test/<image_id>.dicom again, or remove the rows",
            )
        )
        frame = frame[~missing]
        if frame.empty:
            raise FileNotFoundError(
                f"layout vindr: none of the {len(labels)} pictures is below {folder}; it should hold {EXPECTED}, for "
                f"instance train/{labels.index[0] if len(labels) else '0a1b'}.dicom"
            )
    drawn = readings.drawn[readings.drawn["image_id"].isin(frame["image_id"])]
    known, unreadable = _sizes(folder, frame, drawn, sizes)
    needed = {"majority": lambda n: n // 2 + 1, "any": lambda n: 1, "all": lambda n: n}[merge]
    boxes, odd = merged_boxes(drawn, sizes=known, labels=labels, needed=needed, readers=readers)
    frame["boxes"] = frame["image_id"].map(boxes).fillna("") if len(boxes) else ""
    ids = tuple(frame["image_id"])
    notes += [
        *odd,
        *unreadable,
        Remark("the view is PA by the data set's description", ids, "note"),
        Remark("no patients are told; each picture is its own patient", ids, "note"),
    ]
    if not physionet:
        carved = tuple(frame["image_id"][frame["split"] == "test"])
        notes.append(Remark("Kaggle's test has no labels; this test split was carved from its train", carved, "note"))
    try:
        return make_manifest(frame, source="vindr", drops=drops, notes=notes)
    except ValueError as error:
        raise ValueError(f"layout vindr: {folder}: {error}") from error


def _is_physionet(root: Path) -> bool:
    return any(find_file(root, with_gz(f"{place}image_labels_{part}.csv")) for place in PLACES for part in PARTS)


def _merged(readings: Readings, *, merge: Merge) -> tuple[pd.DataFrame, pd.Series, list[Remark]]:
    """Labels by image, index image_id in order; how many read each; what is odd."""
    given = readings.given
    votes = pd.DataFrame({"image_id": given["image_id"]})
    labelled = {LABELS[name] for name in readings.classes} - {None}
    for finding in FINDINGS:
        names = [name for name in readings.classes if LABELS[name] == finding]
        votes[finding] = given[names].any(axis=1)
    votes["Lung Opacity"] = votes[["Lung Opacity", *OPACITIES]].any(axis=1)
    by_image = votes.groupby("image_id", sort=True)
    readers = by_image.size()
    counts = by_image[list(FINDINGS)].sum()
    everybody, nobody = counts.eq(readers, axis=0), counts == 0
    if merge == "majority":
        labels = pd.DataFrame(np.select([counts.mul(2).gt(readers, axis=0), nobody], [1.0, 0.0], -1.0), counts.index)
    else:
        labels = (everybody if merge == "all" else ~nobody).astype(np.float64)
    labels = labels.set_axis(list(FINDINGS), axis=1)
    labels[[finding for finding in FINDINGS if finding not in labelled]] = np.nan

    sick = given[[name for name in readings.classes if name != "No finding"]].any(axis=1)
    parts = given.groupby("image_id", sort=True)["part"].first()
    few = (readers != 3) & (parts == "train")
    outcome = "uncertain (-1)" if merge == "majority" else f"merged by {merge!r}"
    split = ~everybody & ~nobody if merge != "majority" else labels == -1
    doubtful = tuple(dict.fromkeys(given["image_id"][given["No finding"] & sick]))
    return (
        labels,
        readers,
        [
            *readings.notes,
            Remark(f"readers disagree on a finding; it is {outcome}", tuple(labels.index[split.any(axis=1)]), "note"),
            Remark("not read by three readers", tuple(labels.index[few]), "warning", "fetch the tables again"),
            Remark(
                "'No finding' beside a finding of the same reader", doubtful, "warning", "mend the row of the labels"
            ),
        ],
    )


def _pictures(folder: Path, ids: pd.Series, *, physionet: bool) -> tuple[dict[str, str], list[Remark]]:
    """Path by image id, and pictures that no table names."""
    named = set(ids)
    found: dict[str, str] = {}
    strangers: list[str] = []
    base = str(folder).rstrip("/")
    # The DICOM goes before a copy of it.
    names = list_files(folder, suffixes=(*DICOM, *IMAGE_SUFFIXES))
    for name in sorted(names, key=lambda name: not name.lower().endswith(DICOM)):
        stem = name.rsplit("/", 1)[-1].rsplit(".", 1)[0]
        if stem in named:
            found.setdefault(stem, f"{base}/{name}")
        else:
            strangers.append(name)
    unlabelled = [name for name in strangers if not physionet and name.split("/")[0] == "test"]
    others = sorted(set(strangers) - set(unlabelled))
    return found, [
        Remark("a picture of Kaggle's test, which has no labels, was left out", tuple(unlabelled), "note"),
        Remark("a picture that no table names", tuple(others), "warning", "remove the file, or fetch the tables again"),
    ]


def _sizes(
    folder: Path, frame: pd.DataFrame, drawn: pd.DataFrame, table: str | None
) -> tuple[dict[str, tuple[int, int]], list[Remark]]:
    """Width and height of the originals that have boxes, by image id, and those whose header cannot be read."""
    known = _size_table(find_file(folder, [table]) or as_path(table)) if table else {}
    wanted = set(drawn["image_id"][drawn["finding"] != ""]) - set(known)
    rows = frame[frame["image_id"].isin(wanted) & frame["image"].str.lower().str.endswith(DICOM)]
    if len(rows):
        require_pydicom()
    unreadable = []
    for image, path in zip(rows["image_id"], rows["image"], strict=True):
        try:
            with as_path(path).open("rb") as file:
                known[image] = dicom_size(file, reference=path)
        except (ValueError, OSError):
            unreadable.append(image)
    why = "the DICOM's header cannot be read; its boxes were left out"
    return known, [Remark(why, tuple(unreadable), "error", "fetch the file again")]


def _size_table(path: Path) -> dict[str, tuple[int, int]]:
    if not path.is_file():
        raise FileNotFoundError(f"layout vindr: {path} does not exist; layout_options.sizes names a table of sizes")
    table = read_csv(path)
    # Kaggle's copies come with a train_meta.csv of dim0 = height, dim1 = width.
    columns = ["dim1", "dim0"] if "width" not in table else ["width", "height"]
    mend = "give the columns image_id, width, height"
    require_columns(table, file=path, options=dict.fromkeys(["image_id", *columns], mend))
    numbers = table[columns].apply(pd.to_numeric, errors="coerce")
    wrong = np.flatnonzero(~(numbers >= 1).all(axis=1))
    if len(wrong):
        found = table[columns].iloc[wrong[0]].tolist()
        raise ValueError(f"{path}: row {wrong[0] + 2}: {columns} are {found}, expected pixels ≥ 1; mend the row")
    return dict(
        zip(table["image_id"], zip(*(numbers[column].astype(int) for column in columns), strict=True), strict=True)
    )
