"""Planted faults in tables, labels and file names of CheXpert, CheXpert-Plus, PadChest and VinDr-CXR."""

import shutil
from collections.abc import Callable
from pathlib import Path

from tests.datamodules.doctor.damage import (
    add_row,
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


def _patient_in_both(root: Path) -> None:
    patient = get_field(root / TRAIN, "Path").split("/")[2]
    path = f"CheXpert-v1.0-small/valid/{patient}/study9/view1_frontal.jpg"
    add_row(root / "CheXpert-v1.0-small/valid.csv", Path=path)
    (root / path).parent.mkdir(parents=True)
    shutil.copy(pictures(root, ".jpg")[0], root / path)


TRAIN = "CheXpert-v1.0-small/train.csv"
VALID = "CheXpert-v1.0-small/valid.csv"
_chexpert = faults_of("chexpert")
CHEXPERT: list[Fault] = [
    _chexpert("missing table", on(VALID, Path.unlink), "error", "has no valid.csv", "--option splits=hashed"),
    _chexpert("unknown label", on(TRAIN, set_field, "Edema", "2"), "error", "row 2: Edema = '2'", "mend the row"),
    _chexpert("unknown sex", on(TRAIN, set_field, "Sex", "X"), "error", "row 2: Sex = 'X'", "mend the row"),
    _chexpert("unknown view", on(TRAIN, set_field, "AP/PA", "UP"), "error", "row 2: AP/PA = 'UP'", "mend the row"),
    _chexpert("views contradict", on(TRAIN, set_field, "AP/PA", "LL"), "warning", "contradict each other", "look"),
    _chexpert("bad path", on(TRAIN, set_field, "Path", "a/b.jpg"), "error", "row 2: path 'a/b.jpg'", "mend the row"),
    _chexpert("bad age", on(TRAIN, set_field, "Age", "old"), "warning", "age that is no number", "mend the row"),
    _chexpert("duplicate row", on(TRAIN, repeat_row), "error", "row given twice", "remove the second row"),
    _chexpert("patient in two splits", _patient_in_both, "error", "patient.* is in several splits", "remove the rows"),
    _chexpert(
        "No Finding beside a finding",
        on(TRAIN, set_fields, "No Finding", "Edema", value="1.0"),
        "error",
        "No Finding beside a finding",
        "mend the row",
    ),
    _chexpert("missing picture", on_picture(".jpg", Path.unlink), "error", "no picture of this name", "archive"),
    _chexpert(
        "orphan picture", add_stray("view9_frontal.jpg", ".jpg"), "warning", "no row of the table names", "take it away"
    ),
    _chexpert(
        "leak", repeat_picture(".jpg", first=0, second=-1), "error", "in several splits: a leak", "whose picture"
    ),
]


def _silence(root: Path) -> None:
    for column in ("section_findings", "section_impression"):
        set_column(root / PLUS, column, "")


def _label(text: str) -> Callable[[Path], None]:
    return on(
        IMPRESSION, edit_lines, lambda lines: [lines[0].replace('"Edema": ', f'"Edema": {text}, "x": '), *lines[1:]]
    )


PLUS, IMPRESSION = "df_chexpert_plus_240401.csv", "chexbert_labels/impression_fixed.json"
_plus = faults_of("chexpert_plus")
CHEXPERT_PLUS: list[Fault] = [
    _plus("unknown split", on(PLUS, set_field, "split", "dev"), "error", "row 2: split = 'dev'", "mend the row"),
    _plus(
        "wrong patient", on(PLUS, set_field, "deid_patient_id", "patient99999"), "error", "not the patient of", "mend"
    ),
    _plus("duplicate row", on(PLUS, repeat_row), "error", "row given twice", "remove the second row"),
    _plus(
        "missing labels", on(IMPRESSION, Path.unlink), "warning", "no file of CheXbert labels", "chexbert_labels.zip"
    ),
    _plus("label not UTF-8", on(IMPRESSION, not_utf8), "error", "impression_fixed.json", ""),
    _plus(
        "broken line of labels",
        on(IMPRESSION, edit_lines, lambda a: ["{", *a]),
        "error",
        "line 1 is no record",
        "fetch",
    ),
    _plus("unknown label", _label("7"), "error", r"Edema = .*7\S* is no label", "fetch"),
    _plus(
        "labels given twice", on(IMPRESSION, edit_lines, lambda a: [*a, a[0]]), "error", "labels given twice", "fetch"
    ),
    _plus(
        "row without labels", on(IMPRESSION, edit_lines, lambda a: a[1:]), "warning", "without a record", "look|fetch"
    ),
    _plus("labels of no row", on(PLUS, remove_row), "warning", "labels of a picture that no row", "fetch"),
    _plus("no reports", _silence, "error", "no row has the section 'findings'", "--option section"),
    _plus("missing picture", on_picture(".png", Path.unlink), "error", "no picture of this name", "fetch the archive"),
    _plus("empty picture", on_picture(".png", lambda p: p.write_bytes(b"")), "error", "0 bytes", "CheXpert Plus"),
]


def _two_patients_of_a_study(root: Path) -> None:
    def change(rows: list[list[str]]) -> None:
        study, patient = rows[0].index("StudyID"), rows[0].index("PatientID")
        other = next(row for row in rows[2:] if row[patient] != rows[1][patient])
        other[study] = rows[1][study]

    edit_rows(root / PADCHEST, change)


PADCHEST = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv.gz"
_padchest = faults_of("padchest")
PADCHEST_FAULTS: list[Fault] = [
    _padchest("malformed labels", on(PADCHEST, set_field, "Labels", "['normal'"), "error", "not the text of a", "mend"),
    _padchest("unknown label", on(PADCHEST, set_field, "Labels", "['gota']"), "error", "row 2: label 'gota'", "mend"),
    _padchest("no label", on(PADCHEST, set_field, "Labels", "[]"), "warning", "no labels", "look"),
    _padchest(
        "normal beside a finding",
        on(PADCHEST, set_field, "Labels", "['normal', 'pneumonia']"),
        "warning",
        "'normal' stands beside",
        "mend",
    ),
    _padchest("unknown view", on(PADCHEST, set_field, "Projection", "UP"), "error", "row 2: view 'UP'", "mend the row"),
    _padchest("unknown method", on(PADCHEST, set_field, "MethodLabel", "?"), "error", "row 2: MethodLabel", "mend"),
    _padchest("no patient", on(PADCHEST, set_field, "PatientID", ""), "error", "no ImageID, StudyID or Pat", "mend"),
    _padchest("duplicate row", on(PADCHEST, repeat_row), "error", "row given twice", "remove the row"),
    _padchest("study of two patients", _two_patients_of_a_study, "error", "one study under two patients", "PatientID"),
    _padchest("no report", on(PADCHEST, set_field, "Report", " . "), "warning", "no report", "without_report"),
    _padchest("missing picture", on_picture(".png", Path.unlink), "error", "no picture of this name", "unpack"),
    _padchest("orphan picture", add_stray("1_a.png", ".png"), "warning", "a picture that no row names", "remove"),
    _padchest("empty picture", on_picture(".png", lambda p: p.write_bytes(b"")), "error", "0 bytes", "PadChest"),
]


def _on_box(column: str, value: str) -> Callable[[Path], None]:
    """Set a field of the first row that has a box."""

    def damage(root: Path) -> None:
        def change(rows: list[list[str]]) -> None:
            row = next(row for row in rows[1:] if row[rows[0].index("x_min")])
            row[rows[0].index(column)] = value

        edit_rows(root / BOXES, change)

    return damage


LABELS, BOXES = "annotations/image_labels_train.csv", "annotations/annotations_train.csv"
_vindr = faults_of("vindr")
VINDR: list[Fault] = [
    _vindr("missing table", on(BOXES, Path.unlink), "error", "has no.*annotations_train.csv", "fetch"),
    _vindr("missing part", on("annotations/image_labels_test.csv", Path.unlink), "error", "this part was not", "fetch"),
    _vindr("unknown label", on(LABELS, set_field, "Edema", "yes"), "error", "row 2: Edema is 'yes'", "mend the row"),
    _vindr("unknown class", _on_box("class_name", "Gout"), "error", "class 'Gout' is not one of", "mend the row"),
    _vindr("duplicate row", on(LABELS, repeat_row), "error", "a reader's row is given twice", "remove"),
    _vindr("box that is no number", _on_box("x_min", "left"), "error", "x_min is 'left'", "mend it"),
    _vindr("box outside", _on_box("x_max", "99999"), "error", "a box outside the picture", "mend the row"),
    _vindr("empty box", _on_box("x_max", "-5"), "error", "an empty box|outside the picture", "mend the row"),
    _vindr("box without an edge", _on_box("y_max", ""), "error", "a box without four edges", "mend the row"),
    _vindr("box for no row", _on_box("image_id", "f" * 32), "error", "boxes of an image that the image lab", "fetch"),
    _vindr(
        "No finding beside a finding",
        on(LABELS, set_fields, "No finding", "Edema", value="1"),
        "warning",
        "'No finding' beside",
        "mend",
    ),
    _vindr("missing reader", on(LABELS, remove_row), "warning", "not read by three readers", "fetch"),
    _vindr("missing picture", on_picture(".dicom", Path.unlink), "error", "no picture of this name", "fetch train/"),
    _vindr("orphan picture", add_stray("0a.dicom", ".dicom"), "warning", "a picture that no table names", "remove"),
    _vindr("leak", repeat_picture(".dicom", first=0, second=-1), "error", "the same picture (in|for) several", "whose"),
    _vindr("empty picture", on_picture(".dicom", lambda p: p.write_bytes(b"")), "error", "0 bytes", "PhysioNet"),
]

MORE: list[Fault] = [*CHEXPERT, *CHEXPERT_PLUS, *PADCHEST_FAULTS, *VINDR]
