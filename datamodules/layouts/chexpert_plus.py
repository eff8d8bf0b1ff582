"""CheXpert-Plus as published (Chambon et al., arXiv 2405.19538): one CSV with reports, CheXbert labels, PNG or DICOM.

Reports. The sections are taken from the published columns section_findings and section_impression; the column `report`
is not split again. Findings are missing in most reports (the collectors looked for impressions), so `section="first"`
or "impression" keeps far more of them than "findings".

Labels. CheXbert labelled findings, impression and whole report, each in a JSON Lines file of its own: 1, 0, -1
(uncertain) or null (not mentioned, here NaN). Of an empty section CheXbert says "No Finding"; such labels are cleared.
Pictures are matched by patient, study and view, so PNG, DICOM and CheXpert's own JPEG serve, in this order.
"""

import json
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from datamodules.images import DICOM
from datamodules.layouts.source import (
    IMAGE_SUFFIXES,
    find_file,
    ids_of,
    open_root,
    read_csv,
    read_text,
    require_file,
    with_gz,
)
from datamodules.layouts.stanford import (
    LABEL_VALUES,
    PLUS_TABLE,
    Splits,
    assign_splits,
    drop_repeats,
    find_pictures,
    label_remarks,
    read_paths,
    read_people,
    read_views,
    require_known,
)
from datamodules.manifest import Manifest, Remark, make_manifest
from datamodules.reports.labels import FINDINGS
from datamodules.reports.sections import Section, Sections, choose, clean

TEXTS = {"findings": "section_findings", "impression": "section_impression", "report": "report"}
COLUMNS = (
    "path_to_image",
    "frontal_lateral",
    "ap_pa",
    "deid_patient_id",
    "report",
    "section_findings",
    "section_impression",
    "age",
    "sex",
    "split",
)
LABEL_FOLDERS = ("chexbert_labels/", "labels/", "")
EXPECTED = (
    f"{PLUS_TABLE}, chexbert_labels/*_fixed.json and PNG/PNG/train/patientNNNNN/studyN/viewN_frontal.png "
    "(or the DICOM, or CheXpert's JPEG)"
)
PUBLISHED = {"images": 223_462, "studies": 187_711, "patients": 64_725, "reports": 187_711}


def recognise(root: Path) -> bool:
    """Whether this folder holds CheXpert-Plus's table."""
    return find_file(root, with_gz(PLUS_TABLE)) is not None


def read(
    root: str | Path | None,
    *,
    images: bool = True,
    section: Section = "findings",
    without_report: Literal["drop", "keep"] = "drop",
    labels: Literal["impression", "findings", "report", "none"] = "impression",
    splits: Splits = "official",
    validate: float = 0.02,
    seed: int = 0,
) -> Manifest:
    """Read the data set.

    Args:
        root: the folder with the table (gzipped or not), the labels and the pictures, at any depth.
        images: False reads the tables only; every row is kept, with image "".
        section: which section is the report, by the rules of `datamodules.reports.sections.choose`.
        without_report: "keep" keeps a row without that section with report "" and report_source "none".
        labels: which text CheXbert read for the labels; "none" leaves them unknown, as a missing file does.
        splits: "official": the set has no test split, so valid (234 images) is test, and the share `validate` of the
            patients in train is validate. "hashed" is 80/10/10 by a hash of the patient.
        validate: share of the patients in train, in [0, 1).
        seed: of the hash.

    Returns:
        One row an image. Rows without a picture or without the section, and the second of two rows of one image, are
        left out.

    Raises:
        FileNotFoundError: naming the file that is missing.
        ValueError: naming file and row, for what the published table does not have.
    """
    if labels not in (*TEXTS, "none"):
        raise ValueError(f"labels = {labels!r} does not exist; expected one of {[*TEXTS, 'none']}")
    folder = open_root(root, layout="chexpert_plus", expected=EXPECTED)
    file = require_file(folder, with_gz(PLUS_TABLE), layout="chexpert_plus", expected=EXPECTED)
    table = read_csv(file, columns=COLUMNS)
    require_known(table["split"], known=("train", "valid"), column="split", file=file)
    paths = read_paths(table["path_to_image"], file=file)
    views, notes = read_views(table["frontal_lateral"], table["ap_pa"], paths=paths, file=file)
    sex, age, more = read_people(table["sex"], table["age"], paths=paths, file=file)
    notes += more
    other = table["deid_patient_id"] != paths["patient_id"]
    mend = "mend the row: splits go by deid_patient_id"
    notes.append(Remark("deid_patient_id is not the patient of the path", ids_of(paths, other), "error", mend))
    # With the patient of the row too: else a wrong one would make a study of two patients.
    study = table["deid_patient_id"] + "_" + paths["study_id"].str.rsplit("_", n=1).str[1]
    frame = paths.assign(
        patient_id=table["deid_patient_id"],
        study_id=study,
        view=views,
        sex=sex,
        age=age,
        official=table["split"],
        text=table["report"],
    )
    frame["report"], frame["report_source"] = _reports(table, section=section)
    kept, drops = drop_repeats(table, paths)
    frame, table = (rows[kept].reset_index(drop=True) for rows in (frame, table))

    frame["split"], more = assign_splits(
        frame, splits=splits, has_test=False, validate=validate, seed=seed, tables=(file.name,)
    )
    notes += more
    values, more = _labels(folder, table, ids=frame["image_id"], labels=labels)
    frame = frame.join(values)
    notes += more + (label_remarks(frame) if frame[list(FINDINGS)].notna().any(axis=None) else [])
    differ = frame.groupby("study_id")["text"].transform("nunique") > 1
    notes.append(Remark("views of one study with different reports", ids_of(frame, differ), "warning"))

    absent = pd.Series(False, index=frame.index)
    frame["image"] = ""
    if images:
        suffixes = (".png", *DICOM, *(suffix for suffix in IMAGE_SUFFIXES if suffix != ".png"))
        found, more = find_pictures([folder], suffixes=suffixes, known=frame["image_id"])
        notes += more
        frame["image"] = frame["image_id"].map(found).fillna("")
        absent = frame["image"] == ""
        mend = "fetch the archive that holds it again"
        drops.append(Remark("no picture of this name", ids_of(frame, absent), "error", mend))
        if absent.all():
            raise FileNotFoundError(
                f"layout chexpert_plus: none of the {len(frame)} pictures of {file.name} is under {folder}; expected "
                "for instance PNG/PNG/train/patient00001/study1/view1_frontal.png"
            )
    silent = frame["report"] == ""
    if without_report == "drop":
        if (silent | absent).all():
            raise ValueError(f"{file}: no row has the section {section!r}; set layout_options.section")
        mend = "read with layout_options.section=first, or layout_options.without_report=keep"
        drops.append(Remark(f"no section {section!r}", ids_of(frame, silent & ~absent), "warning", mend))
        frame = frame[~(silent | absent)]
    else:
        notes.append(
            Remark(f"no section {section!r}: kept without a report", ids_of(frame, silent & ~absent), "warning")
        )
        frame = frame[~absent]
    frame = frame.drop(columns=["side", "official", "text"])
    return make_manifest(frame, source="chexpert_plus", drops=drops, notes=notes)


def _reports(table: pd.DataFrame, *, section: Section) -> tuple[list[str], list[str]]:
    """Text and rule of each row."""
    findings, impression = (_clean(table[TEXTS[name]]) for name in ("findings", "impression"))
    chosen = [choose(Sections(one, two), section) for one, two in zip(findings, impression, strict=True)]
    return [text for text, _ in chosen], [rule for _, rule in chosen]


def _clean(texts: pd.Series) -> list[str]:
    # Views of a study share their text; some copies write a line's end as a backslash and an n.
    codes, unique = pd.factorize(texts)
    cleaned = [clean(text.replace("\\n", " ")) for text in unique]
    return [cleaned[code] for code in codes]


def _labels(folder: Path, table: pd.DataFrame, *, ids: pd.Series, labels: str) -> tuple[pd.DataFrame, list[Remark]]:
    """The 14 labels of each row of the table, NaN where they are not known."""
    unknown = pd.DataFrame(np.nan, index=table.index, columns=list(FINDINGS))
    if labels == "none":
        return unknown, []
    name = f"{labels}_fixed.json"
    path = find_file(folder, [place + name for place in LABEL_FOLDERS])
    if path is None:
        mend = "unpack chexbert_labels.zip beside the table, or read with layout_options.labels=none"
        return unknown, [Remark("no file of CheXbert labels: labels unknown", (name,), "warning", mend)]
    records = _records(path)
    again = records["path_to_image"].duplicated()
    mend = "fetch chexbert_labels.zip again"
    notes = [Remark("labels given twice: the first are kept", tuple(records["path_to_image"][again]), "error", mend)]
    records = records[~again].set_index("path_to_image")
    strange = ~records.index.isin(table["path_to_image"])
    values = records.reindex(table["path_to_image"]).reset_index(drop=True)[list(FINDINGS)]
    without = ~table["path_to_image"].isin(records.index)
    empty = pd.Series([text == "" for text in _clean(table[TEXTS[labels]])], index=table.index)
    empty &= values.notna().any(axis=1)
    values[empty] = np.nan
    notes += [
        Remark("labels of a picture that no row of the table names", tuple(records.index[strange]), "warning", mend),
        Remark("picture without a record of labels", tuple(ids[without]), "warning", mend),
        Remark(f"labels of an empty {TEXTS[labels]}: cleared", tuple(ids[empty]), "note"),
    ]
    return values, notes


def _records(path: Path) -> pd.DataFrame:
    """Path and labels of each line of a JSON Lines file."""
    records = []
    # Not splitlines(), which would also part a line at characters that JSON allows within a text.
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            records.append((record["path_to_image"], *(record[finding] for finding in FINDINGS)))
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path}: line {number} is no record of path_to_image and the 14 labels ({error!r}); "
                "fetch the file again"
            ) from error
    frame = pd.DataFrame(records, columns=["path_to_image", *FINDINGS])
    allowed = [value for value in LABEL_VALUES.values() if not np.isnan(value)]
    for finding in FINDINGS:
        wrong = np.flatnonzero(frame[finding].notna() & ~frame[finding].isin(allowed))
        if len(wrong):
            raise ValueError(
                f"{path}: {frame['path_to_image'].iloc[wrong[0]]}: {finding} = {frame[finding].iloc[wrong[0]]} is no "
                "label; expected 1, 0, -1 or null; fetch the file again"
            )
        frame[finding] = frame[finding].astype(float)
    return frame
