"""Cells of Parquet tables: missing values of every type, bytes, categories; what is refused."""

import numpy as np
import pandas as pd
import pytest

from datamodules import layouts


def write(folder, **columns):
    base = {"image": ["a.png", "b.png", "c.png"], "report": ["x", "y", "z"], "patient": ["p", "q", "r"]}
    pd.DataFrame(base | columns).to_parquet(folder / "t.parquet")
    return layouts.read("table", folder, images=False, study_column="study" if "study" in columns else None)


def test_missing_values_of_every_type_are_empty(tmp_path):
    manifest = write(
        tmp_path,
        patient=pd.array([1, 2, 3], dtype="Int64"),
        study=pd.array([10, 20, None], dtype="Int64"),
        age=pd.array([40, None, 50], dtype="Int64"),
        sex=pd.Categorical(["F", None, "M"]),
        view=pd.Categorical(["PA", None, "AP"]),
        report=pd.Categorical(["x", None, "x"]),
        Edema=pd.array([1, None, -1], dtype="Int64"),
        Fracture=pd.array([True, None, False], dtype="boolean"),
        Pneumonia=pd.Categorical(["1", None, "0"]),
    )
    frame = manifest.frame
    assert frame["patient_id"].tolist() == ["1", "2", "3"]
    assert frame["study_id"].tolist() == ["10", "20", "c"]
    assert frame["sex"].tolist() == ["F", "", "M"]
    assert frame["view"].tolist() == ["PA", "unknown", "AP"]
    assert frame["report"].tolist() == ["x", "", "x"]
    np.testing.assert_array_equal(frame["age"], np.float32([40, np.nan, 50]))
    np.testing.assert_array_equal(frame["Edema"], np.float32([1, np.nan, -1]))
    np.testing.assert_array_equal(frame["Fracture"], np.float32([1, np.nan, 0]))
    np.testing.assert_array_equal(frame["Pneumonia"], np.float32([1, np.nan, 0]))


def test_missing_where_there_must_be_a_value(tmp_path):
    with pytest.raises(ValueError, match=r"t.parquet: row 3: no patient in column 'patient' \(1 rows\)"):
        write(tmp_path, patient=pd.array([1, None, 3], dtype="Int64"))
    with pytest.raises(ValueError, match=r"t.parquet: row 4: label Edema = 2 \(1 rows\); expected 1, 0, -1"):
        write(tmp_path, Edema=pd.array([1, None, 2], dtype="Int64"))


def test_bytes_are_text_or_refused(tmp_path):
    frame = write(tmp_path, report=[b"cl\xc3\xa9ar", None, b""], image=[b"a.png", b"b.png", b"c.png"]).frame
    assert frame["report"].tolist() == ["cléar", "", ""]
    assert frame["image_id"].tolist() == ["a", "b", "c"]
    with pytest.raises(ValueError, match=r"t.parquet: row 3: column 'report' holds bytes that are not UTF-8; write it"):
        write(tmp_path, report=[b"x", b"\xff\xfe", b"z"])
