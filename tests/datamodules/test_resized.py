"""Images in the cache follow what is on disk: replaced pictures, moved data sets, and the codes that are of them."""

import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from datamodules.cxr import CXRDataModule
from datamodules.prepare import prepare


@pytest.fixture
def folder(tmp_path):
    """12 images, each of one grey level that is 10 × its number; rows 0-7 train, 8-9 validate, 10-11 test."""
    folder = tmp_path / "data"
    folder.mkdir()
    rows = []
    for n in range(12):
        Image.new("L", (8, 8), 10 * n).save(folder / f"r{n}.png")
        split = "train" if n < 8 else "validate" if n < 10 else "test"
        rows.append((f"r{n}.png", f"report {n}", f"p{n}", split, "PA"))
    pd.DataFrame(rows, columns=["image", "report", "patient", "split", "view"]).to_csv(folder / "t.csv", index=False)
    return folder


@pytest.fixture
def make(folder, tmp_path):
    def build(**options):
        defaults = {"layout": "table", "root": str(folder), "size": 8, "cache_dir": str(tmp_path / "cache")}
        data = CXRDataModule(**(defaults | options))
        data.prepare_data()
        return data

    return build


def levels(data):
    (batch,) = data.test_dataloader()
    return ((batch["image"][:, 0, 0, 0] + 1) * 127.5).round().int().tolist()


def write_codes(data, path):
    ids = data.manifest.frame["image_id"].tolist()
    codes = np.arange(len(ids))[:, None, None]
    data.write_tokens(path, image_ids=ids, codes=codes, checkpoint_digest="book", codes_total=12)


def test_a_picture_that_was_replaced_is_served_anew_and_its_codes_are_refused(make, folder, tmp_path):
    tokens = tmp_path / "t.safetensors"
    data = make()
    assert levels(data) == [100, 110]
    write_codes(data, tokens)
    make(tokens=str(tokens)).setup("fit")
    Image.new("L", (9, 9), 77).save(folder / "r11.png")
    assert levels(make()) == [100, 77]
    message = r"picture of image r11 is not the one that these codes are of \(1 of 12 have changed\); make it again"
    with pytest.raises(ValueError, match=message):
        make(tokens=str(tokens)).setup("fit")
    # Also where no image is served, but the resized ones are at hand.
    with pytest.raises(ValueError, match=message):
        make(tokens=str(tokens), images=False).setup("fit")


def test_codes_are_known_by_their_pixels_wherever_these_are(make, folder, tmp_path):
    tokens, out = tmp_path / "t.safetensors", tmp_path / "out"
    data = make()
    write_codes(data, tokens)
    prepare(data.manifest, sizes=[8], out=out, rows_per_shard=5)
    make(shards=str(out), tokens=str(tokens)).setup("fit")
    Image.new("L", (9, 9), 77).save(folder / "r3.png")
    prepare(data.manifest, sizes=[8], out=out, rows_per_shard=5)
    with pytest.raises(ValueError, match="picture of image r3 is not the one"):
        make(shards=str(out), tokens=str(tokens), images=False).setup("fit")
    # Where no pixels are at hand, files are compared.
    for options in ({"store": "files"}, {"images": False, "cache_dir": str(tmp_path / "other")}):
        with pytest.raises(
            ValueError, match="size or time of the file of image r3 is not the one that these codes are of"
        ):
            make(tokens=str(tokens), **options).setup("fit")


def test_codes_of_other_splits_are_refused(make, folder, tmp_path):
    """A codebook has seen its training pictures: one of them must not become a test picture."""
    tokens = tmp_path / "t.safetensors"
    write_codes(make(), tokens)
    table = pd.read_csv(folder / "t.csv")
    table.loc[0, "split"] = "test"
    table.to_csv(folder / "t.csv", index=False)
    with pytest.raises(ValueError, match=r"was made from data .*make it again"):
        make(tokens=str(tokens)).setup("fit")


def test_limit_is_of_training_alone(make):
    data = make(limit=3, predict_splits=["train"])
    (batch,) = data.predict_dataloader()
    assert len(batch["image_id"]) == 8
    (batch,) = data.train_dataloader()
    assert len(batch["image_id"]) == 3


@pytest.mark.parametrize("store", ["shards", "files"])
def test_a_data_set_that_was_moved_is_the_same_and_its_own_pictures_are_read(make, folder, tmp_path, store):
    tokens = tmp_path / "t.safetensors"
    data = make()
    write_codes(data, tokens)
    moved = tmp_path / "moved"
    shutil.copytree(folder, moved)  # keeps the times
    folder.rename(tmp_path / "gone")
    there = make(root=str(moved), tokens=str(tokens), store=store)
    there.setup("fit")
    assert there.manifest.digest() == data.manifest.digest()
    assert there.tokens_key == data.tokens_key
    assert levels(there) == [100, 110]
    Image.new("L", (9, 9), 77).save(moved / "r10.png")
    assert levels(make(root=str(moved), store=store)) == [77, 110]


def test_a_relative_root_is_the_same_data(make, folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    assert make(root="data").manifest.digest() == make().manifest.digest()
