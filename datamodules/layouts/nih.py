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

from datamodules.layouts.nih_boxes import BOX_FILE, read_boxes
from datamodules.layouts.source import (
    find_file,
    hash_fractions,
    hashed_split,
    ids_of,
    list_files,
    open_root,
    read_csv,
    read_text,
    require_file,
    with_gz,
)
from datamodules.layouts.views import normalise_views
from datamodules.manifest import Manifest, Remark, make_manifest
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
LISTS = ("train_val_list.txt", "test_list.txt")
COLUMNS = ("Image Index", "Finding Labels", "Patient ID", "View Position")
OLDEST = 110.0
EXPECTED = f"Data_Entry_2017_v2020.csv, train_val_list.txt, test_list.txt and images*/ ({BOX_FILE} is optional)"
# Boxes: 984 on 880 images, all of test_list.txt.
PUBLISHED_LINES = (86_524, 25_596)  # of the lists
PUBLISHED = {"images": 112_120, "studies": 112_120, "patients": 30_805, "test": 25_596, "boxes": 984}


def recognise(root: Path) -> bool:
    """Whether this folder holds NIH's entry table, its boxes or its list of train_val."""
    return find_file(root, [*with_gz(*ENTRY_FILES, BOX_FILE), LISTS[0]]) is not None


def read(
    root: str | Path | None,
    *,
    images: bool = True,
    splits: Literal["lists", "hashed"] = "lists",
    seed: int = 0,
    validate: float = 0.1,
    boxed_patients: Literal["listed", "test"] = "listed",
) -> Manifest:
    """Read the data set.

    Args:
        root: the folder with the CSV files (gzipped or not) and `images*/` (also `images_001/images/`). A picture is
            matched by its name without the suffix, for copies resized to JPEG are common.
        images: False reads the tables only; every row is kept, with image "".
        splits: "lists" takes train_val_list.txt and test_list.txt; "hashed" is 80/10/10 by a hash of the patient, for
            a copy without them.
        seed: of the hash that carves `validate` out of train_val_list.txt, by patient, or of "hashed".
        validate: share of the train_val patients that become the validate split, in [0, 1).
        boxed_patients: "listed" keeps to the split lists; "test" moves every patient with a box to test, so that the
            pointing game has its cases also where the lists are not the published ones (these hold all boxes in test).

    Returns:
        One row an image, report "" and report_source "none". Left out are rows without an image file, rows in neither
        split list and the second of two rows of one image. An age over 110 years (NIH has typing errors such as 414)
        is NaN.

    Raises:
        FileNotFoundError: naming the file or folder that is missing.
        ValueError: for missing columns, an unknown label or view, an image or a patient in both split lists, or lists
            that are exchanged.
    """
    if not 0 <= validate < 1:
        raise ValueError(f"validate = {validate} is not a share of the patients; expected 0 <= validate < 1")
    folder = open_root(root, layout="nih", expected=EXPECTED)
    entry = require_file(folder, with_gz(*ENTRY_FILES), layout="nih", expected=EXPECTED)
    table = read_csv(entry, columns=COLUMNS)
    stems = table["Image Index"].str.rsplit(".", n=1).str[0]
    frame = pd.DataFrame({"image_id": stems, "study_id": stems, "patient_id": table["Patient ID"]})
    frame["view"] = normalise_views(table["View Position"], file=entry, option="mend the row")
    frame["report_source"] = "none"
    frame["sex"] = next((table[name] for name in ("Patient Gender", "Patient Sex") if name in table), "")
    frame["age"], notes = _ages(table.get("Patient Age"), ids=stems)
    notes += _editions(folder, entry) + _oddities(table, frame)
    labels, more = _labels(table["Finding Labels"], ids=stems, file=entry)
    frame = pd.concat([frame, labels], axis=1)
    notes += more

    again, other = stems.duplicated(), stems.duplicated() & ~table.assign(stem=stems).duplicated()
    mend = "remove the second row"
    drops = [
        Remark("row given twice", tuple(stems[again & ~other]), "error", mend),
        Remark("row given twice with other values: the first is kept", tuple(stems[other]), "error", mend),
    ]
    frame, table = (rows[~again].reset_index(drop=True) for rows in (frame, table))

    boxes, box_drops, box_notes = read_boxes(
        folder, finding_of=LABELS, named=dict(zip(frame["image_id"], table["Finding Labels"], strict=True))
    )
    drops, notes = drops + box_drops, notes + box_notes
    frame["boxes"] = frame["image_id"].map(boxes).fillna("")
    frame["split"], unlisted, more = _splits(folder, frame, splits=splits, seed=seed, validate=validate)
    drops, notes = drops + unlisted, notes + more
    if boxed_patients == "test":
        boxed = frame["patient_id"].isin(frame.loc[frame["boxes"] != "", "patient_id"])
        moved = boxed & ~frame["split"].isin(["", "test"])
        frame.loc[moved, "split"] = "test"
        notes.append(Remark("moved to test, for a picture of the patient has a box", ids_of(frame, moved), "note"))

    frame["image"] = ""
    listed = present = frame["split"] != ""
    if images:
        found, more = _images(folder, known=frame["image_id"])
        notes += more
        frame["image"] = frame["image_id"].map(found).fillna("")
        present = frame["image"] != ""
        mend = "fetch the images_NNN.tar.gz that holds it again"
        drops.append(
            Remark("no image file of this name under images*/", ids_of(frame, listed & ~present), "error", mend)
        )
    kept = frame[listed & present]
    if kept.empty:
        raise FileNotFoundError(
            f"layout nih: none of the {len(frame)} images of {entry.name} is under {folder}/images*/ and in a split "
            f"list; expected for instance images/{table['Image Index'].iloc[0] if len(table) else '00000001_000.png'}"
        )
    try:
        return make_manifest(kept, source="nih", drops=drops, notes=notes)
    except ValueError as error:
        raise ValueError(f"{entry}: {error}") from error


def _images(folder: Path, *, known: pd.Series) -> tuple[dict[str, str], list[Remark]]:
    """Paths of the pictures by stem."""
    places = sorted((place for place in folder.iterdir() if place.name.startswith("images")), key=lambda p: p.name)
    names = [f"{place.name}/{name}" for place in places for name in list_files(place)]
    files = pd.DataFrame({"name": pd.Series(names, dtype=object)})
    files["stem"] = files["name"].map(lambda name: name.rsplit("/", 1)[-1].rsplit(".", 1)[0])
    # A PNG is as published, a JPEG somebody's copy of it; of two of a kind the first folder's is read.
    files["copy"] = ~files["name"].str.lower().str.endswith(".png")
    files = files.sort_values("copy", kind="stable")
    orphan = ~files["stem"].isin(known)
    again = files["stem"].duplicated() & ~orphan
    notes = [
        Remark(
            "picture that no row of the table names",
            tuple(files.loc[orphan, "name"]),
            "warning",
            "take it away, or take the table as it is published",
        ),
        Remark(
            "second copy of a picture: the PNG, else the first folder's, is read",
            tuple(files.loc[again, "name"]),
            "warning",
            "take one of the two away",
        ),
    ]
    read = files[~orphan & ~again]
    return {stem: f"{folder}/{name}" for stem, name in zip(read["stem"], read["name"], strict=True)}, notes


def _splits(
    folder: Path, frame: pd.DataFrame, *, splits: str, seed: int, validate: float
) -> tuple[np.ndarray, list[Remark], list[Remark]]:
    """Split of each row, "" where no list names it; drops; notes."""
    if splits == "hashed":
        reason = "split by a hash of the patient, not by the published lists"
        return hashed_split(frame["patient_id"], seed=seed), [], [Remark(reason, LISTS, "note")]
    if splits != "lists":
        raise ValueError(f"splits = {splits!r} does not exist; expected 'lists' or 'hashed'")
    lists: dict[str, set[str]] = {}
    for name in LISTS:
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"layout nih: {folder / name} is missing; expected {EXPECTED}; fetch it, or read with "
                "layout_options.splits=hashed"
            )
        lines = read_text(folder / name).splitlines()
        lists[name] = {line.strip().rsplit(".", 1)[0] for line in lines if line.strip()}
    train, test = (lists[name] for name in LISTS)
    if (len(train), len(test)) == PUBLISHED_LINES[::-1]:
        raise ValueError(
            f"{folder}: {LISTS[0]} names {len(train):,} pictures and {LISTS[1]} {len(test):,}, expected "
            f"{PUBLISHED_LINES[0]:,} and {PUBLISHED_LINES[1]:,}: the lists are exchanged; give each the other's name"
        )
    both = sorted(train & test)
    if both:
        raise ValueError(
            f"{folder}: image {both[0]} is in both {LISTS[0]} and {LISTS[1]} ({len(both)} images are); "
            "take it out of one of them"
        )
    carved = hash_fractions(frame["patient_id"], seed=seed) < validate
    in_train, in_test = frame["image_id"].isin(train), frame["image_id"].isin(test)
    chosen = np.select([in_test, in_train & carved, in_train], ["test", "validate", "train"], "").astype(object)
    # A list that was cut off at the end of a line looks whole: only the rows that it no longer names tell.
    counted = " nor ".join(f"{name} ({len(lists[name]):,} pictures)" for name in LISTS)
    published = " and ".join(f"{count:,}" for count in PUBLISHED_LINES)
    mend = (
        f"fetch the list that is too short again (published are {published} pictures), add the picture to one, or read "
        "with layout_options.splits=hashed"
    )
    drops = [Remark(f"in neither {counted}", ids_of(frame, ~(in_train | in_test)), "error", mend)]
    # Also of a subset: its table is shorter than the published lists.
    unknown = tuple(sorted((train | test) - set(frame["image_id"])))
    mend = "take the table as published, unless it is a subset that you chose"
    return chosen, drops, [Remark("in a split list, but in no row of the table", unknown, "warning", mend)]


def _ages(texts: pd.Series | None, *, ids: pd.Series) -> tuple[np.ndarray, list[Remark]]:
    if texts is None:
        return np.full(len(ids), np.nan, np.float32), [Remark("table without ages", ("Patient Age",), "note")]
    # The first edition writes 058Y, 013M, 028D; the 2020 edition plain years.
    parts = texts.str.strip().str.extract(r"^(\d+)([YMD]?)$")
    years = pd.to_numeric(parts[0]) / parts[1].map({"": 1.0, "Y": 1.0, "M": 12.0, "D": 365.25}).astype(float)
    old = years > OLDEST
    notes = [
        Remark("age over 110 years: cleared", tuple(ids[old]), "note", "correct the age in the table if you know it"),
        Remark("age that is no number of years, months or days: left empty", tuple(ids[years.isna()]), "warning"),
    ]
    return years.where(~old).to_numpy(dtype=np.float32), notes


def _editions(folder: Path, entry: Path) -> list[Remark]:
    others = [find_file(folder, [name]) for name in with_gz(*ENTRY_FILES)]
    unread = tuple(other.name for other in others if other is not None and other != entry)
    return [Remark("another edition of the table, or a gzipped copy: not read", unread, "note")]


def _oddities(table: pd.DataFrame, frame: pd.DataFrame) -> list[Remark]:
    """What does not fit together within the table, and what is unknown."""
    notes = [Remark("view is not given", ids_of(frame, frame["view"] == "unknown"), "warning")]
    if isinstance(frame["sex"].iloc[0] if len(frame) else None, str):
        sexes = frame.groupby("patient_id")["sex"].transform("nunique")
        notes.append(Remark("patient of two sexes", ids_of(frame, sexes > 1), "warning", "mend the rows"))
    # Names are patient_number, as in 00000061_012.png.
    parts = frame["image_id"].str.extract(r"^(\d{8})_(\d{3})$")
    named = parts[0].notna()
    patient = pd.to_numeric(parts[0]) != pd.to_numeric(table["Patient ID"], errors="coerce")
    reason = "Patient ID is not the number in the picture's name"
    notes.append(Remark(reason, ids_of(frame, named & patient), "error", "mend the row: splits go by the Patient ID"))
    if "Follow-up #" in table:
        # The 2020 edition numbers by date, the names do not: nothing is read from either.
        follow = pd.to_numeric(parts[1]) != pd.to_numeric(table["Follow-up #"], errors="coerce")
        notes.append(
            Remark("Follow-up # is not the number in the picture's name", ids_of(frame, named & follow), "note")
        )
    return notes


def _labels(joined: pd.Series, *, ids: pd.Series, file: Path) -> tuple[pd.DataFrame, list[Remark]]:
    # The table has 112,120 rows and 836 different texts: each text is worked out once.
    codes, texts = pd.factorize(joined.str.strip())
    named = pd.Series(texts, dtype=object).str.get_dummies(sep="|")
    unknown = sorted(set(named.columns) - set(LABELS))
    if unknown:
        row = int(np.flatnonzero(named[unknown[0]].to_numpy()[codes])[0])
        raise ValueError(
            f"{file}: row {row + 2}: finding {unknown[0]!r} is not one of NIH's {sorted(LABELS)}; mend the row"
        )
    labels = pd.DataFrame(0.0, index=named.index, columns=list(FINDINGS))
    for column in named.columns:
        target = LABELS[column]
        if target is not None:
            labels[target] = np.maximum(labels[target], named[column])
    labels["Lung Opacity"] = labels[["Lung Opacity", *OPACITIES]].max(axis=1)
    labels[list(UNLABELLED)] = np.nan
    # An empty field says nothing, not "nothing found".
    empty = named.sum(axis=1) == 0
    labels.loc[empty, :] = np.nan
    healthy = named["No Finding"] == 1 if "No Finding" in named else pd.Series(False, index=named.index)
    lost = named[[name for name in named.columns if LABELS[name] is None]].any(axis=1)
    rows = {
        "lost": lost.to_numpy()[codes],
        "contrary": (healthy & (named.sum(axis=1) > 1)).to_numpy()[codes],
        "empty": empty.to_numpy()[codes],
    }
    notes = [
        Remark("Emphysema, Fibrosis or Hernia, which have no CheXpert label", tuple(ids[rows["lost"]]), "note"),
        Remark("No Finding beside a finding", tuple(ids[rows["contrary"]]), "error", "mend the row"),
        Remark("no label", tuple(ids[rows["empty"]]), "warning", "mend the row"),
    ]
    return labels.iloc[codes].reset_index(drop=True), notes
