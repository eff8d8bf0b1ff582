"""Views of the Indiana collection's pictures, from a CSV: the XML archive itself does not say which picture is which.

Two such tables exist. Kaggle's indiana_projections.csv says Frontal or Lateral, as people saw it. The headers of the
published DICOM files say PA, AP or LL, as the machine was set: they have a view for two pictures in three, and many
laterals are tagged PA (in 1,314 of 3,405 studies of several pictures all are tagged PA or AP).
"""

import numpy as np
import pandas as pd

from datamodules.layouts.openi_report import picture_key
from datamodules.layouts.source import as_path, read_csv
from datamodules.layouts.views import normalise_views

FRONTAL = "frontal"
IMAGE_COLUMNS = ("imageid", "image_id", "image", "filename")
VIEW_COLUMNS = ("View Position", "ViewPosition", "view", "projection")


def read_views(file: str) -> dict[str, str]:
    """`picture_key` → one of VIEWS, or "frontal".

    Args:
        file: a CSV (gzipped or not, local or URL) with one of IMAGE_COLUMNS and one of VIEW_COLUMNS.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: naming file and row or column, for a missing column, an unknown view, or two views of one picture.
    """
    path = as_path(file)
    if not path.is_file():
        raise FileNotFoundError(f"{file} does not exist; layout_options.views names a CSV of pictures and their views")
    table = read_csv(path)
    columns = []
    for what, names in (("pictures", IMAGE_COLUMNS), ("views", VIEW_COLUMNS)):
        column = next((name for name in names if name in table.columns), None)
        if column is None:
            raise ValueError(
                f"{path}: has no column of {what}; expected one of {list(names)} and found {list(table.columns)[:20]}; "
                "rename the column"
            )
        columns.append(column)
    keys, views = table[columns[0]].map(picture_key), table_views(table[columns[1]], file=str(path))
    several = pd.Series(views).groupby(keys.to_numpy()).transform("nunique").to_numpy() > 1
    if several.any():
        row = int(np.flatnonzero(several)[0])
        raise ValueError(
            f"{path}: row {row + 2}: picture {table[columns[0]].iloc[row]} has several views "
            f"{sorted(set(views[keys == keys.iloc[row]]))}; remove the wrong row"
        )
    return dict(zip(keys, views, strict=True))


def table_views(names: pd.Series, *, file: str) -> np.ndarray:
    """Views [N] as written in a table: each one of VIEWS, or "frontal".

    Raises:
        ValueError: naming file, row and value.
    """
    frontal = (names.str.strip().str.lower() == FRONTAL).to_numpy()
    views = normalise_views(names.mask(frontal, ""), file=as_path(file), option="mend the row")
    return np.where(frontal, FRONTAL, views).astype(object)


def merge_views(seen: dict[str, str], tagged: dict[str, str]) -> tuple[dict[str, str], list[str]]:
    """Kaggle's projections made finer by another table's PA and AP.

    Args:
        seen: key → one of VIEWS or "frontal"; {} of the archive.
        tagged: key → likewise.

    Returns:
        The views, and the keys of those that contradict: there the projection is kept, since people looked.
    """
    merged, wrong = dict(tagged), []
    for key, view in seen.items():
        finer = tagged.get(key, "unknown")
        if view == "unknown" or (view == FRONTAL and finer in ("PA", "AP")):
            merged[key] = finer
        else:
            merged[key] = view
            if finer not in ("unknown", view):
                wrong.append(key)
    return merged, wrong
