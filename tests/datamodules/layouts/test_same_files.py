"""One file under several spellings: keys of paths; what tables and joined sets say of them."""

from pathlib import Path

import pandas as pd
import pytest

from datamodules import layouts
from datamodules.layouts import same_files
from datamodules.layouts.same_files import file_keys
from datamodules.phantom import disk


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "images" / "deep").mkdir(parents=True)
    for name in ("1.png", "2.png", "deep/3.png"):
        (tmp_path / "images" / name).write_bytes(name.encode())
    (tmp_path / "link").symlink_to(tmp_path / "images")
    (tmp_path / "images" / "one.png").symlink_to("1.png")
    return tmp_path


@pytest.mark.parametrize("many", [20_000, 1])
def test_spellings_of_one_file(folder, monkeypatch, many):
    monkeypatch.setattr(same_files, "MANY", many)
    monkeypatch.chdir(folder)
    spelled = ["images/1.png", "./images/1.png", "images//1.png", "images/deep/../1.png", f"{folder}/images/1.png"]
    assert file_keys(pd.Series([*spelled, "images/2.png"])).nunique() == 2
    linked = file_keys(pd.Series([*spelled, "link/1.png", "images/one.png"]))
    assert linked.nunique() == (1 if many > 1 else 3)


def test_what_is_no_local_path(folder):
    names = pd.Series(["s3://b/x/1.png", "s3://b/x/./1.png", "s3://c/x/1.png", "phantom:0:1", "phantom:0:2", ""])
    assert file_keys(names).tolist() == ["s3://b/x/1.png", "s3://b/x/1.png", "s3://c/x/1.png", *names[3:]]


@pytest.mark.parametrize("images", [True, False])
def test_a_table_that_names_a_picture_twice(folder, images):
    columns = {
        "report": list("abcd"),
        "view": "PA",
        "patient": list("pqrs"),
        "split": ["train", "test", "train", "train"],
    }
    names = ["images/1.png", "./images/1.png", "images/2.png", "link/2.png"]
    pd.DataFrame({"image": names} | columns).to_csv(folder / "t.csv", index=False)
    notes = layouts.read("table", folder, images=images).notes
    assert {n.reason: (n.level, len(n.ids)) for n in notes if "same picture" in n.reason} == {
        "several rows name the same picture, in several splits: a leak": ("error", 2),
        "several rows name the same picture": ("warning", 2),
    }


def test_joined_sets_that_share_files(tmp_path):
    disk.write("nih", tmp_path / "nih", studies=12, size=16)
    (tmp_path / "alias").symlink_to(tmp_path / "nih")
    own = layouts.read("nih", tmp_path / "nih").frame
    table = own.assign(image="./nih/../" + own["image"].str.removeprefix(f"{tmp_path}/"), split="train", report="x")
    table[["image", "patient_id", "split", "report"]].to_csv(tmp_path / "t.csv", index=False)
    nih = {"layout": "nih", "root": "nih"}
    others = [
        {"layout": "table", "root": "t.csv", "patient_column": "patient_id"},
        {"layout": "joined", "name": "nested", "sets": [nih | {"root": str(tmp_path / "alias")}]},
    ]
    for other in others:
        notes = layouts.read("joined", tmp_path, sets=[nih, other]).notes
        shared = {n.reason: n.count for n in notes if n.reason.startswith("a picture is in several sets")}
        moved = int((own["split"] != "train").sum()) if other["layout"] == "table" else 0
        whole = {"a picture is in several sets": 2 * (len(own) - moved)}
        leak = {"a picture is in several sets and in several splits": 2 * moved} if moved else {}
        assert shared == whole | leak
