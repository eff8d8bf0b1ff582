"""Any CSV or Parquet table with a column of image paths, a column of texts, and patients; the rest is optional."""

from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from datamodules.layouts.source import hashed_split, require_columns, open_root
from datamodules.layouts.views import normalise_views
from datamodules.manifest import Remark, Manifest, make_manifest
from datamodules.reports.labels import FINDINGS, SPLITS
from datamodules.reports.sections import choose, split_sections

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "validate": "validate",
    "validation": "validate",
    "valid": "validate",
    "val": "validate",
    "dev": "validate",
    "test": "test",
    "testing": "test",
}
SUFFIXES = (".csv", ".csv.gz", ".parquet")
EXPECTED = "a table (*.csv, *.csv.gz or *.parquet), or be it, with image paths relative to the table"


def read(
    root: str | Path | None,
    *,
    file: str | None = None,
    image_column: str | None = "image",
    text_column: str | None = "report",
    patient_column: str | None = "patient",
    study_column: str | None = None,
    view_column: str | None = None,
    split_column: str | None = None,
    label_columns: dict[str, str] | None = None,
    section: Literal["findings", "impression", "both", "first"] | None = None,
    seed: int = 0,
) -> Manifest:
    """Read the table.

    Args:
        root: the table, or the folder that holds it. Relative image paths start at the table's folder.
        file: the table's name where the folder holds several.
        image_column: column of image paths; None for a table of texts.
        text_column: column of reports; None when there are none.
        patient_column: column of patients, by which splits are made; None says that each row is a patient of its own.
        study_column: column of studies; by default each image is a study.
        view_column: column of views; by default "view" where there is one, else all are unknown.
        split_column: column of train/validate/test; by default "split" where there is one, else a seeded hash of the
            patient, 80/10/10.
        label_columns: finding → column of 1, 0, -1 (uncertain) or empty; by default the columns named as findings are.
        section: take only this section of each text; rows without it go to `drops`. None takes the whole text.
        seed: of the split.

    Raises:
        FileNotFoundError: when the root or the table is missing.
        ValueError: naming file and row or column, for missing columns, unknown views, splits, labels, or a patient in
            two splits.
    """
    path = _table(open_root(root, layout="table", expected=EXPECTED), file)
    table = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path, dtype=str, keep_default_na=False)
    if table.empty:
        raise ValueError(f"{path}: the table has no rows")
    labels = {f: f for f in FINDINGS if f in table.columns} if label_columns is None else label_columns
    unknown = sorted(set(labels) - set(FINDINGS))
    if unknown:
        raise ValueError(f"layout_options.label_columns: {unknown[0]!r} is not a finding; expected {list(FINDINGS)}")
    wanted = {
        "image_column": image_column,
        "text_column": text_column,
        "patient_column": patient_column,
        "study_column": study_column,
        "view_column": view_column,
        "split_column": split_column,
        **{f"label_columns.{finding}": column for finding, column in labels.items()},
    }
    require_columns(
        table,
        file=path,
        options={column: f"set layout_options.{option}{_hint(option)}" for option, column in wanted.items() if column},
    )
    view_column = view_column or ("view" if "view" in table else None)
    split_column = split_column or ("split" if "split" in table else None)

    frame = pd.DataFrame(index=table.index)
    if image_column:
        frame["image"], frame["image_id"] = _images(_texts(table[image_column]), path)
    else:
        frame["image"] = ""
        frame["image_id"] = [f"{path.stem}-{row}" for row in range(2, len(table) + 2)]
    frame["patient_id"] = _texts(table[patient_column]) if patient_column else frame["image_id"]
    nameless = np.flatnonzero((frame["patient_id"] == "").to_numpy())
    if len(nameless):
        raise ValueError(
            f"{path}: row {nameless[0] + 2}: no patient in column {patient_column!r} ({len(nameless)} rows); name one, "
            "or set layout_options.patient_column to null if each row is a patient of its own"
        )
    frame["study_id"] = _texts(table[study_column]) if study_column else frame["image_id"]
    frame["view"] = (
        normalise_views(table[view_column], file=path, option="mend the row or set layout_options.view_column")
        if view_column
        else "unknown"
    )
    frame["split"] = (
        _splits(_texts(table[split_column]), path) if split_column else hashed_split(frame["patient_id"], seed=seed)
    )
    for finding, column in labels.items():
        frame[finding] = _numbers(table[column], path)
    if "age" in table:
        frame["age"] = pd.to_numeric(table["age"], errors="coerce")
    if "sex" in table:
        frame["sex"] = table["sex"]

    drops: list[Remark] = []
    frame["report"] = _texts(table[text_column]) if text_column else ""
    frame["report_source"] = np.where(frame["report"] == "", "none", f"column {text_column}")
    if text_column and section is not None:
        chosen = [choose(split_sections(text), section) for text in frame["report"]]
        frame["report"] = [text for text, _ in chosen]
        frame["report_source"] = [source for _, source in chosen]
        without = frame["report"] == ""
        if without.any():
            drops.append(Remark(f"no section {section!r}", tuple(frame.loc[without, "image_id"])))
            frame = frame[~without]
    try:
        return make_manifest(frame, source="table", drops=drops)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _table(root: Path, file: str | None) -> Path:
    if root.is_file():
        return root
    if file is not None:
        if not (root / file).is_file():
            raise FileNotFoundError(f"layout table: {root / file} does not exist; set layout_options.file")
        return root / file
    found = sorted(p for p in root.iterdir() if p.name.endswith(SUFFIXES))
    if len(found) != 1:
        raise FileNotFoundError(
            f"layout table: {root} holds {len(found)} tables {[p.name for p in found]}; it should hold {EXPECTED}; "
            "set layout_options.file"
        )
    return found[0]


def _hint(option: str) -> str:
    if option == "patient_column":
        return " (null if each row is a patient of its own)"
    return " (null if there is none)" if option in ("image_column", "text_column") else ""


def _texts(column: pd.Series) -> pd.Series:
    return column.fillna("").astype(str).str.strip()


def _images(names: pd.Series, path: Path) -> tuple[pd.Series, pd.Series]:
    empty = np.flatnonzero((names == "").to_numpy())
    if len(empty):
        raise ValueError(f"{path}: row {empty[0] + 2}: no image path ({len(empty)} rows); name one or remove the row")
    # Absolute paths stay as they are: Path / absolute = absolute.
    images = names.map(lambda name: str(path.parent / name))
    return images, names.str.replace(r"\.[A-Za-z0-9]+$", "", regex=True).str.replace(r"[/\\]+", "_", regex=True)


def _splits(names: pd.Series, path: Path) -> pd.Series:
    splits = names.str.lower().map(SPLIT_NAMES)
    wrong = np.flatnonzero(splits.isna().to_numpy())
    if len(wrong):
        raise ValueError(
            f"{path}: row {wrong[0] + 2}: split {names.iloc[wrong[0]]!r} is not known ({len(wrong)} rows); "
            f"expected one of {list(SPLITS)}"
        )
    return splits


def _numbers(column: pd.Series, path: Path) -> pd.Series:
    numbers = pd.to_numeric(column.replace("", np.nan), errors="coerce")
    wrong = np.flatnonzero((~numbers.isin([1, 0, -1]) & ~(column.isna() | (column == ""))).to_numpy())
    if len(wrong):
        raise ValueError(
            f"{path}: row {wrong[0] + 2}: label {column.name} = {column.iloc[wrong[0]]!r} ({len(wrong)} rows); "
            "expected 1, 0, -1 (uncertain) or empty"
        )
    return numbers
