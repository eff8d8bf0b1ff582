"""Kaggle's edition of the Indiana collection: indiana_reports.csv, indiana_projections.csv, images/images_normalized/.

It has the 3,851 reports that name a picture, and 7,466 pictures. Its columns hold the XML's content unchanged: MeSH
tags joined by ";", sections with XXXX blanks, the caption as `image`. Only the projection is new.
"""

from pathlib import Path

import pandas as pd

from datamodules.layouts.openi_report import Report, Source, picture_key
from datamodules.layouts.openi_views import table_views
from datamodules.layouts.source import read_csv, require_file
from datamodules.manifest import Remark
from datamodules.reports.sections import clean

REPORTS, PROJECTIONS = "indiana_reports.csv", "indiana_projections.csv"
EXPECTED = f"{REPORTS}, {PROJECTIONS} and images/images_normalized/*.dcm.png"
REPORT_COLUMNS = ("uid", "MeSH", "Problems", "image", "indication", "comparison", "findings", "impression")
PROJECTION_COLUMNS = ("uid", "filename", "projection")
PUBLISHED = {"images": 7466, "reports": 3851}


def read_tables(root: Path) -> Source:
    """Both tables.

    Raises:
        FileNotFoundError: when indiana_projections.csv is missing.
        ValueError: naming file and row or column, for what is not as published.
    """
    reports = read_csv(root / REPORTS, columns=REPORT_COLUMNS)
    file = require_file(root, (PROJECTIONS,), layout="openi", expected=EXPECTED)
    projections = read_csv(file, columns=PROJECTION_COLUMNS)
    for table, path, column in ((reports, root / REPORTS, "uid"), (projections, file, "filename")):
        _refuse_empty(table, column, path)

    views = table_views(projections["projection"], file=str(file))
    ids = "CXR" + projections["filename"].map(picture_key).str.removeprefix("CXR")
    repeated, again = reports["uid"].duplicated(), ids.duplicated()
    strange = ~projections["uid"].isin(reports["uid"])
    drops = (
        Remark(
            f"a report of this uid stands in {REPORTS} already",
            tuple("CXR" + reports["uid"][repeated]),
            "error",
            "remove the repeated row",
        ),
        Remark(
            f"a picture stands in {PROJECTIONS} already",
            tuple(ids[again]),
            "error",
            "remove the repeated row",
        ),
        Remark(
            f"a picture's uid is not in {REPORTS}",
            tuple(ids[strange & ~again]),
            "error",
            "fetch both tables again: they are of one edition",
        ),
    )
    kept = ~again & ~strange
    named: dict[str, list[str]] = {}
    for uid, identifier in zip(projections["uid"][kept], ids[kept], strict=True):
        named.setdefault(uid, []).append(identifier)
    rows = reports[~repeated]
    texts = zip(rows["uid"], rows["findings"], rows["impression"], rows["MeSH"], rows["image"], strict=True)
    found = [
        Report(f"CXR{uid}", clean(findings), clean(impression), _tags(mesh), caption.strip(), tuple(named.get(uid, [])))
        for uid, findings, impression, mesh, caption in texts
    ]
    keys = projections["filename"].map(picture_key)
    return Source(found, dict(zip(keys[kept], views[kept.to_numpy()], strict=True)), drops)


def _tags(mesh: str) -> tuple[str, ...]:
    return tuple(tag.strip().lower() for tag in mesh.split(";") if tag.strip())


def _refuse_empty(table: pd.DataFrame, column: str, path: Path) -> None:
    empty = table.index[table[column].str.strip() == ""]
    if len(empty):
        raise ValueError(f"{path}: row {empty[0] + 2}: no {column} ({len(empty)} rows); mend or remove the row")
