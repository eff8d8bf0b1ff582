"""MIMIC-CXR-JPG 2.0.0 or 2.1.0 (Johnson et al., arXiv 1901.07042) with the reports of MIMIC-CXR, as published.

A picture is `files/p10/p10000032/s50414267/<dicom_id>.jpg`. Ids are "p10000032" (patient), "s50414267" (study) and the
dicom_id. Splits are the official ones. Age and sex are not in these tables.

Labels are those of one of the two labelers, as published: 1, 0, -1 (uncertain), and NaN where the report does not
mention the finding. "No Finding" is 1 or NaN, never 0. They stand for the study, so all its pictures have them.

Views: LL is the DICOM term for a left lateral. The few odd ones are mapped where they are clearly frontal or lateral;
obliques, a swimmer's view and the empty ones (about 15,800) are unknown.
"""

import re
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from datamodules.layouts import mimic_reports
from datamodules.layouts.source import IMAGE_SUFFIXES, list_files, open_root, read_csv, require_file, with_gz
from datamodules.manifest import Manifest, Remark, make_manifest
from datamodules.reports.labels import FINDINGS, SPLITS
from datamodules.reports.sections import Section

PUBLISHED: dict[str, int] = {
    "images": 377110,
    "studies": 227835,
    "patients": 65379,
    "reports": 227835,
    "train": 368960,
    "validate": 2991,
    "test": 5159,
}
EXPECTED = (
    "mimic-cxr-2.0.0-{split,metadata,chexpert or negbio}.csv[.gz], files/p10/p10000032/s50414267/<dicom_id>.jpg and "
    + mimic_reports.EXPECTED
)
# The labels have CheXpert's names; the order in the files is alphabetical.
LABELS: dict[str, str] = {finding: finding for finding in FINDINGS}
VIEWS = {"PA": "PA", "AP": "AP", "LATERAL": "LATERAL", "LL": "LATERAL", "": "unknown"}
# Decubitus views (LLD, RLD) and the lordotic AP AXIAL are frontal projections of a patient who lies or leans back.
INFERRED_VIEWS = {
    "AP AXIAL": "AP",
    "AP LLD": "AP",
    "AP RLD": "AP",
    "PA LLD": "PA",
    "PA RLD": "PA",
    "RL": "LATERAL",
    "XTABLE LATERAL": "LATERAL",
}
# 2.1.0 keeps the names of 2.0.0 and adds one table of its own.
TABLE = re.compile(r"mimic-cxr-2\.\d\.\d-[\w-]+\.csv(\.gz)?")
AGAIN = "fetch the table again from PhysioNet"
FEW = "the published tables lack a few studies; where they are many, fetch the table of labels again"


def read(
    root: str | Path | None,
    *,
    images: bool = True,
    labels: Literal["chexpert", "negbio"] = "chexpert",
    section: Section = "findings",
    without_report: Literal["drop", "keep"] = "drop",
    reports: str | Path | None = None,
) -> Manifest:
    """Read the data set.

    Args:
        root: the folder with the tables and `files/`.
        images: False reads the tables alone: all rows are kept, with image "".
        labels: whose labels: the CheXpert labeler's or NegBio's.
        section: which section is the report, by the rules of `datamodules.reports.sections.choose`.
        without_report: what becomes of a picture whose report is missing or lacks the section: "drop", or "keep" with
            report "" and report_source "none".
        reports: folder, zip or table of the reports; "none" to read the pictures without any. By default the texts
            under `root`/files or `root`/mimic-cxr-reports.zip, whichever has more, else
            `root`/mimic_cxr_sectioned.csv.

    Returns:
        One row an image, sorted as the metadata table is. `report_source` is "findings", "impression",
        "findings+impression", "last_paragraph", "rule:<section>" or "rule:span" (a study that
        `datamodules/reports/mimic_rules.json` names), or "none".

    Raises:
        FileNotFoundError: naming the table, reports or pictures that are missing.
        ValueError: for missing columns, ids that are not eight digits, an unknown label or split, a patient in two
            splits.
    """
    if without_report not in ("drop", "keep"):
        raise ValueError(f"without_report {without_report!r} does not exist; expected one of ['drop', 'keep']")
    if labels not in ("chexpert", "negbio"):
        raise ValueError(f"labels {labels!r} does not exist; expected one of ['chexpert', 'negbio']")
    folder = open_root(root, layout="mimic_cxr", expected=EXPECTED)
    drops: list[Remark] = []
    notes: list[Remark] = []
    metadata_file = _file(folder, "metadata")
    metadata = _table(metadata_file, columns=("dicom_id", "subject_id", "study_id", "ViewPosition"))
    split_file = _file(folder, "split")
    metadata["study"] = metadata["patient_id"].str[:3] + "/" + metadata["patient_id"] + "/" + metadata["study_id"]
    known = set(metadata["study"])
    frame = _joined(metadata, _splits(split_file), drops=drops)
    frame["view"] = _views(frame, notes=notes)
    frame = _labelled(frame, _file(folder, labels), notes=notes)

    walk = images or reports is None
    listed = list_files(folder / "files", suffixes=(*IMAGE_SUFFIXES, ".txt")) if walk else []
    texts = [name for name in listed if name.lower().endswith(".txt")]
    place = mimic_reports.locate(folder, named=reports, texts=texts)
    notes += place.notes
    frame["image"] = ""
    if images:
        frame = _pictured(frame, folder, listed, drops=drops, notes=notes)
    frame = _reported(frame, place, known, section, without_report, drops=drops, notes=notes)
    if frame.empty:
        what = ", ".join(f"{remark.count} × {remark.reason}" for remark in drops if remark.ids)
        raise FileNotFoundError(
            f"layout mimic_cxr: no picture of {metadata_file} is left ({what}); set section: first, or without_report: "
            "keep, or fetch what is missing"
        )
    try:
        return make_manifest(frame.drop(columns="study"), source="mimic_cxr", drops=drops, notes=notes)
    except ValueError as error:
        raise ValueError(f"{split_file}: {error}") from error


def recognise(root: Path) -> bool:
    """Whether the folder has one of MIMIC-CXR-JPG's tables, of any version, or MIMIC-CXR's zip of reports."""
    if not root.is_dir():
        return False
    return any(TABLE.fullmatch(file.name) or file.name == mimic_reports.ARCHIVE for file in root.iterdir())


def _file(folder: Path, name: str) -> Path:
    return require_file(folder, with_gz(f"mimic-cxr-2.0.0-{name}.csv"), layout="mimic_cxr", expected=EXPECTED)


def _table(file: Path, *, columns: tuple[str, ...]) -> pd.DataFrame:
    """A table with its ids as "p10000032" and "s50414267" in patient_id and study_id."""
    table = read_csv(file, columns=columns)
    for column, name, letter in (("subject_id", "patient_id", "p"), ("study_id", "study_id", "s")):
        wrong = np.flatnonzero(~table[column].str.fullmatch(r"\d{8}").to_numpy(dtype=bool))
        if len(wrong):
            raise ValueError(
                f"{file}: row {wrong[0] + 2}: {column} is {table[column].iloc[wrong[0]]!r}, expected eight digits "
                f"({len(wrong)} rows); take the file as it is published"
            )
        table[name] = letter + table[column]
    return table


def _splits(file: Path) -> pd.DataFrame:
    table = _table(file, columns=("dicom_id", "study_id", "subject_id", "split"))
    wrong = np.flatnonzero(~table["split"].isin(SPLITS).to_numpy())
    if len(wrong):
        raise ValueError(
            f"{file}: row {wrong[0] + 2}: split is {table['split'].iloc[wrong[0]]!r}, expected one of {list(SPLITS)} "
            f"({len(wrong)} rows); mend the row or fetch the table again"
        )
    return table


def _joined(metadata: pd.DataFrame, splits: pd.DataFrame, *, drops: list[Remark]) -> pd.DataFrame:
    """The pictures that both tables name alike."""
    for name, table in (("metadata", metadata), ("split", splits)):
        again = table["dicom_id"].duplicated()
        drops.append(
            Remark(f"repeated row of the {name} table", tuple(table.loc[again, "dicom_id"]), "error", "remove the row")
        )
    metadata = metadata.drop_duplicates("dicom_id").rename(columns={"dicom_id": "image_id"})
    splits = splits.drop_duplicates("dicom_id")
    position, strange = _looked_up(metadata["image_id"], splits["dicom_id"])
    inside = position >= 0
    drops.append(Remark("no row in the split table", tuple(metadata.loc[~inside, "image_id"]), "error", AGAIN))
    drops.append(Remark("no row in the metadata table", tuple(splits.loc[strange, "dicom_id"]), "error", AGAIN))
    frame = metadata.loc[inside, ["image_id", "study_id", "patient_id", "study", "ViewPosition"]].reset_index(drop=True)
    other = splits.iloc[position[inside]].reset_index(drop=True)
    frame["split"] = other["split"]
    differs = (other[["study_id", "patient_id"]] != frame[["study_id", "patient_id"]]).any(axis=1)
    reason = "the metadata and split tables give it to different studies or patients"
    drops.append(Remark(reason, tuple(frame.loc[differs, "image_id"]), "error", AGAIN))
    frame = frame[~differs]
    shared = frame.groupby("study_id")["patient_id"].transform("nunique") > 1
    drops.append(Remark("its study is two patients'", tuple(frame.loc[shared, "image_id"]), "error", AGAIN))
    return frame[~shared].reset_index(drop=True)


def _views(frame: pd.DataFrame, *, notes: list[Remark]) -> pd.Series:
    names = frame["ViewPosition"].str.strip().str.upper()
    views = names.map(VIEWS | INFERRED_VIEWS)
    for reason, wrong, level, mend in (
        ("view inferred from an odd ViewPosition", names.isin(list(INFERRED_VIEWS)), "note", ""),
        ("ViewPosition is empty, so the view is unknown", names == "", "warning", "choose views by data.views"),
        ("view unknown, being neither frontal nor lateral", views.isna(), "warning", "choose views by data.views"),
    ):
        notes.append(Remark(reason, tuple(frame.loc[wrong, "image_id"]), level, mend))  # type: ignore[arg-type]
    return views.fillna("unknown")


def _labelled(frame: pd.DataFrame, file: Path, *, notes: list[Remark]) -> pd.DataFrame:
    table = _table(file, columns=("subject_id", "study_id", *LABELS))
    named = list(LABELS)
    texts = table[named]
    values = texts.apply(pd.to_numeric, errors="coerce")
    wrong = (~values.isin([1, 0, -1]) & (texts != "")).to_numpy()
    if wrong.any():
        row, column = (int(n) for n in np.argwhere(wrong)[0])
        raise ValueError(
            f"{file}: row {row + 2}: {named[column]} is {texts.iat[row, column]!r}, expected 1.0, 0.0, -1.0 or empty "
            f"({wrong.sum()} fields); {AGAIN}"
        )
    repeated = table["study_id"].duplicated()
    first = table[~repeated]
    position, orphan = _looked_up(frame["study_id"], first["study_id"])
    labelled = position >= 0
    # Position -1, of a study without a row, is the row added at the end.
    unknown = np.full(len(named), np.nan, dtype=np.float32)
    numbers = np.vstack([values[~repeated].to_numpy(dtype=np.float32), unknown])[position]
    other = labelled & (np.append(first["patient_id"], "")[position] != frame["patient_id"].to_numpy())
    numbers[other] = np.nan
    frame[list(LABELS.values())] = numbers
    positive = frame[[f for f in FINDINGS if f not in ("No Finding", "Support Devices")]].eq(1).any(axis=1)
    contradictory = frame["No Finding"].eq(1) & positive
    again, strangers = table.loc[repeated, "study_id"], frame.loc[other, "study_id"].unique()
    for reason, ids, level, mend in (
        ("repeated row of the label table, the first was taken", again, "error", "remove the row"),
        ("label row of a study that is in no other table", first.loc[orphan, "study_id"], "warning", AGAIN),
        ("label row names another patient than the metadata does", strangers, "error", AGAIN),
        ("study without a label row, its labels are unknown", frame.loc[~labelled, "image_id"], "warning", FEW),
        ("No Finding beside a finding", frame.loc[contradictory, "image_id"], "warning", "look at the report"),
    ):
        notes.append(Remark(reason, tuple(ids), level, mend))  # type: ignore[arg-type]
    return frame


def _looked_up(wanted: pd.Series, table: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """Where each wanted id stands in the table, -1 where nowhere; which rows of the table nobody wanted.

    Series.isin says the same, but takes seconds for ids that pandas keeps in Arrow arrays.
    """
    position = pd.Index(table).get_indexer(pd.Index(wanted))
    strange = np.ones(len(table), dtype=bool)
    strange[position[position >= 0]] = False
    return position, strange


def _pictured(
    frame: pd.DataFrame, folder: Path, listed: list[str], *, drops: list[Remark], notes: list[Remark]
) -> pd.DataFrame:
    pictures: dict[str, str] = {}
    doubled = []
    for name in listed:
        stem, _, suffix = name.rpartition(".")
        if suffix.lower() == "txt":
            continue
        if stem in pictures:
            doubled.append(name)
        pictures.setdefault(stem, name)
    stems = frame["study"] + "/" + frame["image_id"]
    names = stems.map(pictures)
    gone = names.isna()
    dropped = {image_id for remark in drops for image_id in remark.ids}
    strays = pictures.keys() - set(stems)
    orphans = sorted(pictures[stem] for stem in strays if stem.rsplit("/", 1)[-1] not in dropped)
    notes.append(Remark("picture that no table names", tuple(orphans), "warning", "remove the file"))
    notes.append(Remark("a second picture of the same name", tuple(doubled), "warning", "remove one of them"))
    mend = "fetch files/p1*/p*/s*/<dicom_id>.jpg again from PhysioNet, or take its rows out of the tables"
    drops.append(Remark("no picture of this name under files/", tuple(frame.loc[gone, "image_id"]), "error", mend))
    if gone.all():
        raise FileNotFoundError(
            f"layout mimic_cxr: none of the {len(frame)} pictures of the tables is under {folder}/files; expected for "
            f"instance {stems.iloc[0] if len(stems) else 'p10/p10000032/s50414267/<dicom_id>'}.jpg"
        )
    frame["image"] = f"{folder / 'files'}/" + names
    return frame[~gone].reset_index(drop=True)


def _reported(
    frame: pd.DataFrame,
    place: mimic_reports.Place,
    known: set[str],
    section: Section,
    without_report: Literal["drop", "keep"],
    *,
    drops: list[Remark],
    notes: list[Remark],
) -> pd.DataFrame:
    found = mimic_reports.read_reports(place, wanted=list(frame["study"].unique()), known=known, section=section)
    for position, column in enumerate(("report", "report_source")):
        frame[column] = frame["study"].map({study: both[position] for study, both in found.texts.items()})
    frame["report"] = frame["report"].fillna("")
    frame["report_source"] = frame["report_source"].fillna("none")
    without = frame["report"] == ""
    reason_of = {study: reason for reason, studies in found.lost.items() for study in studies}
    reasons = frame["study"].map(reason_of).fillna(f"report has no section {section!r}")[without]
    ledger = drops if without_report == "drop" and place.kind != "none" else notes
    if place.kind != "none":
        fallback = ("warning", "set section: first, or without_report: keep")
        for reason, rows in frame.loc[without].groupby(reasons, sort=True):
            level, mend = mimic_reports.LOST.get(str(reason), fallback)
            ledger.append(Remark(str(reason), tuple(rows["image_id"]), level, mend))  # type: ignore[arg-type]
        if without_report == "drop":
            frame = frame[~without]
    by_rule = frame["report_source"].str.startswith("rule:")
    last = frame["report_source"] == "last_paragraph"
    for reason, ids in (
        ("report taken by a published rule of its study", frame.loc[by_rule, "image_id"]),
        ("report has neither findings nor impression, its last paragraph was taken", frame.loc[last, "image_id"]),
    ):
        notes.append(Remark(reason, tuple(ids), "note"))
    mend = "fetch the tables and the reports of one version"
    notes.append(Remark("report of a study that no table names", tuple(found.orphans), "warning", mend))
    notes.append(Remark("second report of a study, the first was taken", tuple(found.repeated), "error", "remove it"))
    return frame.reset_index(drop=True)
