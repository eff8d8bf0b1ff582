"""Running `prepare` once more: what failed, what was replaced or moved, what is open meanwhile."""

import os

import numpy as np
import pytest
from PIL import Image

from datamodules.manifest import Manifest
from datamodules.prepare import prepare, up_to_date
from datamodules.prepared import positions
from datamodules.shards import ShardStore
from tests.datamodules.pictures import digests, manifest_of, write_pictures


def test_a_failed_rerun_leaves_what_was_finished_as_it_was(tmp_path):
    """The second run finds another broken picture in a shard that was finished, or is asked for another size."""
    paths, out = write_pictures(tmp_path / "in", 6), tmp_path / "out"
    manifest = manifest_of(paths)
    paths[4].write_text("broken")
    prepare(manifest, sizes=[8], out=out, rows_per_shard=6, unreadable="drop")
    before = digests(out)
    paths[2].write_text("broken too")
    for sizes in ([8], [16]):
        with pytest.raises(ValueError, match=r"2 of 6 images cannot be read"):
            prepare(manifest, sizes=sizes, out=out, rows_per_shard=6)
    after = digests(out)
    assert {name: after[name] for name in before} == before
    ids, beside = ["i0", "i1", "i2", "i3", "i5"], out / "manifest.parquet"
    store = ShardStore.open(out, size=8)
    rows = positions(store, manifest=beside, image_ids=ids)
    assert store.gather(rows)[:, 0, 0].tolist() == [0, 10, 20, 30, 50]
    kept = prepare(manifest, sizes=[8], out=out, rows_per_shard=6, unreadable="drop")
    ids = kept.frame["image_id"].tolist()
    assert ids == ["i0", "i1", "i3", "i5"]
    for size in (8, 16):
        store = ShardStore.open(out, size=size)
        rows = positions(store, manifest=beside, image_ids=ids)
        assert store.gather(rows)[:, 0, 0].tolist() == [0, 10, 30, 50]
    assert not list(out.rglob(".new"))


def test_a_manifest_that_was_changed_is_refused(tmp_path):
    manifest, out = manifest_of(write_pictures(tmp_path / "in", 4)), tmp_path / "out"
    prepare(manifest, sizes=[8], out=out)
    changed = Manifest.load(out / "manifest.parquet")
    changed.frame["report"] = "something else"
    changed.save(out / "manifest.parquet")
    store, ids = ShardStore.open(out, size=8), ["i0", "i1", "i2", "i3"]
    with pytest.raises(ValueError, match=r"manifest.parquet: is not the manifest that these shards were finished with"):
        positions(store, manifest=out / "manifest.parquet", image_ids=ids)
    # What the data set says now is taken over, and the shards are kept.
    times = [path.stat().st_mtime_ns for path in sorted(out.rglob("*.npy"))]
    prepare(changed, sizes=[8], out=out)
    assert [path.stat().st_mtime_ns for path in sorted(out.rglob("*.npy"))] == times
    positions(ShardStore.open(out, size=8), manifest=out / "manifest.parquet", image_ids=ids)


def test_one_picture_that_is_not_there_hides_no_replacement(tmp_path):
    paths, out = write_pictures(tmp_path / "in", 4), tmp_path / "out"
    manifest = manifest_of(paths)
    prepare(manifest, sizes=[8], out=out)
    paths[0].unlink()
    assert up_to_date(manifest, size=8, out=out)
    Image.new("L", (20, 20), 200).save(paths[1])
    assert not up_to_date(manifest, size=8, out=out)
    with pytest.raises(ValueError, match=r"1 of 4 images cannot be read:\n  image i0: .*there is no such image"):
        prepare(manifest, sizes=[8], out=out)
    assert ShardStore.open(out, size=8).gather(np.arange(4))[:, 0, 0].tolist() == [0, 10, 20, 30]


def test_a_store_that_was_opened_before_shards_were_made_again_says_so(tmp_path):
    paths, out = write_pictures(tmp_path / "in", 4), tmp_path / "out"
    manifest = manifest_of(paths)
    prepare(manifest, sizes=[8], out=out, rows_per_shard=2)
    store = ShardStore.open(out, size=8)
    assert store.gather(np.array([0]))[0, 0, 0] == 0
    Image.new("L", (20, 20), 200).save(paths[3])
    prepare(manifest, sizes=[8], out=out)
    assert store.gather(np.array([1]))[0, 0, 0] == 10
    with pytest.raises(ValueError, match=r"shard-00001.npy: was made again after this process had opened"):
        store.gather(np.array([3]))


def test_pictures_that_were_replaced_are_read_again(tmp_path, capsys):
    paths, out = write_pictures(tmp_path / "in", 6), tmp_path / "out"
    manifest = manifest_of(paths)
    prepare(manifest, sizes=[8, 16], out=out, rows_per_shard=2)
    assert up_to_date(manifest, size=8, out=out)
    assert not up_to_date(manifest, size=32, out=out)
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*.npy")}
    # Another size; the same size at another time; the same picture written again at another time.
    Image.new("L", (20, 20), 200).save(paths[2])
    assert not up_to_date(manifest, size=8, out=out)
    data = bytearray(paths[4].read_bytes())
    Image.new("L", (12, 12), 210).save(paths[4])
    assert paths[4].stat().st_size == len(data)
    os.utime(paths[4], ns=(1, 1))
    prepare(manifest, sizes=[8], out=out, rows_per_shard=2)
    assert "2 of 3 shards hold pictures that were replaced on disk; these shards are" in capsys.readouterr().err
    for size in (8, 16):
        levels = ShardStore.open(out, size=size).gather(np.arange(6))[:, 0, 0].tolist()
        assert levels == [0, 10, 200, 30, 210, 50]
        changed = [p.name for p in sorted((out / str(size)).glob("*.npy")) if p.stat().st_mtime_ns != before[p]]
        assert changed == ["shard-00001.npy", "shard-00002.npy"]
    assert up_to_date(manifest, size=16, out=out)


def test_a_data_set_that_was_moved_is_gone_on_with(tmp_path):
    manifest, out = manifest_of(write_pictures(tmp_path / "in", 4)), tmp_path / "out"
    prepare(manifest, sizes=[8], out=out, rows_per_shard=2)
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*.npy")}
    (tmp_path / "in").rename(tmp_path / "elsewhere")
    moved = manifest_of(sorted((tmp_path / "elsewhere").iterdir()))
    assert up_to_date(moved, size=8, out=out)
    Image.new("L", (90, 90), 200).save(tmp_path / "elsewhere" / "3.png")
    prepare(moved, sizes=[8, 16], out=out, rows_per_shard=2)
    assert [p.name for p, time in before.items() if p.stat().st_mtime_ns != time] == ["shard-00001.npy"]
    assert ShardStore.open(out, size=16).gather(np.arange(4))[:, 0, 0].tolist() == [0, 10, 20, 200]
    assert Manifest.load(out / "manifest.parquet").frame["image"][0] == str(tmp_path / "elsewhere" / "0.png")
    # A copy that did not keep the times may hold anything.
    os.utime(tmp_path / "elsewhere" / "0.png")
    assert not up_to_date(moved, size=8, out=out)


def test_shards_outlive_their_pictures(tmp_path):
    """Pictures that are gone, as of a disk that is not mounted, are no reason to take away what was made of them."""
    paths, out = write_pictures(tmp_path / "in", 4), tmp_path / "out"
    manifest = manifest_of(paths)
    prepare(manifest, sizes=[8], out=out)
    for path in paths:
        path.unlink()
    assert up_to_date(manifest, size=8, out=out)
    assert len(prepare(manifest, sizes=[8], out=out)) == 4
    assert ShardStore.open(out, size=8).gather(np.arange(4))[:, 0, 0].tolist() == [0, 10, 20, 30]
