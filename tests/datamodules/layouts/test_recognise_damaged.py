"""A key table that is damaged, missing or lacks a column: its layout is still recognised, and reading names it."""

import gzip
import shutil
from pathlib import Path

import pandas as pd
import pytest

from datamodules import layouts
from datamodules.doctor.recognise import recognise
from datamodules.phantom import disk

DAMAGE = {
    "empty": b"",
    "web page": b"<!DOCTYPE html>\n<p>Log in, please",
    "cut gzip": gzip.compress(b"Path," * 99)[:15],
}


@pytest.fixture
def chexpert(tmp_path: Path) -> Path:
    """A CheXpert that a user has renamed."""
    disk.write("chexpert", tmp_path / "set", studies=12, size=16)
    return (tmp_path / "set" / "CheXpert-v1.0-small").rename(tmp_path / "cxr")


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_tables_of_chexpert(chexpert: Path, damage: str) -> None:
    for name in ("train.csv", "valid.csv"):
        (chexpert / name).write_bytes(DAMAGE[damage])
    assert recognise(chexpert) == ["chexpert"]
    with pytest.raises(ValueError, match=r"train.csv: (is empty|cannot be read as a table).*; fetch the file"):
        layouts.read("chexpert", chexpert)
    shutil.rmtree(chexpert / "train")
    shutil.rmtree(chexpert / "valid", ignore_errors=True)
    assert "chexpert" not in recognise(chexpert)
    assert recognise(chexpert.rename(chexpert.with_name("CheXpert-v1.0"))) == ["chexpert"]


def test_tables_of_chexpert_that_are_missing_or_have_lost_a_column(chexpert: Path) -> None:
    train = pd.read_csv(chexpert / "train.csv", dtype=str, keep_default_na=False)
    train.drop(columns=["AP/PA", "Edema"]).to_csv(chexpert / "train.csv", index=False)
    (chexpert / "valid.csv").unlink()
    assert recognise(chexpert) == ["chexpert"]
    with pytest.raises(ValueError, match=r"train.csv: columns 'AP/PA', 'Edema' are missing; it has \['Path'"):
        layouts.read("chexpert", chexpert, splits="hashed")
    (chexpert / "train.csv").rename(chexpert / "valid.csv")
    assert recognise(chexpert) == ["chexpert"]
    with pytest.raises(FileNotFoundError, match=r"has no train.csv; expected"):
        layouts.read("chexpert", chexpert)


def test_a_table_of_ones_own_beside_pictures_of_chexpert(chexpert: Path) -> None:
    own = pd.read_csv(chexpert / "train.csv", dtype=str).rename(columns={"Path": "image", "Sex": "sex"})
    (chexpert / "valid.csv").unlink()
    own[["image", "sex", "Edema"]].to_csv(chexpert / "train.csv", index=False)
    assert recognise(chexpert) == ["table"]


def test_the_table_of_vindr(tmp_path: Path) -> None:
    disk.write("vindr", tmp_path, studies=4, size=32, kaggle=True)
    table = pd.read_csv(tmp_path / "train.csv", dtype=str, keep_default_na=False)
    table.drop(columns="rad_id").to_csv(tmp_path / "train.csv", index=False)
    assert recognise(tmp_path) == ["vindr"]
    with pytest.raises(ValueError, match=r"train.csv: column 'rad_id' is missing; it has \['image_id'"):
        layouts.read("vindr", tmp_path)
    for data in DAMAGE.values():
        (tmp_path / "train.csv").write_bytes(data)
        assert recognise(tmp_path) == ["vindr"]
        with pytest.raises(ValueError, match=r"train.csv: (is empty|cannot be read as a table).*; fetch the file"):
            layouts.read("vindr", tmp_path)


@pytest.mark.parametrize("left", ["train_val_list.txt", "BBox_List_2017.csv"])
def test_nih_without_its_table(tmp_path: Path, left: str) -> None:
    (tmp_path / left).write_text("")
    assert recognise(tmp_path) == ["nih"]
    with pytest.raises(FileNotFoundError, match=r"has no Data_Entry_2017_v2020.csv or .*; fetch the missing file"):
        layouts.read("nih", tmp_path)


def test_kaggles_openi_without_its_reports(tmp_path: Path) -> None:
    disk.write("openi", tmp_path, studies=4, size=16, kaggle=True)
    (tmp_path / "indiana_reports.csv").unlink()
    assert recognise(tmp_path) == ["openi"]
    with pytest.raises(FileNotFoundError, match=r"holds no reports; expected .* or indiana_reports.csv"):
        layouts.read("openi", tmp_path)
