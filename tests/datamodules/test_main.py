"""The command line of the package: prepare, vocabulary, phantom; the doctor has its own tests."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from datamodules import prepare as prepare_module
from datamodules import shard_writer
from datamodules.__main__ import main
from datamodules.cxr import CXRDataModule
from datamodules.shards import ShardStore
from tests.datamodules.pictures import write_table


@pytest.fixture
def root(tmp_path):
    """24 images, each of one grey level that is 10 × its number; every fourth is a lateral."""
    views = ["LATERAL" if n % 4 == 0 else "PA" for n in range(24)]
    return write_table(tmp_path / "data", {"view": views}, side=16)


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
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "x.txt").write_text("nothing")
    assert main(["prepare", "--root", str(tmp_path / "some"), "--out", str(tmp_path / "o")]) == 1
    assert "is no known layout; name it with --layout, one of ['chexpert'" in capsys.readouterr().err


def test_shards_are_verified(root, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["prepare", "--root", str(root), "--size", "8", "16", "--out", str(out)]) == 0
    capsys.readouterr()
    assert main(["verify", str(out)]) == 0
    assert capsys.readouterr().out == f"verify: {out}: 1 shards of 24 images at 8 and 16 px, all as written\n"
    shard = out / "16" / "shard-00000.npy"
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(bytes(data))
    (out / "8" / "shard-00000.npy").unlink()
    for place in (str(out), f"file://{out}"):
        assert main(["verify", place]) == 1
        said = capsys.readouterr().out
        assert f"error: {place}/8/shard-00000.npy is missing\n" in said
        assert f"error: {place}/16/shard-00000.npy: its sha256 is " in said
        assert "2 errors; remove each shard that is named, with the .json beside it, and run prepare again" in said
    for name in ("8/shard-00000.json", "16/shard-00000.npy", "16/shard-00000.json"):
        (out / name).unlink()
    assert main(["prepare", "--root", str(root), "--size", "8", "--out", str(out)]) == 0
    assert main(["verify", str(out)]) == 0
    assert main(["verify", str(tmp_path)]) == 1
    assert "holds no finished shards; name the folder that was given to prepare" in capsys.readouterr().err
    assert main(["verify", str(tmp_path / "none")]) == 1
    assert "none" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("data", "is inside the data set"),
        ("data/shards", "is inside the data set"),
        ("out/8", "holds one size of the shards in"),
        ("data/studies.csv", "is a file; name a new folder"),
        ("other", "is not empty, it holds x.txt; name a new folder"),
    ],
)
def test_places_where_prepare_does_not_write(root, tmp_path, capsys, out, message):
    assert main(["prepare", "--root", str(root), "--size", "8", "--out", str(tmp_path / "out")]) == 0
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x.txt").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    assert main(["prepare", "--root", str(root), "--size", "8", "--out", str(tmp_path / out)]) == 1
    assert message in capsys.readouterr().err
    assert [p for p in sorted(tmp_path.rglob("*")) if p.name != ".lock"] == [p for p in before if p.name != ".lock"]


def killed(job):
    """Run by a worker in place of its work."""
    os.kill(os.getpid(), signal.SIGKILL)


def test_what_the_machine_does_is_said_without_a_traceback(root, tmp_path, capsys, monkeypatch):
    command = ["prepare", "--root", str(root), "--size", "8", "--out"]

    def full(*args, **options):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(shard_writer, "read_sizes", full)
        assert main([*command, str(tmp_path / "out")]) == 1
    assert "No space left on device; see to the disk or the permissions; what is finished is kept" in (
        capsys.readouterr().err
    )
    # A worker that the system kills.
    with monkeypatch.context() as patch:
        patch.setattr(shard_writer, "IN_PROCESS", 0)
        patch.setattr(prepare_module, "FEWEST_ROWS", 8)
        patch.setattr(shard_writer, "_fill_counted", killed)
        assert main([*command, str(tmp_path / "other"), "--workers", "2"]) == 1
    assert "a worker process was killed, most often because memory ran out; take fewer" in capsys.readouterr().err
    for name in ("out", "other"):
        assert main([*command, str(tmp_path / name)]) == 0


def test_a_reader_that_has_seen_enough_is_no_error(root):
    command = f"set -o pipefail; {sys.executable} -m datamodules doctor {root} | true"
    ran = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert "Traceback" not in ran.stderr
    assert "error:" not in ran.stderr


def test_phantoms_are_meant_by_their_number_whatever_the_environment_holds(root, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("CXR_ROOT", str(root))
    assert main(["prepare", "--studies", "6", "--size", "16", "--out", str(tmp_path / "o")]) == 0
    assert "prepare: 6 images at 16 px" in capsys.readouterr().out


def test_the_next_command_takes_the_views_that_there_are(root, tmp_path, capsys):
    table = pd.read_csv(root / "studies.csv").drop(columns="view")
    table.to_csv(root / "studies.csv", index=False)
    assert main(["prepare", "--root", str(root), "--size", "8", "--out", str(tmp_path / "o")]) == 0
    assert "--data.init_args.size=8 --data.init_args.views=null --run_dir" in capsys.readouterr().out


def test_messages_speak_of_the_command_line(root, tmp_path, capsys):
    (root / "studies.csv").write_text("picture,text\nr0.png,clear\n")
    assert main(["prepare", "--layout", "table", "--root", str(root), "--out", str(tmp_path / "o")]) == 1
    said = capsys.readouterr().err
    assert "--option image_column=" in said
    assert "layout_options" not in said
    command = ["prepare", "--studies", "4", "--seed", "3", "--option", "seed=4", "--out", str(tmp_path / "o")]
    assert main(command) == 1
    assert "--seed and --option seed=... are both given" in capsys.readouterr().err
    assert main(["prepare", "--root", str(tmp_path / "none"), "--out", str(tmp_path / "o")]) == 1
    assert "none does not exist; name the folder, file or URL" in capsys.readouterr().err


def test_vocabulary(tmp_path, capsys):
    out = tmp_path / "vocabulary.json"
    assert main(["vocabulary", "--layout", "phantom", "--studies", "80", "--seed", "0", "--out", str(out)]) == 0
    train = CXRDataModule(layout_options={"studies": 80, "seed": 0}, cache_dir=str(tmp_path)).train_reports()
    assert f"from {len(train)} training reports of phantom" in capsys.readouterr().out
    assert json.loads(out.read_text())["reports"] == len(train) < 80
