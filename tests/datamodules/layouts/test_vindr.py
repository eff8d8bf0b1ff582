"""The layout vindr: what the phantom writes is what is read, each fault is named, the published table is read."""

import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.images import picture_size, read_image
from datamodules.layouts import vindr
from datamodules.layouts.vindr_boxes import EDGES
from datamodules.layouts.vindr_tables import KAGGLE, LABELS
from datamodules.phantom.disk import write
from datamodules.phantom.disk.common import phantoms, save_picture
from datamodules.phantom.disk.dicom_file import save_dicom
from datamodules.reports.labels import FINDINGS
from tests.datamodules.layouts.vindr_case import BOXES, THREE, boxes_of, labels_of, remark, save
from tests.datamodules.roundtrip import assert_same

UNSEEN = ("Enlarged Cardiomediastinum", "Support Devices")


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**20), kaggle=st.booleans())
def test_the_reader_finds_what_the_writer_wrote(tmp_path_factory, seed, kaggle):
    folder = tmp_path_factory.mktemp("vindr")
    written = write("vindr", folder, studies=10, seed=seed, size=32, kaggle=kaggle)
    found = vindr.read(folder)
    assert_same(found, written)
    assert vindr.recognise(folder)
    assert not found.drops
    assert {r.level for r in found.notes} == {"note"}


def test_equal_runs_give_equal_bytes(tmp_path):
    contents = []
    for name in ("a", "b"):
        write("vindr", tmp_path / name, studies=6, seed=1, size=32)
        files = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        contents.append([(path.name, path.read_bytes()) for path in files])
    assert contents[0] == contents[1]


def test_every_kind_of_file_shows_the_phantom(tmp_path):
    import pydicom

    written = write("vindr", tmp_path, studies=14, seed=2, size=32)
    kinds = set()
    for one, row in zip(phantoms(studies=14, seed=2, size=32), written.frame.itertuples(), strict=True):
        header = pydicom.dcmread(row.image)
        width, height = picture_size(row.image)
        assert (width, height) == (header.Columns, header.Rows)
        pixels = one.pixels[:height]
        if "WindowCenter" not in header:
            spread = pixels.astype(np.float32) - pixels.min()
            pixels = np.round(spread * (255 / spread.max()))
        shown = read_image(row.image, size=32)
        top = (32 - height) // 2
        np.testing.assert_allclose(shown[top : top + height].astype(int), pixels, atol=1)
        kinds.add((header.BitsStored, header.PhotometricInterpretation, "WindowCenter" in header, height))
    for position, values in enumerate(({12, 16}, {"MONOCHROME1", "MONOCHROME2"}, {True, False}, {28, 32})):
        assert {kind[position] for kind in kinds} == values


@pytest.mark.parametrize(
    ("rule", "one_of_three", "two_of_three", "boxes"),
    [("majority", -1, 1, 1), ("any", 1, 1, 2), ("all", 0, 0, 0)],
)
def test_readers_are_merged_by_the_rule(tmp_path, rule, one_of_three, two_of_three, boxes):
    train = [("a", "R1", "Cardiomegaly,Nodule/Mass"), ("a", "R2", "Cardiomegaly"), ("a", "R3", "No finding")]
    save(tmp_path, train=train, boxes=[*BOXES, ("a", "R1", "Nodule/Mass", 1, 1, 9, 9)])
    manifest = vindr.read(tmp_path, merge=rule)
    row = manifest.frame.iloc[0]
    assert (row["Lung Lesion"], row["Cardiomegaly"], row["Pneumothorax"]) == (one_of_three, two_of_three, 0)
    assert row["Lung Opacity"] == one_of_three  # a lesion is one
    assert row["No Finding"] == one_of_three
    assert np.isnan(row[list(UNSEEN)].astype(float)).all()
    assert len(manifest.boxes(0)) == boxes
    outcome = "uncertain (-1)" if rule == "majority" else f"merged by {rule!r}"
    assert remark(manifest, f"readers disagree on a finding; it is {outcome}").ids == ("a",)


def test_views_patients_and_splits(tmp_path):
    save(tmp_path, test=[("b", "", "No finding")])
    manifest = vindr.read(tmp_path, validate=0.0)
    frame = manifest.frame.set_index("image_id")
    assert frame["split"].to_dict() == {"a": "train", "b": "test"}
    assert frame["patient_id"].to_dict() == frame["study_id"].to_dict() == {"a": "a", "b": "b"}
    assert set(frame["view"]) == {"PA"}
    assert (frame.loc["b", "No Finding"], frame.loc["b", "Edema"]) == (1, 0)
    assert set(frame["report_source"]) == {"none"}
    assert remark(manifest, "the view is PA by the data set's description").ids == ("a", "b")
    assert remark(manifest, "no patients are told; each picture is its own patient").ids == ("a", "b")


def test_the_carved_splits_have_their_shares(tmp_path):
    names = [f"{number:04d}" for number in range(2000)]
    table = pd.DataFrame({"image_id": names, "rad_id": "R1", "class_name": "No finding"} | dict.fromkeys(EDGES, ""))
    table.to_csv(tmp_path / "train.csv", index=False)
    manifest = vindr.read(tmp_path, images=False, validate=0.2)
    shares = manifest.frame["split"].value_counts(normalize=True)
    assert shares["validate"] == pytest.approx(0.2, abs=0.03)
    assert shares["test"] == pytest.approx(0.2, abs=0.03)
    assert vindr.read(tmp_path, images=False, validate=0.2, seed=1).digest() != manifest.digest()
    carved = remark(manifest, "Kaggle's test has no labels; this test split was carved from its train")
    assert carved.count == (manifest.frame["split"] == "test").sum()


def test_kaggle_labels_what_it_has_classes_for(tmp_path):
    boxes = [
        ("a", "R1", "ILD", 1, 2, 30, 40),
        ("a", "R2", "Infiltration", 1, 2, 30, 40),
        ("a", "R3", "Other lesion", 1, 2, 30, 40),
    ]
    boxes_of(boxes).to_csv(tmp_path / "train.csv", index=False)
    assert vindr.recognise(tmp_path)
    row = vindr.read(tmp_path, images=False).frame.iloc[0]
    assert (row["Lung Opacity"], row["Consolidation"], row["No Finding"]) == (1, 0, 0)
    assert row[[*UNSEEN, "Edema", "Pneumonia", "Fracture"]].isna().all()


def test_kaggles_unlabelled_pictures_are_told(tmp_path):
    boxes_of(BOXES).to_csv(tmp_path / "train.csv", index=False)
    grey = np.tile(np.arange(200, dtype=np.uint8), (100, 1))
    for name in ("train/a.dicom", "test/z.dicom", "train/y.dicom"):
        save_dicom(grey, tmp_path / name, bits=12)
    manifest = vindr.read(tmp_path)
    assert len(manifest) == 1
    left = remark(manifest, "a picture of Kaggle's test, which has no labels, was left out")
    assert (left.ids, left.level) == (("test/z.dicom",), "note")
    assert remark(manifest, "a picture that no table names").ids == ("train/y.dicom",)


def test_rows_without_their_picture_leave_with_an_error(tmp_path):
    save(tmp_path, train=[*THREE, ("b", "R1", "No finding")])
    (tmp_path / "train" / "b.dicom").unlink()
    manifest = vindr.read(tmp_path)
    assert manifest.frame["image_id"].tolist() == ["a"]
    missing = remark(manifest, "no picture of this name", among="drops")
    assert (missing.ids, missing.level) == (("b",), "error")
    assert "fetch train/<image_id>.dicom" in missing.mend
    (tmp_path / "train" / "a.dicom").unlink()
    with pytest.raises(FileNotFoundError, match=r"none of the 2 pictures is below .*train/a.dicom"):
        vindr.read(tmp_path)


def test_the_dicom_goes_before_a_copy_of_it(tmp_path):
    save(tmp_path)
    save_picture(np.arange(50, dtype=np.uint8).reshape(5, 10), tmp_path / "a_copy" / "a.png")
    assert vindr.read(tmp_path).frame["image"].iloc[0] == str(tmp_path / "train" / "a.dicom")


def test_what_is_odd_in_boxes_and_labels_is_in_the_ledger(tmp_path):
    train = [
        *THREE,
        ("a", "R3", "Edema"),
        *[("b", f"R{n}", "Cardiomegaly,No finding") for n in (1, 2)],
        *[("c", f"R{n}", "Nodule/Mass") for n in (1, 2, 3)],
    ]
    boxes = [
        *BOXES,
        BOXES[0],
        ("a", "R3", "Aortic enlargement", 1, 1, 5, 5),
        ("b", "R1", "Cardiomegaly", 50, 50, 50, 60),
        ("b", "R2", "Cardiomegaly", 50, 50, 260, 60),
        ("b", "R2", "Edema", "", "", "", ""),
        *[("c", f"R{n}", "Nodule/Mass", 1 + 30 * n, 1, 20 + 30 * n, 20) for n in (1, 2, 3)],
        *[("c", f"R{n}", "Rib fracture", 1, 1, 20, 20) for n in (1, 2)],
        ("z", "R1", "Edema", 1, 1, 5, 5),
    ]
    manifest = vindr.read(save(tmp_path, train=train, boxes=boxes))
    dropped = {r.reason: (r.ids, r.level) for r in manifest.drops}
    assert dropped == {
        "a reader's row is given twice; the first is kept": (("a",), "error"),
        "a box is given twice; it is kept once": (("a",), "error"),
        "boxes of an image that the image labels do not have": (("z",), "error"),
    }
    noted = {r.reason: r.ids for r in manifest.notes}
    assert noted["not read by three readers"] == ("b",)
    assert noted["'No finding' beside a finding of the same reader"] == ("b",)
    assert noted["boxes of classes that CheXpert has no name for were left out"] == ("a",)
    assert noted["an empty box was left out"] == noted["a box outside the picture was left out"] == ("b",)
    assert noted["a box without four edges was left out"] == ("b",)
    assert noted["a finding is present, but its readers' boxes do not overlap: no box"] == ("c",)
    assert noted["boxes of a finding that the image labels do not give"] == ("c",)
    assert manifest.frame["Edema"].iloc[0] == 0


def test_an_empty_label_field_counts_as_absent_and_is_told(tmp_path):
    table = labels_of(THREE).astype(object)
    table.loc[0, "Edema"] = ""
    table["Cardiomegaly"] = ["1.0", "1.0", "0.0"]
    manifest = vindr.read(save(tmp_path, train=table))
    assert manifest.frame[["Edema", "Cardiomegaly"]].iloc[0].tolist() == [0, 1]
    assert remark(manifest, "an empty label field was taken as 0").ids == ("a",)


def test_a_part_that_is_missing_is_an_error_in_the_ledger(tmp_path):
    manifest = vindr.read(save(tmp_path))
    missing = remark(manifest, "image_labels_test.csv is missing; this part was not read")
    assert (missing.level, missing.mend) == ("error", "fetch annotations/ again")


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("Edema", "2", r"image_labels_train.csv: row 3: Edema is '2', expected 0 or 1"),
        ("class_name", "Dragon", r"annotations_train.csv: row 3: class 'Dragon' is not one of .*mend the row"),
        ("x_max", "wide", r"annotations_train.csv: row 3: x_max is 'wide', expected pixels; mend it"),
    ],
)
def test_unknown_values_name_file_row_and_mend(tmp_path, column, value, message):
    train, boxes = labels_of(THREE).astype(object), boxes_of(BOXES).astype(object)
    (train if column in train else boxes).loc[1, column] = value
    save(tmp_path, train=train, boxes=boxes)
    with pytest.raises(ValueError, match=message):
        vindr.read(tmp_path)


def test_missing_columns_tables_and_wrong_options_are_named(tmp_path):
    for name, column in (("one", "Edema"), ("two", "rad_id")):
        folder = save(tmp_path / name, train=labels_of(THREE).drop(columns=column))
        with pytest.raises(ValueError, match=rf"column '{column}' is missing.*take the file as it is published"):
            vindr.read(folder)
    folder = save(tmp_path / "three")
    (folder / "annotations" / "annotations_train.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"annotations_train.csv.*fetch the missing file"):
        vindr.read(folder)
    (tmp_path / "four").mkdir()
    with pytest.raises(FileNotFoundError, match=r"train.csv.*annotations/image_labels"):
        vindr.read(tmp_path / "four")
    with pytest.raises(ValueError, match="merge = 'most'"):
        vindr.read(folder, merge="most")
    with pytest.raises(ValueError, match=r"validate = 0.5"):
        vindr.read(folder, validate=0.5)


def test_an_image_in_both_parts_is_an_error(tmp_path):
    save(tmp_path, test=[("a", "", "No finding")])
    with pytest.raises(ValueError, match=r"image a is in image_labels_train.csv and in image_labels_test.csv"):
        vindr.read(tmp_path)


def test_other_folders_are_not_taken_for_this_one(tmp_path):
    assert not vindr.recognise(tmp_path)
    (tmp_path / "train.csv").write_text("Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding\n")
    assert not vindr.recognise(tmp_path)


def test_every_class_is_mapped_to_a_finding_or_to_none():
    assert len(LABELS) == 28
    assert set(LABELS.values()) - {None} <= set(FINDINGS)
    assert set(KAGGLE) <= set(LABELS)
    assert len(KAGGLE) == 15


@pytest.mark.slow
def test_the_published_boxes(tmp_path):
    xrv = pytest.importorskip("torchxrayvision")
    source = Path(xrv.__file__).parent / "data" / "vinbigdata-train.csv.gz"
    if not source.is_file():
        pytest.skip(f"{source} is not in this version of torchxrayvision")
    (tmp_path / "train.csv.gz").symlink_to(source)
    plain = pd.read_csv(source)
    assert vindr.recognise(tmp_path)
    start = time.monotonic()
    manifest = vindr.read(tmp_path, images=False)
    assert time.monotonic() - start < 60
    assert len(plain) == 67_914
    assert len(manifest) == plain["image_id"].nunique() == vindr.PUBLISHED_KAGGLE["images"] == 15_000
    assert not manifest.drops

    readers = plain.groupby("image_id")["rad_id"].nunique()
    assert set(readers) == {3}
    frame = manifest.frame.set_index("image_id")
    opacities = [name for name in KAGGLE if LABELS[name] in ("Lung Opacity", *vindr.OPACITIES)]
    for finding in FINDINGS:
        names = opacities if finding == "Lung Opacity" else [name for name in KAGGLE if LABELS[name] == finding]
        votes = plain[plain["class_name"].isin(names)].groupby("image_id")["rad_id"].nunique()
        if not names:
            assert frame[finding].isna().all()
            continue
        assert (frame[finding] == 1).sum() == (votes >= 2).sum(), finding
        assert (frame[finding] == -1).sum() == (votes == 1).sum(), finding
        assert (frame[finding] == 0).sum() == 15_000 - len(votes), finding
    assert (frame["No Finding"] == 1).sum() == 10_606
    counts = {r.reason: r.count for r in manifest.notes}
    assert counts["readers disagree on a finding; it is uncertain (-1)"] == 2_354
    mapped = plain[plain["class_name"].map(LABELS).notna() & plain["x_min"].notna()]
    unsized = "the original picture's size is not known; its boxes were left out"
    assert counts[unsized] == mapped["image_id"].nunique() == 4_096

    # Sizes are not in the table: some that hold every box.
    sizes = plain.groupby("image_id")[["x_max", "y_max"]].max().fillna(1000).astype(int)
    sizes.set_axis(["width", "height"], axis=1).to_csv(tmp_path / "sizes.csv")
    everything = vindr.read(tmp_path, images=False, merge="any", sizes="sizes.csv")
    found = [everything.boxes(row) for row in range(len(everything))]
    agreed = vindr.read(tmp_path, images=False, sizes="sizes.csv")
    kept = [agreed.boxes(row) for row in range(len(agreed))]
    assert sum(map(len, kept)) < sum(map(len, found)) <= len(mapped.drop_duplicates())
    for boxes, row in zip(kept, agreed.frame[list(FINDINGS)].to_dict("records"), strict=True):
        assert all(row[box.finding] == 1 for box in boxes)
