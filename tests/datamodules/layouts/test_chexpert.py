"""The layout chexpert: what the phantom writes is what is read, each fault is named, the published table is read."""

import gzip
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from datamodules import layouts
from datamodules.layouts import chexpert
from datamodules.layouts.source import hash_fractions
from datamodules.phantom import disk
from datamodules.reports.labels import FINDINGS
from tests.datamodules.roundtrip import assert_same

COLUMNS = ["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *FINDINGS]
NO_TEST = "no test set: the published valid set is the split test, and validate is carved out of train"


def row(path: str, sex="Female", age="68", side="Frontal", view="AP", **labels: str) -> dict[str, str]:
    described = {"Path": path, "Sex": sex, "Age": age, "Frontal/Lateral": side, "AP/PA": view}
    return described | dict.fromkeys(FINDINGS, "") | {"Edema": "1.0"} | labels


TRAIN = [
    row("CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg"),
    row("CheXpert-v1.0-small/train/patient00001/study1/view2_lateral.jpg", side="Lateral", view=""),
    row("CheXpert-v1.0-small/train/patient00002/study3/view1_frontal.jpg", sex="Male", view="PA"),
]
VALID = [row("CheXpert-v1.0-small/valid/patient64541/study1/view1_frontal.jpg")]


def write(base: Path, train=TRAIN, valid=VALID, *, test: list[dict] | None = None) -> Path:
    """A small copy of the data set, under whatever name."""
    base.mkdir(parents=True, exist_ok=True)
    for name, rows in (("train", train), ("valid", valid), ("test", test)):
        if rows is None:
            continue
        pd.DataFrame(rows, columns=None if rows else COLUMNS).to_csv(base / f"{name}.csv", index=False)
        for path in {entry["Path"] for entry in rows}:
            picture(base / name / path.split(f"{name}/")[1])
    return base


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (8, 8), 100).save(path)


def ledger(manifest) -> dict[str, tuple[str, tuple[str, ...]]]:
    return {r.reason: (r.level, r.ids) for r in manifest.drops + manifest.notes}


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10**6), studies=st.integers(1, 10), small=st.booleans(), test=st.booleans())
def test_what_the_phantom_writes_is_read(tmp_path_factory, seed, studies, small, test):
    out = tmp_path_factory.mktemp("chexpert")
    written = disk.write("chexpert", out, studies=studies, seed=seed, size=32, small=small, test=test)
    found = layouts.read("chexpert", out)
    assert_same(found, written)
    assert found.drops == ()
    assert not [r for r in found.notes if r.level == "error"]
    # The folder itself is a root too, whatever users call it.
    renamed = (out / ("CheXpert-v1.0-small" if small else "CheXpert-v1.0")).rename(out / "cxr")
    again = layouts.read("chexpert", renamed).frame
    assert again.drop(columns="image").equals(found.frame.drop(columns="image"))
    assert all(Path(image).is_file() for image in again["image"])


def test_written_quirks(tmp_path):
    written = disk.write("chexpert", tmp_path, studies=120, size=32, test=True)
    base = tmp_path / "CheXpert-v1.0-small"
    train, valid, test = (
        pd.read_csv(base / name, dtype=str, keep_default_na=False)
        for name in ("train.csv", "valid.csv", "test_labels.csv")
    )
    assert list(train.columns) == list(valid.columns) == COLUMNS
    assert list(test.columns) == ["Path", *FINDINGS]
    assert (
        train["Path"]
        .str.fullmatch(r"CheXpert-v1\.0-small/train/patient\d{5}/study[12]/view(1_frontal|2_lateral)\.jpg")
        .all()
    )
    assert test["Path"].str.startswith("test/patient647").all()
    assert set(train[list(FINDINGS)].to_numpy().ravel()) == {"", "0.0", "1.0", "-1.0"}
    assert set(train["No Finding"]) == {"", "1.0"}
    assert set(valid[list(FINDINGS)].to_numpy().ravel()) == {"0.0", "1.0"}
    assert set(train["Sex"]) == {"Male", "Female", "Unknown"}
    assert "0" in set(train["Age"])
    lateral = train["Frontal/Lateral"] == "Lateral"
    assert set(train.loc[lateral, "AP/PA"]) == {""}
    assert set(train.loc[~lateral, "AP/PA"]) == {"AP", "PA", "LL"}
    found = layouts.read("chexpert", tmp_path)
    assert_same(found, written)
    counts = {r.reason: r.count for r in found.notes}
    frame = written.frame
    described = frame["split"] != "test"
    assert counts == {
        "Frontal/Lateral, AP/PA and the name of the file contradict each other: view unknown": int(
            (described & (frame["view"] == "unknown")).sum()
        ),
        "frontal, but whether AP or PA is not given: view unknown": int(
            (~described & (frame["view"] == "unknown")).sum()
        ),
        "view inferred from the name of the file": int((~described & (frame["view"] == "LATERAL")).sum()),
        "sex unknown": int((described & (frame["sex"] == "")).sum()),
        "age 0 in a set of adults: cleared": int((described & frame["age"].isna()).sum()),
        "table without the columns Sex, Age, Frontal/Lateral, AP/PA": 1,
    }


def test_labels_are_taken_as_they_stand(tmp_path):
    labels = {"Edema": "-1.0", "Pneumonia": "0.0", "Fracture": "1"}
    train = [row("x/train/patient00001/study1/view1_frontal.jpg", **labels), *TRAIN[2:]]
    frame = layouts.read("chexpert", write(tmp_path, train), validate=0.0).frame
    assert frame["image_id"].tolist() == [
        "patient00001_study1_view1_frontal",
        "patient00002_study3_view1_frontal",
        "patient64541_study1_view1_frontal",
    ]
    assert frame["study_id"].tolist() == ["patient00001_study1", "patient00002_study3", "patient64541_study1"]
    first = frame.loc[0, list(FINDINGS)].dropna().astype(float).to_dict()
    assert first == {"Edema": -1, "Pneumonia": 0, "Fracture": 1}
    assert frame["view"].tolist() == ["AP", "PA", "AP"]
    assert frame["sex"].tolist() == ["F", "M", "F"]
    assert frame["split"].tolist() == ["train", "train", "test"]
    assert set(frame["report_source"]) == {"none"}


def test_splits(tmp_path):
    train = [row(f"x/train/patient{i:05d}/study1/view1_frontal.jpg") for i in range(60)]
    base = write(tmp_path / "a", train)
    manifest = layouts.read("chexpert", base, validate=0.3)
    frame = manifest.frame
    carved = hash_fractions(frame["patient_id"], seed=0) < 0.3
    assert (frame["split"] == np.where(frame["patient_id"] == "patient64541", "test", "train")).sum() == 61 - carved[
        :60
    ].sum()
    assert set(frame.loc[carved & (frame["patient_id"] != "patient64541"), "split"]) == {"validate"}
    assert ledger(manifest) == {NO_TEST: ("note", ("train.csv", "valid.csv"))}
    test = [row("test/patient64741/study1/view1_frontal.jpg")]
    with_test = layouts.read("chexpert", write(tmp_path / "b", train, test=test), validate=0.3)
    assert with_test.frame["split"].value_counts().to_dict() == {"train": 60, "validate": 1, "test": 1}
    assert ledger(with_test) == {}
    hashed = layouts.read("chexpert", base, splits="hashed")
    assert set(hashed.frame["split"]) == {"train", "validate", "test"}
    reason = "split by a hash of the patient, not as published"
    assert ledger(hashed) == {reason: ("note", ("train.csv", "valid.csv"))}
    (base / "valid.csv").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"has no valid.csv; expected .*; fetch it, or read with .*splits=hashed"
    ):
        layouts.read("chexpert", base)
    assert len(layouts.read("chexpert", base, splits="hashed")) == 60
    with pytest.raises(ValueError, match="option splits is 'random'; expected one of 'official', 'hashed'"):
        layouts.read("chexpert", base, splits="random", images=False)
    with pytest.raises(ValueError, match=r"validate = -0\.1 is not a share"):
        layouts.read("chexpert", base, splits="hashed", validate=-0.1)


def test_odd_rows_and_files_are_in_the_ledger(tmp_path):
    train = [
        *TRAIN,
        TRAIN[0],
        row("x/train/patient00003/study1/view1_frontal.jpg", sex="Unknown", age="0", view="LL"),
        row("x/train/patient00003/study2/view1_lateral.jpg", age="414", side="Frontal"),
        row("x/train/patient00003/study2/view2_frontal.jpg", sex="Male", age="old", view="", Edema="0.0"),
        row("x/train/patient00004/study1/view1_frontal.jpg", age="90", **{"No Finding": "1.0"}),
        row("x/train/patient00005/study1/view1_frontal.jpg", Edema=""),
        row("x/train/patient00006/study1/view1_lateral.jpg", side="", view=""),
        row("x/train/patient00007/study1/view1_frontal.jpg"),
        row("x/train/patient00007/study1/view1_frontal.jpg", age="12"),
    ]
    base = write(tmp_path, train)
    (base / "train/patient00007/study1/view1_frontal.jpg").unlink()
    picture(base / "train/patient00002/study3/view1_frontal.png")
    picture(base / "train/patient00002/study3/view2_frontal.jpg")
    picture(base / "montage.png")
    manifest = layouts.read("chexpert", base)
    third = "patient00003_study"
    assert ledger(manifest) == {
        "row given twice": ("error", ("patient00001_study1_view1_frontal",)),
        "row given twice with other values: the first is kept": ("error", ("patient00007_study1_view1_frontal",)),
        "no picture of this name": ("error", ("patient00007_study1_view1_frontal",)),
        "Frontal/Lateral, AP/PA and the name of the file contradict each other: view unknown": (
            "warning",
            (f"{third}1_view1_frontal", f"{third}2_view1_lateral"),
        ),
        "frontal, but whether AP or PA is not given: view unknown": ("warning", (f"{third}2_view2_frontal",)),
        "view inferred from the name of the file": ("note", ("patient00006_study1_view1_lateral",)),
        "sex unknown": ("note", (f"{third}1_view1_frontal",)),
        "patient of two sexes": (
            "warning",
            (f"{third}1_view1_frontal", f"{third}2_view1_lateral", f"{third}2_view2_frontal"),
        ),
        "age that is no number: left empty": ("warning", (f"{third}2_view2_frontal",)),
        "age 0 in a set of adults: cleared": ("note", (f"{third}1_view1_frontal",)),
        "age over 110 years: cleared": ("note", (f"{third}2_view1_lateral",)),
        "age 90, which stands for 90 and over": ("note", ("patient00004_study1_view1_frontal",)),
        NO_TEST: ("note", ("train.csv", "valid.csv")),
        "no label": ("warning", ("patient00005_study1_view1_frontal",)),
        "No Finding beside a finding": ("error", ("patient00004_study1_view1_frontal",)),
        "views of one study with different labels": (
            "error",
            (f"{third}2_view1_lateral", f"{third}2_view2_frontal"),
        ),
        "picture that no row of the table names": (
            "warning",
            ("montage.png", "train/patient00002/study3/view2_frontal.jpg"),
        ),
        "second copy of a picture: of .jpg, .jpeg, .png the first is read": (
            "note",
            ("train/patient00002/study3/view1_frontal.png",),
        ),
    }
    frame = manifest.frame.set_index("image_id")
    assert frame["view"].to_dict()[f"{third}1_view1_frontal"] == "unknown"
    assert frame["view"].to_dict()["patient00006_study1_view1_lateral"] == "LATERAL"
    assert frame.loc[frame["age"].isna()].index.tolist() == [
        f"{third}1_view1_frontal",
        f"{third}2_view1_lateral",
        f"{third}2_view2_frontal",
    ]
    assert len(layouts.read("chexpert", base, images=False)) == len(manifest) + 1
    assert {r.mend for r in manifest.drops} == {"remove the second row", "fetch the archive that holds it again"}


def test_archives_side_by_side_and_other_labels(tmp_path):
    whole = write(tmp_path / "whole")
    tables = tmp_path / "full" / "CheXpert-v1.0 batch 1 (validate & csv)"
    shutil.copytree(whole / "valid", tables / "valid")
    for name in ("train.csv", "valid.csv"):
        shutil.copy(whole / name, tables / name)
    for batch, patient in (("2 (train 1)", "patient00001"), ("3 (train 2)", "patient00002")):
        shutil.copytree(whole / "train" / patient, tmp_path / "full" / f"CheXpert-v1.0 batch {batch}" / patient)
    relabelled = pd.DataFrame([entry | {"Edema": "-1.0"} for entry in TRAIN])
    relabelled.to_csv(tmp_path / "full" / "train_cheXbert.csv", index=False)
    manifest = layouts.read("chexpert", tmp_path / "full")
    assert len(manifest) == 4
    assert all(Path(image).is_file() for image in manifest.frame["image"])
    assert not manifest.drops
    assert manifest.frame["Edema"].tolist() == [1, 1, 1, 1]
    other = layouts.read("chexpert", tmp_path / "full", labels="chexbert")
    assert other.frame["Edema"].tolist() == [-1, -1, -1, 1]
    with pytest.raises(FileNotFoundError, match=r"has no train_visualCheXbert.csv; expected"):
        layouts.read("chexpert", tmp_path / "full", labels="visualchexbert")
    with pytest.raises(ValueError, match="option labels is 'negbio'; expected one of 'chexpert'"):
        layouts.read("chexpert", tmp_path / "full", labels="negbio")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            row("x/train/patient1.jpg"),
            r"train.csv: row 5: path 'x/train/patient1.jpg' does not end in .*; mend the row",
        ),
        (
            row("train/patient00009/study1/view1_frontal.jpg", sex="male"),
            r"train.csv: row 5: Sex = 'male' is not known",
        ),
        (row("train/patient00009/study1/view1_frontal.jpg", view="XX"), r"train.csv: row 5: AP/PA = 'XX' is not known"),
        (row("train/patient00009/study1/view1_frontal.jpg", side="Up"), r"row 5: Frontal/Lateral = 'Up' is not known"),
        (row("train/patient00009/study1/view1_frontal.jpg", Edema="2"), r"train.csv: row 5: Edema = '2' is not known"),
        (
            row("train/patient64541/study1/view1_frontal.jpg"),
            r"train.csv, valid.csv: patient patient64541 is in several splits \['train', 'valid'\].*remove the rows",
        ),
    ],
)
def test_the_wrong_row_is_named(tmp_path, entry, message):
    base = write(tmp_path)
    pd.DataFrame([*TRAIN, entry]).to_csv(base / "train.csv", index=False)
    with pytest.raises(ValueError, match=message):
        layouts.read("chexpert", base)


def test_missing_files_and_columns(tmp_path):
    base = write(tmp_path / "CheXpert-v1.0")
    shutil.copytree(base, tmp_path / "CheXpert-v1.0-small")
    with pytest.raises(ValueError, match=r"holds \['CheXpert-v1.0', 'CheXpert-v1.0-small'\]; name one of them"):
        layouts.read("chexpert", tmp_path)
    shutil.rmtree(base / "train")
    shutil.rmtree(base / "valid")
    with pytest.raises(FileNotFoundError, match=r"none of the 4 pictures of train.csv, valid.csv is under .*CheXpert"):
        layouts.read("chexpert", base)
    pd.DataFrame(TRAIN).drop(columns="Edema").to_csv(base / "train.csv", index=False)
    with pytest.raises(ValueError, match=r"train.csv: column 'Edema' is missing; it has .*as it is published"):
        layouts.read("chexpert", base)
    (base / "train.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"layout chexpert: .*CheXpert-v1.0 has no train.csv; expected"):
        layouts.read("chexpert", base)
    (base / "train.csv.gz").write_bytes(b"no archive")
    with pytest.raises(ValueError, match=r"train.csv.gz: cannot be read as a table"):
        layouts.read("chexpert", base)


def test_recognise(tmp_path):
    base = write(tmp_path / "set" / "CheXpert-v1.0-small")
    assert chexpert.recognise(base)
    assert chexpert.recognise(base.parent)
    assert not chexpert.recognise(base / "train")
    assert not chexpert.recognise(base / "train.csv")
    (base / "train.csv.gz").write_bytes(gzip.compress((base / "train.csv").read_bytes()))
    assert chexpert.recognise(base)
    (base.parent / "df_chexpert_plus_240401.csv").write_text("path_to_image\n")
    assert not chexpert.recognise(base.parent)
    # VinDr-CXR has a train.csv too.
    (tmp_path / "vindr").mkdir()
    (tmp_path / "vindr" / "train.csv").write_text("image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max\n")
    assert not chexpert.recognise(tmp_path / "vindr")


def test_remote_root(tmp_path):
    upath = pytest.importorskip("upath")
    base = write(tmp_path / "CheXpert-v1.0")
    remote = layouts.read("chexpert", f"file://{tmp_path}")
    assert chexpert.recognise(upath.UPath(f"file://{tmp_path}"))
    assert remote.frame["image_id"].tolist() == layouts.read("chexpert", base).frame["image_id"].tolist()
    assert remote.frame["image"].iloc[0].endswith("CheXpert-v1.0/train/patient00001/study1/view1_frontal.jpg")
