"""Planted faults in tables, reports and file names of MIMIC-CXR, NIH, OpenI and tables of one's own."""

import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from tests.datamodules.doctor.damage import (
    add_row,
    cut,
    cut_last_row,
    drop_column,
    edit_lines,
    edit_rows,
    get_field,
    not_utf8,
    remove_row,
    repeat_row,
    set_column,
    set_field,
    set_fields,
)
from tests.datamodules.doctor.faults import Fault, add_stray, faults_of, on, on_picture, pictures, repeat_picture

CONTRADICTORY = ("No Finding", "Edema")
FETCH = "fetch (it|the|this)"
# Layout → its main table, a column that the reader needs, options of the writer.
TABLES: dict[str, tuple[str, str, dict]] = {
    "chexpert": ("CheXpert-v1.0-small/train.csv", "Sex", {}),
    "chexpert_plus": ("df_chexpert_plus_240401.csv", "split", {}),
    "mimic_cxr": ("mimic-cxr-2.0.0-split.csv.gz", "split", {}),
    "nih": ("Data_Entry_2017_v2020.csv", "View Position", {}),
    "openi": ("indiana_reports.csv", "findings", {"kaggle": True}),
    "padchest": ("PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv.gz", "Projection", {}),
    "table": ("studies.csv", "patient", {}),
    "vindr": ("annotations/annotations_train.csv", "class_name", {}),
}


def _every_table() -> list[Fault]:
    found = []
    for layout, (file, column, options) in TABLES.items():
        changes: list[tuple[str, Callable[[Path], object], str, str]] = [
            ("missing column", lambda p, c=column: drop_column(p, c), f"column '{column}' is missing", "take|--option"),
            ("cut row", cut_last_row, r"row \d+ has fewer fields than the header", FETCH),
            ("not UTF-8", not_utf8, r"is not UTF-8 at byte \d+", FETCH),
        ]
        if file.endswith(".gz"):
            changes.append(("cut gzip", cut, "cannot be read as a table", FETCH))
        else:
            changes.append(("empty table", lambda p: p.write_bytes(b""), "is empty", FETCH))
        for name, change, what, mend in changes:
            what = f"{Path(file).name}: {what}"
            found.append(Fault(name, layout, on(file, change), "error", what, mend, options=options))
    return found


def _in_zip(change: Callable[[dict[str, bytes]], object]) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        path = root / "mimic-cxr-reports.zip"
        with zipfile.ZipFile(path) as archive:
            members = {name: archive.read(name) for name in archive.namelist() if name.endswith(".txt")}
        change(members)
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in members.items():
                archive.writestr(name, data)

    return damage


def _first(members: dict[str, bytes]) -> str:
    return sorted(members)[0]


def _damage_member(root: Path) -> None:
    path = root / "mimic-cxr-reports.zip"
    with zipfile.ZipFile(path) as archive:
        member = next(info for info in archive.infolist() if info.filename.endswith(".txt"))
        start = member.header_offset + 30 + len(member.filename) + member.compress_size // 2
    data = bytearray(path.read_bytes())
    data[start : start + 8] = bytes(8)
    path.write_bytes(data)


def _other_patients_split(root: Path) -> None:
    """Two pictures of one patient in two splits."""
    path = root / SPLIT

    def change(rows: list[list[str]]) -> None:
        place, patient = rows[0].index("split"), rows[0].index("subject_id")
        subject = next(r[patient] for r in rows[1:] if sum(o[patient] == r[patient] for o in rows) > 1)
        row = next(r for r in rows[1:] if r[patient] == subject)
        row[place] = "test" if row[place] != "test" else "train"

    edit_rows(path, change)


def _orphan_report(root: Path) -> None:
    path = next((root / "files").rglob("s*.txt"))
    shutil.copy(path, path.with_name("s59999999.txt"))


SPLIT, METADATA = "mimic-cxr-2.0.0-split.csv.gz", "mimic-cxr-2.0.0-metadata.csv.gz"
CHEXPERT = "mimic-cxr-2.0.0-chexpert.csv.gz"
FOLDER = {"reports": "folder"}


def _report(change: Callable[[Path], object]) -> Callable[[Path], None]:
    return lambda root: change(sorted((root / "files").rglob("s*.txt"))[0])  # type: ignore[func-returns-value]


_mimic = faults_of("mimic_cxr", read={"section": "first"})
MIMIC: list[Fault] = [
    _mimic("missing table", on(SPLIT, Path.unlink), "error", "has no mimic-cxr-2.0.0-split.csv", "fetch"),
    _mimic("unknown split", on(SPLIT, set_field, "split", "dev"), "error", "row 2: split is 'dev'", "mend the row"),
    _mimic("unknown label", on(CHEXPERT, set_field, "Edema", "yes"), "error", "row 2: Edema is 'yes'", "fetch"),
    _mimic(
        "bad id", on(METADATA, set_field, "study_id", "12"), "error", "row 2: study_id is '12'", "as it is published"
    ),
    _mimic("patient in two splits", _other_patients_split, "error", r"patient p\d+ is in several splits", "one split"),
    _mimic("duplicate row", on(METADATA, repeat_row), "error", "repeated row of the metadata table", "remove the row"),
    _mimic("row in one table", on(METADATA, remove_row), "error", "no row in the metadata table", "fetch the table"),
    _mimic(
        "tables contradict",
        on(SPLIT, set_field, "subject_id", "19999999"),
        "error",
        "the metadata and split tables give it to different",
        "fetch the table",
    ),
    _mimic("odd view", on(METADATA, set_field, "ViewPosition", "SWIMMER"), "warning", "view unknown", "views"),
    _mimic(
        "No Finding beside a finding",
        on(CHEXPERT, set_fields, *CONTRADICTORY, value="1.0"),
        "warning",
        "No Finding beside",
        "look at the report",
    ),
    _mimic(
        "missing picture", on_picture(".jpg", Path.unlink), "error", "left out: no picture of this name", "PhysioNet"
    ),
    _mimic("orphan picture", add_stray("stray.jpg", ".jpg"), "warning", "picture that no table names", "remove"),
    _mimic("leak", repeat_picture(".jpg", first=0, second=-1), "error", "the same picture (in|for) several", "whose"),
    _mimic(
        "cut zip", on("mimic-cxr-reports.zip", cut), "error", "mimic-cxr-reports.zip: is not a readable zip", "fetch"
    ),
    _mimic("damaged report in the zip", _damage_member, "error", "report is damaged", "fetch the zip"),
    _mimic("missing report", _in_zip(lambda m: m.pop(_first(m))), "error", "no report of this study", "s\\*.txt"),
    _mimic("empty report", _in_zip(lambda m: m.update({_first(m): b" \n"})), "error", "report is empty", "fetch"),
    _mimic("no reports", on("mimic-cxr-reports.zip", Path.unlink), "error", "has no reports", "reports: none|--option"),
    _mimic(
        "report not UTF-8", _report(lambda p: p.write_bytes(b"FINDINGS: caf\xe9")), "error", "not UTF-8", "", FOLDER
    ),
    _mimic("missing text", _report(Path.unlink), "error", "no report of this study", "s\\*.txt", FOLDER),
    _mimic("orphan report", _orphan_report, "warning", "report of a study that no table names", "one version", FOLDER),
    _mimic("empty text", _report(lambda p: p.write_bytes(b"")), "error", "report is empty", "fetch", FOLDER),
]

ENTRY, BOXES = "Data_Entry_2017_v2020.csv", "BBox_List_2017.csv"


def _box(x: str, *, image: str = "") -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        named = image or get_field(root / ENTRY, "Image Index")
        finding = "Mass"
        edit_lines(root / BOXES, lambda lines: [*lines, f"{named},{finding},{x},100,200,200"])

    return damage


def _in_both_lists(root: Path) -> None:
    line = (root / "train_val_list.txt").read_text().splitlines()[0]
    edit_lines(root / "test_list.txt", lambda lines: [*lines, line])


def _half_a_patient_to_test(root: Path) -> None:
    lines = (root / "train_val_list.txt").read_text().splitlines()
    patient = next(a for a in lines if sum(b[:8] == a[:8] for b in lines) > 1)
    edit_lines(root / "train_val_list.txt", lambda old: [line for line in old if line != patient])
    edit_lines(root / "test_list.txt", lambda old: [*old, patient])


def _empty_train(root: Path) -> None:
    lines = (root / "train_val_list.txt").read_text().splitlines()
    (root / "train_val_list.txt").write_text("")
    edit_lines(root / "test_list.txt", lambda old: [*old, *lines])


_nih = faults_of("nih")
NIH: list[Fault] = [
    _nih("missing table", on(ENTRY, Path.unlink), "error", "has no Data_Entry_2017", "fetch", named=True),
    _nih(
        "missing list", on("test_list.txt", Path.unlink), "error", "test_list.txt is missing", "--option splits=hashed"
    ),
    _nih("unknown finding", on(ENTRY, set_field, "Finding Labels", "Gout"), "error", "finding 'Gout'", "mend the row"),
    _nih("unknown view", on(ENTRY, set_field, "View Position", "UP"), "error", "row 2: view 'UP' is not known", "mend"),
    _nih("duplicate row", on(ENTRY, repeat_row), "error", "row given twice", "remove the second"),
    _nih(
        "No Finding beside a finding",
        on(ENTRY, set_field, "Finding Labels", "No Finding|Mass"),
        "error",
        "No Finding beside a finding",
        "mend the row",
    ),
    _nih("no label", on(ENTRY, set_field, "Finding Labels", ""), "warning", "no label", "mend the row"),
    _nih("wrong patient", on(ENTRY, set_field, "Patient ID", "9999"), "error", "Patient ID is not the number", "mend"),
    _nih("impossible age", on(ENTRY, set_field, "Patient Age", "414"), "note", "age over 110", "correct"),
    _nih("in both lists", _in_both_lists, "error", "is in both train_val_list.txt and test_list.txt", "take it out"),
    _nih("patient in two splits", _half_a_patient_to_test, "error", r"patient \d+ is in several splits", "one split"),
    _nih(
        "in neither list",
        on("train_val_list.txt", edit_lines, lambda lines: lines[1:]),
        "error",
        r"in neither train_val_list.txt \(\d+ pictures\)",
        "fetch the list",
    ),
    _nih("empty split", _empty_train, "error", "a split has no rows", "mend the split"),
    _nih("box outside", _box("900"), "error", "box that is not inside", "mend or remove the row of BBox_List"),
    _nih("box for no row", _box("100", image="99999999_000.png"), "error", "box of a picture that no row", "BBox_List"),
    _nih("box that is no number", _box("left"), "error", "is not four numbers", "mend the row"),
    _nih(
        "missing picture", on_picture(".png", Path.unlink), "error", "no image file of this name", "images_NNN.tar.gz"
    ),
    _nih(
        "orphan picture", add_stray("00099999_000.png", ".png"), "warning", "no row of the table names", "take it away"
    ),
    _nih(
        "cut row of boxes",
        on(BOXES, edit_lines, lambda lines: [*lines, "00000001_000.png,Mass,100"]),
        "error",
        r"BBox_List_2017.csv: row \d+ has fewer fields",
        "fetch",
    ),
    _nih(
        "no columns of boxes", on(BOXES, Path.write_text, "image,finding\n"), "error", "BBox_List_2017.csv: ", "fetch"
    ),
]


def _in_tgz(change: Callable[[Path], object]) -> Callable[[Path], None]:
    """Change the first unpacked report; the archive is left unpacked, as users do."""

    def damage(root: Path) -> None:
        with tarfile.open(root / "NLMCXR_reports.tgz") as tar:
            tar.extractall(root, filter="data")
        (root / "NLMCXR_reports.tgz").unlink()
        change(root / "ecgen-radiology" / "1.xml")

    return damage


def _replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


KAGGLE = {"kaggle": True}
REPORTS, PROJECTIONS = "indiana_reports.csv", "indiana_projections.csv"
_openi = faults_of("openi")
OPENI: list[Fault] = [
    _openi("cut archive", on("NLMCXR_reports.tgz", cut), "error", "not a readable tar archive", "fetch it again"),
    _openi("broken XML", _in_tgz(cut), "error", "1.xml is not readable XML", "fetch"),
    _openi("no uId", _in_tgz(lambda p: _replace(p, "uId", "id")), "error", "1.xml has no <uId", ""),
    _openi(
        "report given twice",
        _in_tgz(lambda p: shutil.copy(p, p.with_name("1b.xml"))),
        "error",
        "a report of this uId was read already",
        "remove",
    ),
    _openi("missing picture", on_picture(".png", Path.unlink), "error", "no file of the picture", "NLMCXR_png.tgz"),
    _openi("orphan picture", add_stray("CXR99_IM-0099-1001.png", ".png"), "warning", "no report names", "remove"),
    _openi("picture named twice", _in_tgz(lambda p: _replace(p, "4001", "3001")), "error", "is given twice", "remove"),
    _openi("missing table", on(PROJECTIONS, Path.unlink), "error", "has no indiana_projections.csv", "fetch", KAGGLE),
    _openi("unknown view", on(PROJECTIONS, set_field, "projection", "Up"), "error", "view 'Up'", "mend", KAGGLE),
    _openi("duplicate row", on(REPORTS, repeat_row), "error", "a report of this uid stands in", "remove", KAGGLE),
    _openi("duplicate picture row", on(PROJECTIONS, repeat_row), "error", "a picture stands in", "remove", KAGGLE),
    _openi("missing report", on(REPORTS, remove_row), "error", "uid is not in indiana_reports.csv", "fetch", KAGGLE),
    _openi("report without uid", on(REPORTS, set_field, "uid", ""), "error", "row 2: no uid", "mend", KAGGLE),
    _openi("missing file", on_picture(".dcm.png", Path.unlink), "error", "no file of the picture", "Kaggle", KAGGLE),
]


def _two_patients_one_split(root: Path) -> None:
    other = {"train": "test", "test": "train", "validate": "train"}[get_field(root / CSV, "split")]
    set_field(root / CSV, "split", other)


def _same_file_twice(root: Path) -> None:
    set_field(root / CSV, "image", "images/copy.png")
    shutil.copy(pictures(root, ".png")[-1], root / "images" / "copy.png")


CSV = "studies.csv"
_table = faults_of("table")
TABLE: list[Fault] = [
    _table("missing table", on(CSV, Path.unlink), "error", "no layout knows", "--layout"),
    _table("unknown view", on(CSV, set_field, "view", "up"), "error", "row 2: view 'up'", "--option view_column="),
    _table("unknown split", on(CSV, set_field, "split", "later"), "error", "row 2: split 'later'", "expected one of"),
    _table(
        "unknown label", on(CSV, set_field, "Edema", "maybe"), "error", "row 2: label Edema = 'maybe'", "expected 1"
    ),
    _table("no patient", on(CSV, set_field, "patient", ""), "error", "row 2: no patient", "--option patient_column="),
    _table("patient in two splits", _two_patients_one_split, "error", "is in several splits", "one split"),
    _table("duplicate row", on(CSV, repeat_row), "error", "repeats another in every column", "remove the row"),
    _table(
        "picture named twice",
        on(CSV, add_row, report="Other."),
        "error",
        "image_id.*is given twice",
        "remove the repeated row",
    ),
    _table("missing picture", on_picture(".png", Path.unlink), "error", "no file where the row names", "put the file"),
    _table("orphan picture", add_stray("stray.png", ".png"), "warning", "a picture that no row names", "remove"),
    _table(
        "contradictory labels",
        on(CSV, set_fields, *CONTRADICTORY, value="1"),
        "warning",
        "No Finding beside a positive finding",
        "mend",
    ),
    _table("no report", on(CSV, set_field, "report", ""), "warning", "no text in the row", "write its text"),
    _table("short report", on(CSV, set_field, "report", "Normal."), "warning", "fewer than 3 words", "read them"),
    _table("one report for all", on(CSV, set_column, "report", "No change at all."), "warning", "in 100%", "repeats"),
    _table("empty split", on(CSV, set_column, "split", "test"), "error", "a split has no rows", "mend the split"),
    _table("no views", on(CSV, set_column, "view", ""), "warning", r"unknown view \(100", "add the views"),
    _table("no labels", on(CSV, set_column, "Edema", "0"), "warning", "without a positive in train", "fetch more"),
    _table("same picture twice", _same_file_twice, "error", "the same picture (in|for) several", "whose picture"),
    _table(
        "same picture for one patient",
        repeat_picture(".png", first=0, second=1),
        "warning",
        "more than once for one patient",
        "take the repeated rows out",
    ),
]

FAULTS: list[Fault] = [*_every_table(), *MIMIC, *NIH, *OPENI, *TABLE]
