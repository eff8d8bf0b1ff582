"""What the cells of a user's table say, whether CSV or Parquet wrote them: texts, splits, labels, ages."""

from pathlib import Path

import numpy as np
import pandas as pd

from datamodules.manifest import Remark
from datamodules.reports.labels import SPLITS

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
OLDEST = 110.0


def texts(column: pd.Series, path: Path) -> pd.Series:
    """The cells as text without outer blanks: "" for missing ones of any type, bytes read as UTF-8.

    Raises:
        ValueError: naming file, row and column of bytes that are no text.
    """
    return _values(column, path).astype(str).str.strip()


def refuse_empty(cells: pd.Series, path: Path, what: str, mend: str) -> None:
    """Refuse "" among texts; the error names the first row."""
    empty = np.flatnonzero((cells == "").to_numpy())
    if len(empty):
        raise ValueError(f"{path}: row {empty[0] + 2}: {what} ({len(empty)} rows); {mend}")


def splits(names: pd.Series, path: Path) -> pd.Series:
    """Splits by the names that are in use for them; the error names the first row of another one."""
    found = names.str.lower().map(SPLIT_NAMES)
    wrong = np.flatnonzero(found.isna().to_numpy())
    if len(wrong):
        raise ValueError(
            f"{path}: row {wrong[0] + 2}: split {names.iloc[wrong[0]]!r} is not known ({len(wrong)} rows); "
            f"expected one of {list(SPLITS)}"
        )
    return found


def labels(column: pd.Series, path: Path) -> pd.Series:
    """1, 0, -1 or NaN of each cell; the error names the first row of something else."""
    cells = _values(column, path)
    numbers = pd.to_numeric(cells.where(cells != "", np.nan), errors="coerce")
    wrong = np.flatnonzero((~numbers.isin([1, 0, -1]) & (cells != "")).to_numpy())
    if len(wrong):
        raise ValueError(
            f"{path}: row {wrong[0] + 2}: label {column.name} = {cells.iloc[wrong[0]]!r} ({len(wrong)} rows); "
            "expected 1, 0, -1 (uncertain) or empty"
        )
    return numbers


def ages(cells: pd.Series, ids: pd.Series) -> tuple[pd.Series, Remark]:
    """Years, NaN where there is no number from 0 to 110; and which were cleared."""
    numbers = pd.to_numeric(cells, errors="coerce")
    years = numbers.where(numbers.between(0, OLDEST))
    reason = f"age is no number from 0 to {OLDEST:.0f}: cleared"
    wrong = (cells != "") & years.isna()
    return years, Remark(reason, tuple(ids[wrong]), "note", "mend the age in the table")


def _values(column: pd.Series, path: Path) -> pd.Series:
    """The cells as objects, "" where missing: a column of nullable numbers or of categories cannot hold "" itself."""
    cells = column.astype(object).where(column.notna(), "")
    # Text columns, such as all of a CSV, hold no bytes.
    if not isinstance(column.dtype, pd.StringDtype):
        packed = cells.map(lambda cell: isinstance(cell, bytes)).to_numpy(dtype=bool)
        for row in map(int, np.flatnonzero(packed)):
            try:
                cells.iloc[row] = cells.iloc[row].decode()
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"{path}: row {row + 2}: column {column.name!r} holds bytes that are not UTF-8; write it as text"
                ) from error
    return cells
