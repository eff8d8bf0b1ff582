"""The manifest: its checks, its round trip, its digest."""

import hashlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest

from datamodules.manifest import Box, Manifest, Remark, common_folder, decode_boxes, encode_boxes, make_manifest


def rows(**changes):
    first = {"image": "a.png", "image_id": "a", "patient_id": "p", "split": "train", "Edema": 1, "view": "PA"}
    second = {"image": "b.png", "image_id": "b", "patient_id": "q", "split": "test", "Edema": -1, "view": "AP"}
    return [first, second | changes]


def test_defaults_and_labels():
    manifest = make_manifest(rows(), source="x")
    assert manifest.frame["study_id"].tolist() == ["a", "b"]
    assert manifest.frame["report"].tolist() == ["", ""]
    labels = manifest.labels()
    assert labels.shape == (2, 14)
    assert labels[:, 5].tolist() == [1, -1]
    assert np.isnan(np.delete(labels, 5, axis=1)).all()


def test_missing_values_of_every_type_are_empty():
    frame = pd.DataFrame(rows()).assign(
        study_id=pd.array([7, None], dtype="Int64"),
        sex=pd.Categorical(["F", None]),
        report=[None, "x"],
        Edema=pd.array([1, None], dtype="Int8"),
        age=pd.array([None, 40], dtype="Int64"),
    )
    found = make_manifest(frame, source="x").frame
    assert found["study_id"].tolist() == ["7", ""]
    assert found["sex"].tolist() == ["F", ""]
    assert found["report"].tolist() == ["", "x"]
    np.testing.assert_array_equal(found["Edema"], np.float32([1, np.nan]))
    np.testing.assert_array_equal(found["age"], np.float32([np.nan, 40]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patient_id": "p"}, r"x: patient p is in several splits \['test', 'train'\]"),
        ({"image_id": "a"}, "image_id = 'a' is given twice"),
        ({"study_id": "a"}, r"x: study a is of 2 patients \['p', 'q'\] \(1 studies are of several\); mend the patient"),
        ({"image_id": "b\nc"}, r"x: image 'b\\nc': image_id = 'b\\nc' holds a line break, a tab .*; mend the id"),
        ({"study_id": "b\tc"}, r"image b: study_id = 'b\\tc' holds a line break, a tab"),
        ({"patient_id": "q\u2028"}, r"image b: patient_id = 'q\\u2028' holds a line break"),
        ({"view": "oblique"}, "image b: view = 'oblique' is not a view"),
        ({"split": "dev"}, "image b: split = 'dev' is not a split"),
        ({"Edema": 2}, r"image b: Edema = .*2\.0.* is not a label"),
    ],
)
def test_wrong_rows_are_named(changes, message):
    first, second = rows(**changes)
    with pytest.raises(ValueError, match=message):
        make_manifest([{"study_id": "a"} | first, {"study_id": "b"} | second], source="x")


def test_save_and_load_keep_rows_digest_and_drops(tmp_path):
    manifest = make_manifest(rows(), source="x", drops=[Remark("no image", ("c", "d"))])
    manifest.save(tmp_path / "m.parquet")
    loaded = Manifest.load(tmp_path / "m.parquet")
    assert loaded.digest() == manifest.digest()
    assert (loaded.drops[0].reason, loaded.drops[0].count) == ("no image", 2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.parquet", "m.parquet.ledger.json"]


def test_a_save_that_fails_leaves_nothing_half_written(tmp_path):
    (tmp_path / "m.parquet").mkdir()  # a folder where the file shall be
    with pytest.raises(OSError, match=r"m\.parquet"):
        make_manifest(rows(), source="x").save(tmp_path / "m.parquet")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.parquet", "m.parquet.ledger.json"]


def test_several_processes_may_save_the_same_manifest(tmp_path):
    manifest, path = make_manifest(rows(), source="x"), tmp_path / "m.parquet"
    with ThreadPoolExecutor(4) as pool:
        for saved in [pool.submit(manifest.save, path) for _ in range(24)]:
            saved.result()
    assert Manifest.load(path).digest() == manifest.digest()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.parquet", "m.parquet.ledger.json"]


def test_digest_depends_on_every_kind_of_column():
    base = make_manifest(rows(), source="x").digest()
    assert make_manifest(rows(), source="x").digest() == base
    for changes in ({"report": "clear"}, {"Edema": 0}, {"age": 40.0}, {"view": "PA"}, {"image": "c.png"}):
        assert make_manifest(rows(**changes), source="x").digest() != base
    assert make_manifest(rows(), source="y").digest() != base


def test_split_digest_is_of_ids_and_splits_alone():
    rows = [{"image": "", "image_id": i, "patient_id": i, "split": s} for i, s in (("b", "test"), ("a", "train"))]
    digest = make_manifest(rows, source="x").split_digest()
    assert digest == hashlib.sha256(b"a\ttrain\nb\ttest\n").hexdigest()
    assert make_manifest([r | {"report": "Clear."} for r in rows[::-1]], source="y").split_digest() == digest
    rows[1]["split"] = "test"
    assert make_manifest(rows, source="x").split_digest() != digest


def test_boxes_round_trip():
    boxes = [Box("Edema", 0.1, 0.2, 0.3, 0.4), Box("Fracture", 0.0, 0.0, 1.0, 1.0)]
    assert decode_boxes(encode_boxes(boxes)) == boxes
    assert encode_boxes([]) == ""
    assert decode_boxes("") == []


def test_split_takes_its_rows_and_refuses_other_names():
    manifest = make_manifest(rows(), source="x")
    assert manifest.split("test").frame["image_id"].tolist() == ["b"]
    with pytest.raises(ValueError, match="split 'dev' does not exist"):
        manifest.split("dev")


def test_digest_is_of_the_data_wherever_it_lies():
    here, there = rows(), rows()
    for row in there:
        row["image"] = f"/disk/nih/{row['image']}"
    digest = make_manifest(here, source="x").digest()
    assert make_manifest(there, source="x").digest() == digest
    there[1]["image"] = "/disk/nih/c.png"
    assert make_manifest(there, source="x").digest() != digest


@pytest.mark.parametrize(
    ("images", "folder"),
    [
        (["/a/b/1.png", "/a/b/2.png", ""], "/a/b/"),
        (["/a/b/1.png", "/a/bc/1.png"], "/a/"),
        (["s3://x/y/1.png", "s3://x/z/1.png"], "s3://x/"),
        (["phantom:0:1", "phantom:0:2"], ""),
        (["1.png", "/a/1.png"], ""),
        (["a/1.png"], "a/"),
        (["", ""], ""),
        ([], ""),
    ],
)
def test_common_folder(images, folder):
    assert common_folder(pd.Series(images, dtype="str")) == folder
