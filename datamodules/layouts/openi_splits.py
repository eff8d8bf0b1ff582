"""A split of the Indiana collection from a CSV of one's own, or of a paper: the collection has no official one."""

from collections.abc import Sequence
from typing import Any

from datamodules.layouts.openi_report import Report, picture_key
from datamodules.layouts.openi_views import IMAGE_COLUMNS
from datamodules.layouts.source import as_path, read_csv, require_columns
from datamodules.layouts.table_cells import SPLIT_NAMES
from datamodules.manifest import Remark
from datamodules.reports.labels import SPLITS

REPORT_COLUMNS = ("study_id", "study", "uid")


def assign_splits(
    rows: Sequence[dict[str, Any]], *, reports: Sequence[Report], file: str
) -> tuple[list[dict[str, Any]], list[Remark], list[Remark]]:
    """Give each row the split of its report.

    Args:
        rows: of the manifest, with study_id and image_id.
        reports: all of the source; a report has the split that the file gives to it or to one of its pictures.
        file: a CSV (gzipped or not, local or URL) with one of REPORT_COLUMNS ("CXR12" or 12) or of
            `openi_views.IMAGE_COLUMNS`, and the column split: train, validate (or val, valid) or test.

    Returns:
        The rows that have a split, those that have none as drops, and notes.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: naming file and row or report, for a missing column, an unknown split, a report in two splits, or
            when no row has a split.
    """
    named = _read(file)
    splits: dict[str, str] = {}
    known: set[str] = set()
    for report in reports:
        keys = [report.study, *map(picture_key, report.pictures)]
        known.update(keys)
        found = sorted({named[key] for key in keys if key in named})
        if len(found) > 1:
            raise ValueError(f"{file}: report {report.study} is in several splits {found}; give all its rows one split")
        if found:
            splits[report.study] = found[0]
    kept = [row | {"split": splits[row["study_id"]]} for row in rows if row["study_id"] in splits]
    if not kept:
        raise ValueError(
            f"{file}: names none of the {len(reports)} reports; its first row is of {next(iter(named), 'nothing')}, "
            f"expected for instance {reports[0].study}; name another file in layout_options.split_file"
        )
    lost = tuple(row["image_id"] for row in rows if row["study_id"] not in splits)
    mend = "add its report to the file, unless the split is meant to leave it out"
    return (
        kept,
        [Remark("in no row of layout_options.split_file", lost, "warning", mend)],
        [Remark("named in layout_options.split_file and in no report", tuple(sorted(named.keys() - known)), "note")],
    )


def _read(file: str) -> dict[str, str]:
    """A report's number as "CXR12", or `picture_key`, → split."""
    path = as_path(file)
    if not path.is_file():
        raise FileNotFoundError(f"{file} does not exist; layout_options.split_file names a CSV of reports and splits")
    table = read_csv(path)
    require_columns(table, file=path, options={"split": "rename the column of train, validate and test"})
    by_report = next((name for name in REPORT_COLUMNS if name in table), None)
    by_picture = next((name for name in IMAGE_COLUMNS if name in table), None)
    if by_report is not None:
        keys = "CXR" + table[by_report].str.strip().str.removeprefix("CXR")
    elif by_picture is not None:
        keys = table[by_picture].map(picture_key)
    else:
        raise ValueError(
            f"{path}: has no column of reports or pictures; expected one of {[*REPORT_COLUMNS, *IMAGE_COLUMNS]} and "
            f"found {list(table.columns)[:20]}; rename the column"
        )
    found: dict[str, str] = {}
    for row, (key, text) in enumerate(zip(keys, table["split"], strict=True), start=2):
        split = SPLIT_NAMES.get(text.strip().lower())
        if split is None:
            raise ValueError(f"{path}: row {row}: split {text!r} is not known; expected one of {list(SPLITS)}; mend it")
        if found.setdefault(key, split) != split:
            raise ValueError(f"{path}: row {row}: {key} is in {found[key]} by an earlier row; remove the wrong one")
    return found
