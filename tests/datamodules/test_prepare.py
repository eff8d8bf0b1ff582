"""Resizing once: shards, several sizes, unreadable pictures, processes side by side, kills at any moment."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from datamodules import prepare as prepare_module
from datamodules import shard_writer
from datamodules.images import read_image
from datamodules.manifest import Manifest
from datamodules.prepare import prepare
from datamodules.prepared import positions
from datamodules.shards import ShardStore, file_digest
from tests.datamodules.pictures import digests, manifest_of, write_pictures


def test_each_size_is_what_reading_at_that_size_gives(tmp_path):
    rng = np.random.default_rng(0)
    paths = []
    for n, shape in enumerate([(300, 200), (64, 64), (90, 128)]):
        paths.append(tmp_path / f"{n}.jpg")
        Image.fromarray(rng.integers(0, 255, shape, dtype=np.uint8)).save(paths[-1])
    manifest = manifest_of(paths)
    prepare(manifest, sizes=[16, 32], out=tmp_path / "both")
    for size in (16, 32):
        expected = np.stack([read_image(str(path), size=size) for path in paths])
        np.testing.assert_array_equal(ShardStore.open(tmp_path / "both", size=size).gather(np.arange(3)), expected)
        # A size does not depend on which others are made with it, and may be added later.
        prepare(manifest, sizes=[size], out=tmp_path / "one")
        assert digests(tmp_path / "one" / str(size)) == digests(tmp_path / "both" / str(size))
    assert Manifest.load(tmp_path / "one" / "manifest.parquet").digest() == manifest.digest()
    index = json.loads((tmp_path / "one" / "16" / "index.json").read_text())
    assert (index["rows"], index["unreadable"], len(index["shards"])) == (3, [], 1)
    assert index["shards"][0]["sha256"] == file_digest(tmp_path / "one" / "16" / "shard-00000.npy")


def test_what_is_done_is_kept_and_what_is_damaged_is_made_again(tmp_path):
    paths, out = write_pictures(tmp_path / "in", 10), tmp_path / "out"
    manifest = manifest_of(paths)
    prepare(manifest, sizes=[8], out=out, rows_per_shard=4)
    before = digests(out)
    times = {p.name: p.stat().st_mtime_ns for p in (out / "8").glob("*.npy")}
    (out / "8" / "shard-00001.npy").write_bytes(b"cut off")
    (out / "8" / "shard-00002.json").unlink()
    (out / "8" / ".new").mkdir()
    (out / "8" / ".new" / ".shard-00000.npy.123.tmp").write_bytes(b"left over")
    (out / "8" / "index.json").unlink()
    prepare(manifest, sizes=[8], out=out, rows_per_shard=4)
    assert digests(out) == before
    changed = {p.name for p in (out / "8").glob("*.npy") if p.stat().st_mtime_ns != times[p.name]}
    assert changed == {"shard-00001.npy", "shard-00002.npy"}
    prepare(manifest, sizes=[8], out=out)
    assert digests(out) == before
    with pytest.raises(ValueError, match=r"out holds shards of 4 rows, and 5 are asked for"):
        prepare(manifest, sizes=[8], out=out, rows_per_shard=5)
    with pytest.raises(ValueError, match=r"out holds shards of other data: 10 rows, digest .*now there are 9 rows"):
        prepare(manifest_of(paths[1:]), sizes=[8], out=out, rows_per_shard=4)


def test_unreadable_pictures_stop_or_are_dropped_with_their_names(tmp_path):
    paths = write_pictures(tmp_path / "in", 6)
    paths[1].write_text("no picture")
    paths[4].unlink()
    manifest, out = manifest_of(paths), tmp_path / "out"
    with pytest.raises(
        ValueError, match=r"2 of 6 images cannot be read:\n  image i1: .*1.png.*\n  image i4: .*4.png: there is no such"
    ):
        prepare(manifest, sizes=[8], out=out, rows_per_shard=2)
    assert not (out / "8" / "index.json").exists()
    kept = prepare(manifest, sizes=[8], out=out, rows_per_shard=2, unreadable="drop")
    assert kept.frame["image_id"].tolist() == ["i0", "i2", "i3", "i5"]
    saved = Manifest.load(out / "manifest.parquet")
    assert saved.digest() == kept.digest()
    assert [(d.reason, d.ids, d.level) for d in saved.drops] == [("the picture cannot be read", ("i1", "i4"), "error")]
    store = ShardStore.open(out, size=8)
    beside = out / "manifest.parquet"
    rows = positions(store, manifest=beside, image_ids=["i0", "i2", "i3", "i5"])
    assert rows.tolist() == [0, 2, 3, 5]
    assert store.gather(rows)[:, 0, 0].tolist() == [0, 20, 30, 50]
    # The blank in its place can never be served.
    with pytest.raises(IndexError, match="row 4 has no picture"):
        store.gather(np.array([0, 4]))
    # Mended, they come back.
    write_pictures(tmp_path / "in", 6)
    assert len(prepare(manifest, sizes=[8], out=out, rows_per_shard=2)) == 6
    assert ShardStore.open(out, size=8).gather(np.arange(6))[:, 0, 0].tolist() == [0, 10, 20, 30, 40, 50]


def test_a_hole_in_a_jpeg_stops_or_is_dropped_into_the_ledger(tmp_path):
    rng, paths = np.random.default_rng(0), [tmp_path / f"{n}.jpg" for n in range(3)]
    for path in paths:
        Image.fromarray(rng.normal(120, 20, (300, 300)).astype(np.uint8)).save(path)
    data = paths[1].read_bytes()
    paths[1].write_bytes(data[:20_000] + bytes(1024) + data[21_024:])
    manifest, out = manifest_of(paths), tmp_path / "out"
    with pytest.raises(ValueError, match=r"1 of 3 images cannot be read:\n  image i1: .*1.jpg: .*damaged data"):
        prepare(manifest, sizes=[16, 32], out=out)
    kept = prepare(manifest, sizes=[16, 32], out=out, unreadable="drop")
    assert kept.frame["image_id"].tolist() == ["i0", "i2"]
    saved = Manifest.load(out / "manifest.parquet")
    assert [(d.reason, d.ids, d.level) for d in saved.drops] == [("the picture cannot be read", ("i1",), "error")]


def test_what_one_size_lacks_no_size_serves(tmp_path):
    """A picture that broke between the first size and the second; and one that was mended between them."""
    paths, out = write_pictures(tmp_path / "in", 6), tmp_path / "out"
    manifest = manifest_of(paths)
    prepare(manifest, sizes=[8], out=out, rows_per_shard=2)
    paths[3].write_text("broken")
    with pytest.raises(ValueError, match=r"1 of 6 images cannot be read:\n  image i3: "):
        prepare(manifest, sizes=[8, 16], out=out, rows_per_shard=2)
    kept = prepare(manifest, sizes=[16], out=out, rows_per_shard=2, unreadable="drop")
    assert kept.frame["image_id"].tolist() == ["i0", "i1", "i2", "i4", "i5"]
    for size in (8, 16):
        store = ShardStore.open(out, size=size)
        rows = positions(store, manifest=out / "manifest.parquet", image_ids=["i0", "i1", "i2", "i4", "i5"])
        assert store.gather(rows)[:, 0, 0].tolist() == [0, 10, 20, 40, 50]
    # As many rows, but others: a run that was stopped between the index and the manifest.
    with pytest.raises(ValueError, match=r"16: the manifest's 5 rows are not the 5 of these shards; write the shards"):
        positions(store, manifest=out / "manifest.parquet", image_ids=["i0", "i1", "i2", "i3", "i5"])
    write_pictures(tmp_path / "in", 6)
    prepare(manifest, sizes=[32], out=out, rows_per_shard=2)
    for size in (8, 16, 32):
        assert positions(
            ShardStore.open(out, size=size), manifest=out / "manifest.parquet", image_ids=[f"i{n}" for n in range(6)]
        ).tolist() == list(range(6))


def test_an_empty_record_is_made_again(tmp_path):
    manifest, out = manifest_of(write_pictures(tmp_path / "in", 4)), tmp_path / "out"
    prepare(manifest, sizes=[8], out=out, rows_per_shard=2)
    before = digests(out)
    (out / "8" / "shard-00001.json").write_text("")
    (out / "old").mkdir()
    prepare(manifest, sizes=[8], out=out, rows_per_shard=2)
    assert digests(out) == before


def test_folders_that_are_not_for_shards(tmp_path):
    paths = write_pictures(tmp_path / "in", 4)
    manifest = manifest_of(paths)
    with pytest.raises(ValueError, match=r"in is not empty, it holds 0.png; name a new folder for the shards"):
        prepare(manifest, sizes=[8], out=tmp_path / "in")
    out = tmp_path / "out"
    prepare(manifest, sizes=[8], out=out)
    plan = json.loads((out / "plan.json").read_text())
    (out / "plan.json").write_text(json.dumps(plan | {"schema": 2}))
    with pytest.raises(ValueError, match=r"out holds shards of schema 2, expected 3; name another folder"):
        prepare(manifest, sizes=[8], out=out)
    (out / "plan.json").write_text("")
    with pytest.raises(ValueError, match=r"plan.json: is no JSON .*; remove this file and run prepare again"):
        prepare(manifest, sizes=[8], out=out)


def test_rows_without_a_picture_and_wrong_sizes_are_refused(tmp_path):
    manifest = manifest_of([""])
    with pytest.raises(ValueError, match=r"image i0 has no file \(1 rows\)"):
        prepare(manifest, sizes=[8], out=tmp_path / "out")
    with pytest.raises(ValueError, match=r"sizes are \[4\]; expected at least one, of at least 8"):
        prepare(manifest, sizes=[4], out=tmp_path / "out")


def test_shards_of_small_sets_are_small_and_the_same_on_any_number_of_cores(tmp_path, monkeypatch):
    paths = write_pictures(tmp_path / "in", 150, side=8)
    manifest = manifest_of(paths)
    prepare(manifest, sizes=[8], out=tmp_path / "alone")
    assert len(list((tmp_path / "alone" / "8").glob("*.npy"))) == 3
    monkeypatch.setattr(shard_writer, "IN_PROCESS", 0)
    prepare(manifest, sizes=[8], out=tmp_path / "together", workers=2)
    assert digests(tmp_path / "alone") == digests(tmp_path / "together")


def test_processes_that_start_at_once_make_a_store_once(tmp_path, monkeypatch, capsys):
    manifest, made = manifest_of(write_pictures(tmp_path / "in", 3)), []
    fill = prepare_module.fill_shards

    def slow(jobs, **options):
        made.append(len(jobs))
        time.sleep(0.3)
        fill(jobs, **options)

    monkeypatch.setattr(prepare_module, "fill_shards", slow)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(prepare, manifest, sizes=[8], out=tmp_path / "out")
        time.sleep(0.1)
        second = pool.submit(prepare, manifest, sizes=[8], out=tmp_path / "out")
        assert first.result().digest() == second.result().digest()
    assert made == [1, 0]
    assert "waiting for another process" in capsys.readouterr().err


def test_a_script_without_main_guard_is_told_of_it_instead_of_waiting_for_itself(tmp_path):
    write_pictures(tmp_path / "in", shard_writer.IN_PROCESS + 1)
    script = tmp_path / "script.py"
    script.write_text(
        "from pathlib import Path\n"
        "from datamodules.prepare import prepare\n"
        "from tests.datamodules.pictures import manifest_of\n"
        f"paths = sorted(Path({str(tmp_path / 'in')!r}).iterdir())\n"
        f"prepare(manifest_of(paths), sizes=[8], out=Path({str(tmp_path / 'out')!r}), workers=2)\n"
    )
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60, env=environment)
    assert done.returncode
    assert 'put what the script does under `if __name__ == "__main__":`' in done.stderr


@pytest.mark.slow
def test_ctrl_c_ends_at_once_and_the_same_command_goes_on(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    rng, rows = np.random.default_rng(0), []
    for n in range(300):
        name = f"{n}.jpg"
        if n < 20:
            Image.fromarray(rng.integers(0, 255, (1200, 1200), dtype=np.uint8)).save(folder / name)
        else:
            (folder / name).symlink_to(folder / f"{n % 20}.jpg")
        rows.append({"image": name, "report": "clear", "patient": f"p{n}"})
    pd.DataFrame(rows).to_csv(folder / "t.csv", index=False)
    command = [sys.executable, "-m", "datamodules", "prepare", "--layout", "table", "--root", str(folder)]
    command += ["--size", "64", "--out", str(tmp_path / "out")]
    # What a shell starts in the background has SIGINT ignored, and so would its children.
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    )
    while not list((tmp_path / "out").glob("64/.new/.shard-*.tmp")):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    _, error = process.communicate(timeout=60)
    assert time.monotonic() - began < 10
    assert process.returncode == 130
    assert "stopped; what is finished is kept, the same command goes on with the rest" in error
    assert not list((tmp_path / "out" / "64").rglob(".*.tmp"))
    assert "300 images" in subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.mark.slow
def test_kills_at_ten_random_moments_change_nothing(tmp_path):
    """SIGKILL to the parent alone: its workers must end by themselves, and the next run must go on."""
    rng, folder = np.random.default_rng(0), tmp_path / "in"
    folder.mkdir()
    rows = []
    for n in range(400):
        noise = rng.integers(0, 255, (40, 40), dtype=np.uint8)
        Image.fromarray(noise).resize((700, 700)).save(folder / f"{n}.jpg")
        rows.append({"image": f"{n}.jpg", "report": "clear", "patient": f"p{n}"})
    pd.DataFrame(rows).to_csv(folder / "t.csv", index=False)

    def command(out):
        options = ["--layout", "table", "--root", str(folder), "--size", "64", "128", "--out", str(out)]
        return [sys.executable, "-m", "datamodules", "prepare", *options]

    began = time.monotonic()
    subprocess.run(command(tmp_path / "whole"), check=True, capture_output=True)
    whole = time.monotonic() - began
    moments = random.Random(0)
    kills = 0
    while kills < 10:
        process = subprocess.Popen(command(tmp_path / "killed"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(timeout=moments.uniform(0.1, 0.9) * whole)
            # It had finished already: what is done is taken away, so that there is something to kill.
            for shard in sorted((tmp_path / "killed").rglob("shard-*.json"))[::2]:
                shard.unlink()
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
    last = subprocess.run(command(tmp_path / "killed"), check=True, capture_output=True, text=True)
    assert "400 images" in last.stdout
    time.sleep(1.5)
    assert digests(tmp_path / "killed") == digests(tmp_path / "whole")
    manifest = Manifest.load(tmp_path / "killed" / "manifest.parquet")
    assert len(manifest) == manifest.frame["study_id"].nunique() == 400
