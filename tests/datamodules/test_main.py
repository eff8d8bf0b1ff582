"""The command line of the package: prepare, vocabulary, phantom; the doctor has its own tests."""

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from datamodules.__main__ import main
from datamodules.cxr import CXRDataModule
from datamodules.shards import ShardStore


@pytest.fixture
def root(tmp_path):
    """24 images, each of one grey level that is 10 × its number; every fourth is a lateral."""
    folder = tmp_path / "data"
    folder.mkdir()
    rows = []
    for n in range(24):
        Image.new("L", (16, 16), 10 * n).save(folder / f"r{n}.png")
        rows.append((f"r{n}.png", f"report {n}", f"p{n}", "LATERAL" if n % 4 == 0 else "PA"))
    pd.DataFrame(rows, columns=["image", "report", "patient", "view"]).to_csv(folder / "studies.csv", index=False)
    return folder


def test_phantoms_on_disk_are_the_phantoms_in_memory(tmp_path, capsys):
    assert main(["phantom", "--studies", "12", "--size", "32", "--out", str(tmp_path / "p")]) == 0
    assert "12 studies, 12 images" in capsys.readouterr().out
    written = CXRDataModule(layout="table", root=str(tmp_path / "p")).manifest
    own = CXRDataModule(layout_options={"studies": 12}, cache_dir=str(tmp_path / "c")).manifest
    np.testing.assert_array_equal(written.labels(), own.labels())
    for column in ("split", "view", "patient_id"):
        assert written.frame[column].tolist() == own.frame[column].tolist()
    assert "FINDINGS" in written.frame["report"][0]
    assert main(["phantom", "--studies", "12", "--out", str(tmp_path / "p")]) == 1
    assert "is not empty; name a new folder" in capsys.readouterr().err
    assert main(["phantom", "--studies", "2", "--out", str(tmp_path / "q"), "--option", "colour=red"]) == 1
    assert "the writer of table has no option 'colour'; its options are" in capsys.readouterr().err


def test_prepare_recognises_the_root_and_says_what_to_run_next(root, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["prepare", "--root", str(root), "--size", "8", "16", "--views", "PA", "--out", str(out)]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert f"prepare: 18 images at 8 and 16 px in {out}" in said
    assert "dropped: 6 × view is not one of ['PA'], e.g. r0, r4, r8" in said
    assert f"next: CXR_SHARDS={out} python main.py fit" in said
    assert "-c configs/data/shards.yaml --data.init_args.size=8" in said
    assert ShardStore.open(out, size=16).gather(np.array([0, 17]))[:, 0, 0].tolist() == [10, 230]
    data = CXRDataModule(shards=str(out), size=8, cache_dir=str(tmp_path / "cache"), batch_size=64)
    assert len(data.manifest) == 18
    (root / "r7.png").write_bytes(b"broken")
    assert main([*command[:-1], str(tmp_path / "other")]) == 1
    assert "1 of 18 images cannot be read:\n  image r7: " in capsys.readouterr().err
    assert main([*command[:-1], str(tmp_path / "other"), "--unreadable", "drop"]) == 0
    assert "dropped: 1 × the picture cannot be read, e.g. r7" in capsys.readouterr().out


def test_what_prepare_needs_is_said(tmp_path, capsys, monkeypatch, root):
    monkeypatch.delenv("CXR_ROOT", raising=False)
    assert main(["prepare", "--size", "8", "--out", str(tmp_path / "o")]) == 1
    assert "name a data set with --root <folder or URL>, or how many phantoms with --studies" in capsys.readouterr().err
    assert main(["prepare", "--root", str(root), "--out", "s3://bucket/shards"]) == 1
    assert "is a URL; write to a local folder" in capsys.readouterr().err
    monkeypatch.setenv("CXR_ROOT", str(root))
    assert main(["prepare", "--size", "8", "--out", str(tmp_path / "o")]) == 0
    assert "prepare: 24 images at 8 px" in capsys.readouterr().out


def test_a_root_that_is_nothing_known(tmp_path, capsys):
    (tmp_path / "x.txt").write_text("nothing")
    assert main(["prepare", "--root", str(tmp_path), "--out", str(tmp_path / "o")]) == 1
    assert "is no known layout; name it with --layout, one of ['chexpert'" in capsys.readouterr().err


def test_vocabulary(tmp_path, capsys):
    out = tmp_path / "vocabulary.json"
    assert main(["vocabulary", "--layout", "phantom", "--studies", "80", "--seed", "0", "--out", str(out)]) == 0
    train = CXRDataModule(layout_options={"studies": 80, "seed": 0}, cache_dir=str(tmp_path)).train_reports()
    assert f"from {len(train)} training reports of phantom" in capsys.readouterr().out
    assert json.loads(out.read_text())["reports"] == len(train) < 80
