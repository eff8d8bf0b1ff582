"""The tables of NIH and CheXpert as published, without pictures, against plain pandas; the sample with pictures."""

import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from datamodules import layouts
from datamodules.layouts import chexpert, nih
from datamodules.reports.labels import FINDINGS


def test_chexpert(tmp_path):
    package = Path(pytest.importorskip("torchxrayvision").__file__).parent
    file = next(package.rglob("chexpert_train.csv.gz"))
    (tmp_path / "train.csv.gz").symlink_to(file)
    start = time.perf_counter()
    manifest = layouts.read("chexpert", tmp_path, images=False, splits="hashed")
    assert time.perf_counter() - start < 60
    assert chexpert.recognise(tmp_path)
    plain, frame = pd.read_csv(file), manifest.frame
    assert len(frame) == len(plain) == 223_414
    assert manifest.drops == ()
    # The valid set's 234 images of 200 patients and studies make up what is published.
    assert {"images": len(frame) + 234, "studies": frame["study_id"].nunique() + 200} | {
        "patients": frame["patient_id"].nunique() + 200
    } == chexpert.PUBLISHED
    for finding in FINDINGS:
        np.testing.assert_array_equal(frame[finding], plain[finding], err_msg=finding)
    assert np.nansum(manifest.labels()) == plain[list(FINDINGS)].sum().sum()
    views = plain["AP/PA"].value_counts()
    assert frame["view"].value_counts().to_dict() == {
        "AP": views["AP"],
        "PA": views["PA"],
        "LATERAL": (plain["Frontal/Lateral"] == "Lateral").sum(),
        "unknown": views["LL"] + views["RL"],
    }
    np.testing.assert_array_equal(frame["age"], plain["Age"].where(plain["Age"] > 0))
    assert frame["sex"].value_counts().to_dict() == {"M": 132_636, "F": 90_777, "": 1}
    assert {r.reason: (r.level, r.count) for r in manifest.notes} == {
        "Frontal/Lateral, AP/PA and the name of the file contradict each other: view unknown": ("warning", 17),
        "sex unknown": ("note", int((plain["Sex"] == "Unknown").sum())),
        "age 0 in a set of adults: cleared": ("note", int((plain["Age"] == 0).sum())),
        "age 90, which stands for 90 and over": ("note", int((plain["Age"] == 90).sum())),
        "split by a hash of the patient, not as published": ("note", 1),
        "no label": ("warning", int(plain[list(FINDINGS)].isna().all(axis=1).sum())),
    }


def test_nih(tmp_path):
    package = Path(pytest.importorskip("torchxrayvision").__file__).parent
    files = {name: next(package.rglob(name)) for name in ("Data_Entry_2017_v2020.csv.gz", "BBox_List_2017.csv.gz")}
    for name, file in files.items():
        (tmp_path / name).symlink_to(file)
    start = time.perf_counter()
    manifest = layouts.read("nih", tmp_path, images=False, splits="hashed")
    assert time.perf_counter() - start < 60
    plain = pd.read_csv(files["Data_Entry_2017_v2020.csv.gz"])
    frame = manifest.frame
    assert len(frame) == len(plain) == nih.PUBLISHED["images"] == 112_120
    assert frame["patient_id"].nunique() == plain["Patient ID"].nunique() == nih.PUBLISHED["patients"]
    assert frame["view"].value_counts().to_dict() == plain["View Position"].value_counts().to_dict()
    assert frame["sex"].value_counts().to_dict() == plain["Patient Gender"].value_counts().to_dict()
    np.testing.assert_array_equal(frame["age"], plain["Patient Age"])
    named = {name: plain["Finding Labels"].str.contains(name, regex=False) for name in nih.LABELS}
    for name, finding in nih.LABELS.items():
        if finding not in (None, "Lung Opacity", "Lung Lesion"):
            np.testing.assert_array_equal(frame[finding] == 1, named[name], err_msg=name)
            assert (frame[finding] == 0).sum() == (~named[name]).sum()
    np.testing.assert_array_equal(frame["Lung Lesion"] == 1, named["Mass"] | named["Nodule"])
    opaque = ("Infiltration", "Consolidation", "Edema", "Pneumonia", "Atelectasis", "Nodule", "Mass")
    np.testing.assert_array_equal(frame["Lung Opacity"] == 1, np.logical_or.reduce([named[name] for name in opaque]))
    boxes = pd.read_csv(files["BBox_List_2017.csv.gz"]).iloc[:, :6]
    assert len(boxes) == nih.PUBLISHED["boxes"] == 984
    found = [(frame["image_id"].iat[i], box) for i in np.flatnonzero(frame["boxes"] != "") for box in manifest.boxes(i)]
    edges = boxes.iloc[:, 2:].to_numpy()
    expected = {
        (image[:-4], *np.round([x / 1024, y / 1024, (x + w) / 1024, (y + h) / 1024], 6))
        for image, (x, y, w, h) in zip(boxes["Image Index"], edges, strict=True)
    }
    assert len(found) == 984
    assert {(image, *np.round([b.x0, b.y0, b.x1, b.y1], 6)) for image, b in found} == expected
    follow = plain["Image Index"].str[9:12].astype(int) != plain["Follow-up #"]
    lost = named["Emphysema"] | named["Fibrosis"] | named["Hernia"]
    assert manifest.drops == ()
    assert {r.reason: (r.level, r.count) for r in manifest.notes} == {
        "Follow-up # is not the number in the picture's name": ("note", int(follow.sum())),
        "Emphysema, Fibrosis or Hernia, which have no CheXpert label": ("note", int(lost.sum())),
        "split by a hash of the patient, not by the published lists": ("note", 2),
    }


@pytest.mark.real
def test_the_nih_sample(real_data):
    manifest = layouts.read("nih", real_data / "nih_sample")
    assert len(manifest) == 1447
    assert manifest.drops == ()
    assert {remark.level for remark in manifest.notes} <= {"note"}
    assert (manifest.frame["split"] == "test").sum() == 168
    moved = layouts.read("nih", real_data / "nih_sample", boxed_patients="test").frame
    assert moved.loc[moved["boxes"] != "", "split"].eq("test").all()
    labels = dict(zip(FINDINGS, np.nansum(manifest.labels(), axis=0), strict=True))
    assert (labels["No Finding"], labels["Pneumonia"], labels["Pleural Effusion"]) == (523, 476, 160)
    assert sum(len(manifest.boxes(i)) for i in range(len(manifest))) == 56
