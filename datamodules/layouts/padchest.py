"""PadChest as published (Bustos et al., MedIA 2020): one CSV, 16-bit PNG, Spanish reports. It has no official split.

`PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv` or `.csv.gz`; pictures as `<ImageDir>/<ImageID>`, or in any
other folders below the root, also as resized copies of another suffix: they are found by their stem. What the label
names mean is in `padchest_labels`. Views are the column Projection, which a network filled where MethodProjection says
so; AP_horizontal is AP, and COSTAL (oblique views of ribs), UNK and EXCLUDE are unknown. The reports are stemmed,
without accents and without sections, so there is no option for a section. Age is the year of the study less that of
birth.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from datamodules.layouts.padchest_labels import (
    CONTRADICTION,
    EMPTY,
    LIMITED,
    MALFORMED,
    MISSING,
    TRIMMED,
    TWICE,
    UNCHANGED,
    parse,
)
from datamodules.layouts.source import (
    IMAGE_SUFFIXES,
    find_file,
    hashed_split,
    list_files,
    open_root,
    read_csv,
    require_file,
    with_gz,
)
from datamodules.layouts.views import VIEW_NAMES, normalise_views
from datamodules.manifest import Level, Manifest, Remark, make_manifest
from datamodules.reports.sections import clean

TABLES = with_gz("PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv")
COLUMNS = (
    "ImageID",
    "ImageDir",
    "StudyDate_DICOM",
    "StudyID",
    "PatientID",
    "PatientBirth",
    "PatientSex_DICOM",
    "ViewPosition_DICOM",
    "Projection",
    "MethodProjection",
    "Report",
    "MethodLabel",
    "Labels",
)
EXPECTED = f"{TABLES[0]}[.gz] and the pictures as <ImageDir>/<ImageID>"
# The table has 67,625 patient numbers, two of which share a study.
PUBLISHED = {"images": 160_861, "studies": 109_931, "patients": 67_624}
BY_PHYSICIANS = "Physician"
REPORT_SOURCE = "column Report (Spanish)"
OLDEST = 110.0
# What each oddity of the labels is worth, and what to do about it.
LABEL_ODDITIES: dict[str, tuple[Level, str]] = {
    MALFORMED: ("error", "mend the column Labels, or fetch the table again"),
    MISSING: ("warning", ""),
    EMPTY: ("note", ""),
    TRIMMED: ("note", ""),
    TWICE: ("note", ""),
    CONTRADICTION: ("warning", "read the report of these rows, and mend the column Labels"),
    UNCHANGED: ("note", ""),
    LIMITED: ("warning", ""),
}


def recognise(root: Path) -> bool:
    """Whether this folder holds PadChest's table."""
    return find_file(root, TABLES) is not None


def read(
    root: str | Path | None,
    *,
    images: bool = True,
    seed: int = 0,
    report: bool = True,
    without_report: Literal["drop", "keep"] = "drop",
    labelled_by: Literal["all", "physician"] = "all",
) -> Manifest:
    """Read the data set.

    Args:
        root: the folder with the CSV and the pictures.
        images: False reads the table alone: every row is kept, with image "".
        seed: of the split by patient, 80/10/10.
        report: False leaves the Spanish reports out: report "" and report_source "none" in every row.
        without_report: what becomes of a row whose report is empty or has no letters.
        labelled_by: "physician" keeps the rows that people labelled, 24 % of the set; the others were labelled by a
            recurrent network that read the report (MethodLabel).

    Returns:
        One row an image. Rows without picture, doubled rows and rows without ids are in `drops`.

    Raises:
        FileNotFoundError: when the root or the CSV is missing, or none of its pictures is there.
        ValueError: naming the file and row, for missing columns, an unknown label, projection or method.
    """
    if without_report not in ("drop", "keep") or labelled_by not in ("all", "physician"):
        raise ValueError(
            f"layout padchest: without_report = {without_report!r} and labelled_by = {labelled_by!r}; expected "
            "'drop' or 'keep', and 'all' or 'physician'"
        )
    folder = open_root(root, layout="padchest", expected=EXPECTED)
    file = require_file(folder, TABLES, layout="padchest", expected=EXPECTED)
    table = read_csv(file, columns=COLUMNS)
    _require_methods(table, file)
    parsed = parse(table["Labels"], file=file)
    frame = pd.DataFrame({"image_id": table["ImageID"].map(_stem).astype(object), "study_id": table["StudyID"]})
    frame["patient_id"], shared = _patients(table)
    frame["view"] = normalise_views(table["Projection"], file=file, option="mend the row")
    frame["age"], aged = _ages(table)
    frame["sex"] = table["PatientSex_DICOM"].where(table["PatientSex_DICOM"].isin(["M", "F"]), "")
    texts = table["Report"].map(clean)
    # The file writes an empty report as "nan", and one whose words were all removed as its full stops.
    told = texts.str.contains(r"[^\W\d_]", regex=True).to_numpy(bool) & (texts != "nan").to_numpy()
    frame["report"] = np.where(told & report, texts, "")
    frame["report_source"] = np.where(told & report, REPORT_SOURCE, "none")
    frame = pd.concat([frame, parsed.labels], axis=1)
    frame["split"] = hashed_split(frame["patient_id"], seed=seed)
    frame["image"], strangers, doubles = _pictures(folder, table) if images else ("", [], [])

    # Each row leaves for the first reason that applies.
    leaves: list[tuple[np.ndarray, str, Level, str]] = [
        (
            _blank(table[["ImageID", "StudyID", "PatientID"]]),
            "no ImageID, StudyID or PatientID",
            "error",
            "mend the row",
        ),
        (table["ImageID"].duplicated().to_numpy(), "row given twice; the first is kept", "error", "remove the row"),
        (
            (frame["image"] == "").to_numpy() & images,
            "no picture of this name",
            "error",
            "unpack the archive of its ImageDir again, or remove the row",
        ),
        (
            (table["MethodLabel"] != BY_PHYSICIANS).to_numpy() & (labelled_by == "physician"),
            "labelled by a network, left out by labelled_by",
            "note",
            "",
        ),
        (~told & report & (without_report == "drop"), "no report", "warning", "set without_report: keep"),
    ]
    kept, drops = np.ones(len(table), bool), []
    ids = frame["image_id"].where(frame["image_id"].str.strip() != "", [f"row {row + 2}" for row in range(len(table))])
    for wrong, reason, level, mend in leaves:
        drops.append(_remark(reason, ids[wrong & kept], level, mend))
        kept &= ~wrong
    if not kept.any():
        why = ", ".join(f"{remark.count} {remark.reason}" for remark in drops if remark.count)
        raise FileNotFoundError(
            f"layout padchest: none of the {len(table)} rows of {file.name} can be used ({why}); {folder} should hold "
            f"{EXPECTED}, for instance {'/'.join(table[['ImageDir', 'ImageID']].iloc[0]) if len(table) else '0/a.png'}"
        )
    notes = [
        _remark("a picture that no row names", strangers, "warning", "remove the file, or fetch the table again"),
        _remark("several pictures of this name; the first is taken", doubles, "warning", "remove the copies"),
    ]
    for wrong, reason, level, mend in [
        *((parsed.oddities[reason], reason, level, mend) for reason, (level, mend) in LABEL_ODDITIES.items()),
        *_oddities(table, frame, shared=shared, aged=aged),
        (~told & report, "no report", "warning", ""),
    ]:
        notes.append(_remark(reason, frame["image_id"][wrong & kept], level, mend))
    try:
        return make_manifest(frame[kept], source="padchest", drops=drops, notes=notes)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def _oddities(
    table: pd.DataFrame, frame: pd.DataFrame, *, shared: np.ndarray, aged: np.ndarray
) -> list[tuple[np.ndarray, str, Level, str]]:
    """What is kept but odd, inferred or unknown: rows, reason, level, mend."""
    known = table["Projection"].isin(["EXCLUDE", "UNK", "COSTAL"]).to_numpy()
    positions = table["ViewPosition_DICOM"].str.upper().map(VIEW_NAMES).fillna("unknown")
    differ = (positions != "unknown") & (frame["view"] != "unknown") & (positions != frame["view"])
    birth = table["PatientBirth"].where(~_blank(table[["PatientBirth"]]))
    several = birth.groupby(table["PatientID"]).transform("nunique") > 1
    sexes = frame["sex"].where(frame["sex"] != "").groupby(table["PatientID"]).transform("nunique") > 1
    by_network = (table["MethodProjection"] != "Manual review of DICOM fields").to_numpy()
    return [
        (
            by_network & ~known,
            "the view was inferred by a network (MethodProjection)",
            "note",
            "",
        ),
        (
            (frame["view"] == "unknown").to_numpy(),
            "Projection is COSTAL, UNK or EXCLUDE; the view is unknown",
            "warning",
            "",
        ),
        (
            differ.to_numpy(),
            "Projection and ViewPosition_DICOM differ; Projection is taken",
            "warning",
            "look at the picture",
        ),
        (shared, "one study under two patients; they are taken as one patient", "error", "mend the column PatientID"),
        (several.to_numpy(), "the patient's rows differ in PatientBirth", "warning", ""),
        (sexes.to_numpy(), "the patient's rows differ in PatientSex_DICOM", "warning", ""),
        ((frame["sex"] == "").to_numpy(), "PatientSex_DICOM is neither M nor F; the sex is unknown", "note", ""),
        (aged, "no year of birth, or an impossible age; the age is unknown", "note", ""),
    ]


def _require_methods(table: pd.DataFrame, file: Path) -> None:
    wrong = np.flatnonzero(~table["MethodLabel"].isin([BY_PHYSICIANS, "RNN_model"]).to_numpy())
    if len(wrong):
        found = table["MethodLabel"].iloc[wrong[0]]
        raise ValueError(
            f"{file}: row {wrong[0] + 2}: MethodLabel is {found!r}, expected {BY_PHYSICIANS!r} or 'RNN_model' "
            f"({len(wrong)} rows); mend the row, or take the file as it is published"
        )


def _patients(table: pd.DataFrame) -> tuple[pd.Series, np.ndarray]:
    """Patient of each row, and which rows are of a patient who shares a study with another.

    Those are one person under two numbers; in two splits they would leak.
    """
    patients = table["PatientID"]
    pairs = table[["StudyID", "PatientID"]].drop_duplicates()
    # Blank ids leave as rows, and would join everybody.
    pairs = pairs[~_blank(pairs)]
    same: dict[str, str] = {}
    for _, group in pairs[pairs["StudyID"].duplicated(keep=False)].groupby("StudyID", sort=True):
        heads = sorted({_head(name, same) for name in group["PatientID"]})
        same |= dict.fromkeys(heads[1:], heads[0])
    joined = {name: _head(name, same) for name in {*same, *same.values()}}
    return patients.map(lambda name: joined.get(name, name)), patients.isin(list(joined)).to_numpy()


def _head(name: str, same: dict[str, str]) -> str:
    while name in same:
        name = same[name]
    return name


def _ages(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Years [N], NaN where unknown, and where that is so."""
    studied = pd.to_numeric(table["StudyDate_DICOM"].str[:4], errors="coerce")
    years = (studied - pd.to_numeric(table["PatientBirth"], errors="coerce")).to_numpy(dtype=np.float64)
    unknown = ~((years >= 0) & (years <= OLDEST))
    return np.where(unknown, np.nan, years), unknown


def _pictures(folder: Path, table: pd.DataFrame) -> tuple[pd.Series, list[str], list[str]]:
    """Path of each row's picture ("" for none), pictures that no row names, and names that several pictures have."""
    stems = table["ImageID"].map(_stem)
    named = dict(zip(stems, table["ImageDir"] + "/" + stems, strict=True))
    found: dict[str, str] = {}
    strangers, doubles = [], []
    for name in list_files(folder, suffixes=IMAGE_SUFFIXES):
        stem = _stem(name.rsplit("/", 1)[-1])
        if stem not in named:
            strangers.append(name)
        elif stem in found:
            doubles.append(stem)
        # The published place goes before any other.
        if stem in named and (stem not in found or _stem(name) == named[stem]):
            found[stem] = name
    base = str(folder).rstrip("/")
    return stems.map(lambda stem: f"{base}/{found[stem]}" if stem in found else ""), strangers, doubles


def _blank(columns: pd.DataFrame) -> np.ndarray:
    return columns.apply(lambda column: column.str.strip().isin(["", "nan", "None"])).any(axis=1).to_numpy()


def _stem(name: str) -> str:
    return name.rsplit(".", 1)[0]


def _remark(reason: str, ids: Sequence[str] | pd.Series, level: Level, mend: str) -> Remark:
    return Remark(reason, tuple(ids), level, mend)
