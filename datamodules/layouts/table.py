"""Any CSV or Parquet table with a column of image paths, a column of texts, and patients; the rest is optional."""

import re
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from datamodules.images import DICOM
from datamodules.layouts.same_files import file_keys
from datamodules.layouts.source import IMAGE_SUFFIXES, hashed_split, open_root, read_csv, require_columns
from datamodules.layouts.table_cells import ages, labels, refuse_empty, splits, texts
from datamodules.layouts.table_pictures import find_pictures
from datamodules.layouts.table_quotes import refuse_swallowed_rows
from datamodules.layouts.table_studies import study_ids
from datamodules.layouts.views import normalise_views
from datamodules.manifest import Manifest, Remark, make_manifest
from datamodules.reports.labels import FINDINGS
from datamodules.reports.sections import Section, choose, split_sections

SUFFIXES = (".csv", ".csv.gz", ".parquet")
EXPECTED = "a table (*.csv, *.csv.gz or *.parquet), or be it, with image paths relative to the table"
SUFFIXES_OF_PICTURES = (*IMAGE_SUFFIXES, *DICOM, ".tif", ".tiff", ".bmp", ".gif", ".webp", ".jp2")
_FOLDERS = re.compile(r"[/\\]+")
# What may be positive in a study without a finding.
NO_FINDING, DEVICES = "No Finding", "Support Devices"


def read(
    root: str | Path | None,
    *,
    images: bool = True,
    file: str | None = None,
    image_column: str | None = "image",
    text_column: str | None = "report",
    patient_column: str | None = "patient",
    study_column: str | None = None,
    view_column: str | None = None,
    split_column: str | None = None,
    label_columns: dict[str, str] | None = None,
    section: Section | None = None,
    without_report: Literal["drop", "keep"] | None = None,
    seed: int = 0,
) -> Manifest:
    """Read the table.

    Args:
        root: the table, or the folder that holds it. Relative image paths start at the table's folder.
        images: False reads the table alone: each row is kept, image "".
        file: the table's name where the folder holds several.
        image_column: column of image paths; None for a table of texts.
        text_column: column of reports; None when there are none.
        patient_column: column of patients, by which splits are made; None says that each study is a patient of its own.
        study_column: column of studies; by default, and in rows where it is empty, each image is a study. Where each
            patient's are counted from 0 or 1 on, the ids are "<patient>/<study>".
        view_column: column of views; by default "view" where there is one, else all are unknown.
        split_column: column of train/validate/test; by default "split" where there is one that is not empty, else a
            seeded hash of the patient, 80/10/10.
        label_columns: finding → column of 1, 0, -1 (uncertain) or empty; by default the columns named as findings are.
        section: take only this section of each text. None takes the whole text.
        without_report: whether a row without a text goes to `drops` or stays with report "". None drops where a section
            is asked for, and keeps where the whole text is taken: such a table may be one of pictures.
        seed: of the split.

    Returns:
        One row a row of the table. Its image id is the picture's path with "_" between folders and without the suffix,
        unless two would be alike. Rows without their picture, and rows that repeat another in every column, are in
        `drops`. Columns `age` (years, cleared outside 0 to 110) and `sex` are read where they exist.

    Raises:
        FileNotFoundError: when the root, the table or every picture is missing.
        ValueError: naming file and row or column, for missing columns, unknown views, splits, labels, a patient in two
            splits, a study of two patients, or rows that were lost to an open quote.
    """
    if without_report not in ("drop", "keep", None):
        raise ValueError(f"layout_options.without_report is {without_report!r}; expected 'drop', 'keep' or null")
    path = _table(open_root(root, layout="table", expected=EXPECTED), file)
    table = _read_parquet(path) if path.name.endswith(".parquet") else read_csv(path)
    if table.empty:
        raise ValueError(f"{path}: the table has no rows")
    named = {f: f for f in FINDINGS if f in table.columns} if label_columns is None else label_columns
    unknown = sorted(set(named) - set(FINDINGS))
    if unknown:
        raise ValueError(f"layout_options.label_columns: {unknown[0]!r} is not a finding; expected {list(FINDINGS)}")
    wanted = {
        "image_column": image_column,
        "text_column": text_column,
        "patient_column": patient_column,
        "study_column": study_column,
        "view_column": view_column,
        "split_column": split_column,
        **{f"label_columns.{finding}": column for finding, column in named.items()},
    }
    require_columns(
        table,
        file=path,
        options={column: f"set layout_options.{option}{_hint(option)}" for option, column in wanted.items() if column},
    )
    if image_column and not path.name.endswith(".parquet"):
        refuse_swallowed_rows(table, image_column=image_column, suffixes=SUFFIXES_OF_PICTURES, path=path)
    view_column = view_column or ("view" if "view" in table else None)
    split_column = split_column or ("split" if "split" in table else None)
    optional = [text_column, view_column, split_column, *named.values(), *(c for c in ("age", "sex") if c in table)]
    empty = {column for column in optional if column and (texts(table[column], path) == "").all()}

    frame = pd.DataFrame(index=table.index)
    frame["image"] = ""
    if image_column:
        names = texts(table[image_column], path)
        refuse_empty(names, path, f"no image path in column {image_column!r}", "name one or remove the row")
        frame["image_id"] = image_ids(names)
    else:
        frame["image_id"] = [f"{path.stem}-{row}" for row in range(2, len(table) + 2)]
    frame["patient_id"] = texts(table[patient_column], path) if patient_column else frame["image_id"]
    mend = "name one, or set layout_options.patient_column to null if each row is a patient of its own"
    refuse_empty(frame["patient_id"], path, f"no patient in column {patient_column!r}", mend)
    notes: list[Remark] = []
    frame["study_id"] = frame["image_id"]
    if study_column:
        studies = texts(table[study_column], path)
        if patient_column is None:
            # Else a study's pictures would lie in several splits.
            frame["patient_id"] = studies.where(studies != "", frame["image_id"])
        frame["study_id"], more = study_ids(studies, rows=frame, path=path)
        notes += more
    frame["view"] = (
        normalise_views(
            texts(table[view_column], path), file=path, option="mend the row or set layout_options.view_column"
        )
        if view_column
        else "unknown"
    )
    frame["split"] = (
        splits(texts(table[split_column], path), path)
        if split_column and split_column not in empty
        else hashed_split(frame["patient_id"], seed=seed)
    )
    for finding, column in named.items():
        frame[finding] = labels(table[column], path)
    if "age" in table:
        frame["age"], note = ages(texts(table["age"], path), frame["image_id"])
        notes.append(note)
    if "sex" in table:
        frame["sex"] = texts(table["sex"], path)
    frame["report"] = texts(table[text_column], path) if text_column else ""
    frame["report_source"] = np.where(frame["report"] == "", "none", f"column {text_column}")
    if text_column and section is not None:
        chosen = [choose(split_sections(text), section) for text in frame["report"]]
        frame["report"] = [text for text, _ in chosen]
        frame["report_source"] = [source for _, source in chosen]

    # What is left out is decided last, so that messages count rows as the file does.
    drops, ids = [], frame["image_id"]
    repeated = table.astype(str).duplicated()
    drops.append(Remark("the row repeats another in every column", tuple(ids[repeated]), "error", "remove the row"))
    kept = ~repeated
    if image_column and images:
        frame["image"], present, orphans = find_pictures(names, folder=path.parent)
        missing = kept & ~present
        if not present.any():
            raise FileNotFoundError(
                f"{path}: none of the {len(names)} pictures exists; row 2 names {path.parent / names.iloc[0]}; "
                "put them there, mend the paths, or set layout_options.images to false to read the table alone"
            )
        mend = "put the file where the table names it, or remove the row"
        drops.append(Remark("no file where the row names its picture", tuple(ids[missing]), "error", mend))
        notes.append(Remark("a picture that no row names", tuple(orphans), "warning", "remove it, or add its row"))
        kept &= present
    if text_column:
        silent = kept & (frame["report"] == "")
        reason = "no text in the row" if section is None else f"no section {section!r}"
        remark = Remark(reason, tuple(ids[silent]), "warning", "write its text, or set layout_options.without_report")
        if without_report == "drop" or (without_report is None and section is not None):
            drops.append(remark)
            kept &= ~silent
        else:
            notes.append(remark)
    if not kept.any():
        counts = "; ".join(f"{drop.count} × {drop.reason}" for drop in drops if drop.ids)
        raise ValueError(f"{path}: none of the {len(frame)} rows is left: {counts}")
    if image_column:
        written = frame["image"] if images else names.where(names.str.contains("^/|://"), f"{path.parent}/" + names)
        notes += _twice(frame[kept], file_keys(written[kept]))
    frame = frame[kept]
    notes += _odd(frame, empty)
    try:
        return make_manifest(frame, source="table", drops=drops, notes=notes)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def recognise(root: Path) -> bool:
    """Whether this is a table, or a folder with exactly one: ask it last, since other data sets have tables too."""
    if root.is_file():
        return root.name.endswith(SUFFIXES)
    return root.is_dir() and len(_tables(root)) == 1


def image_ids(names: pd.Series) -> pd.Series:
    """The names with "_" between folders and without the suffix, if it is one of a picture: 1.2.840.1 ends in none.

    Different names that would be alike so (x.png and x.jpg, a/b.png and a_b.png) keep their suffix, else their folders.
    """
    stems = names.str.replace(rf"(?<=[^/\\])(?i:{'|'.join(map(re.escape, SUFFIXES_OF_PICTURES))})$", "", regex=True)
    ids = stems.str.replace(_FOLDERS, "_", regex=True)
    longer = names.str.replace(_FOLDERS, "_", regex=True)
    while (alike := names.groupby(ids).transform("nunique") > 1).any():
        ids, longer = longer.where(alike, ids), names
    return ids


def _tables(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.name.endswith(SUFFIXES) and not p.name.startswith("."))


def _table(root: Path, file: str | None) -> Path:
    if root.is_file():
        return root
    if file is not None:
        if not (root / file).is_file():
            raise FileNotFoundError(f"layout table: {root / file} does not exist; set layout_options.file")
        return root / file
    found = _tables(root)
    if len(found) != 1:
        raise FileNotFoundError(
            f"layout table: {root} holds {len(found)} tables {[p.name for p in found]}; it should hold {EXPECTED}; "
            "set layout_options.file"
        )
    return found[0]


def _read_parquet(path: Path) -> pd.DataFrame:
    try:
        with path.open("rb") as file:
            return pd.read_parquet(file)
    except (ValueError, OSError) as error:
        raise ValueError(f"{path}: cannot be read as Parquet ({error}); write it again") from error


def _hint(option: str) -> str:
    if option == "patient_column":
        return " (null if each row is a patient of its own)"
    return " (null if there is none)" if option in ("image_column", "text_column") else ""


def _twice(frame: pd.DataFrame, keys: pd.Series) -> list[Remark]:
    """Rows that name one file in several spellings: rows of one spelling have one image id, which is refused."""
    several = keys.duplicated(keep=False)
    apart = several & (frame["split"].groupby(keys).transform("nunique") > 1)
    what, mend = "several rows name the same picture", "leave one of the rows"
    ids = frame["image_id"]
    return [
        Remark(f"{what}, in several splits: a leak", tuple(ids[apart]), "error", mend),
        Remark(what, tuple(ids[several & ~apart]), "warning", mend),
    ]


def _odd(frame: pd.DataFrame, empty: set[str]) -> list[Remark]:
    """What is kept but odd: columns without a value, unknown views, labels that contradict one another."""
    notes = [
        Remark("the column has no value", tuple(sorted(empty)), "warning", "fill it, or name another column"),
        Remark(
            "view unknown",
            tuple(frame.loc[frame["view"] == "unknown", "image_id"]),
            "warning",
            "add a column of views (PA, AP, LATERAL), or name it in layout_options.view_column",
        ),
    ]
    if NO_FINDING in frame:
        others = [f for f in FINDINGS if f in frame and f not in (NO_FINDING, DEVICES)]
        both = (frame[NO_FINDING] == 1) & (frame[others] == 1).any(axis=1)
        reason = "No Finding beside a positive finding"
        notes.append(Remark(reason, tuple(frame.loc[both, "image_id"]), "warning", "mend the wrong label"))
    return notes
