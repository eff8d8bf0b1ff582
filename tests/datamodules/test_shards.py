"""The store of resized images: gathering, its checks, shards behind a URL."""

import hashlib
import json
import pickle
import re

import numpy as np
import pytest

from datamodules.manifest import make_manifest
from datamodules.prepare import prepare
from datamodules.shards import ShardStore, images_digest
from tests.datamodules.pictures import manifest_of, write_pictures


@pytest.fixture
def out(tmp_path):
    """Ten images of one grey level each, 10 × their number, in shards of four."""
    prepare(manifest_of(write_pictures(tmp_path / "in", 10)), sizes=[8], out=tmp_path / "out", rows_per_shard=4)
    return tmp_path / "out"


def levels(pixels):
    assert pixels.dtype == np.uint8
    assert (pixels == pixels[:, :1, :1]).all()
    return pixels[:, 0, 0].tolist()


@pytest.mark.parametrize("rows", [[9, 0, 5, 5], [1, 3, 2], [], [8, 9]])
def test_gather_keeps_the_order_of_the_rows(out, rows):
    store = ShardStore.open(out, size=8)
    assert len(store) == 10
    pixels = store.gather(np.array(rows, dtype=np.int64))
    assert pixels.shape == (len(rows), 8, 8)
    assert levels(pixels) == [10 * row for row in rows]


def test_rows_that_are_not_there(out):
    store = ShardStore.open(out, size=8)
    with pytest.raises(IndexError, match=r"rows 0..10 are asked for, there are 10"):
        store.gather(np.array([0, 10]))
    with pytest.raises(IndexError, match=r"rows -1..2"):
        store.gather(np.array([2, -1]))


def test_a_store_travels_without_its_pixels(out):
    store = ShardStore.open(out, size=8)
    store.gather(np.arange(10))
    data = pickle.dumps(store)
    assert len(data) < 2000
    assert levels(pickle.loads(data).gather(np.array([7]))) == [70]


def test_wrong_or_missing_shards_are_named(out):
    with pytest.raises(
        FileNotFoundError, match=r"no finished shards of 16 px; python -m datamodules prepare --root <root> --size 16"
    ):
        ShardStore.open(out, size=16)
    np.save(out / "8" / "shard-00001.npy", np.zeros((4, 8, 9), dtype=np.uint8))
    store = ShardStore.open(out, size=8)
    with pytest.raises(ValueError, match=r"shard-00001.npy: expected uint8 \(4, 8, 8\) and found uint8 \(4, 8, 9\)"):
        store.gather(np.array([5]))
    (found,) = store.verify()
    assert re.fullmatch(r".*/8/shard-00001.npy: its sha256 is [0-9a-f]{12}, the index says [0-9a-f]{12}", found)
    (out / "8" / "shard-00002.npy").unlink()
    assert store.verify()[1:] == [f"{out}/8/shard-00002.npy is missing"]
    index = json.loads((out / "8" / "index.json").read_text())
    (out / "8" / "index.json").write_text(json.dumps(index | {"schema": 99}))
    with pytest.raises(ValueError, match="shards of schema 99, expected 3; write the shards again"):
        ShardStore.open(out, size=8)
    (out / "8" / "index.json").write_text("")
    with pytest.raises(ValueError, match=r"8/index.json: is no JSON .*write the shards again"):
        ShardStore.open(out, size=8)


def test_each_image_has_a_digest_of_its_pixels(out):
    digests = ShardStore.open(out, size=8).pixels()
    assert (digests.shape, digests.dtype) == ((10,), np.uint64)
    expected = hashlib.blake2b(bytes([70]) * 64, digest_size=8).digest()
    assert digests[7] == int.from_bytes(expected, "little")
    assert len(set(digests.tolist())) == 10


def test_shards_of_a_url_are_fetched_once_and_checked(out, tmp_path):
    url = f"file://{out}"
    with pytest.raises(ValueError, match="is remote: name a local folder"):
        ShardStore.open(url, size=8)
    store = ShardStore.open(url, size=8, cache=tmp_path / "cache")
    assert levels(store.gather(np.array([9, 1]))) == [90, 10]
    fetched = sorted(p.name[13:] for p in (tmp_path / "cache").rglob("*.npy"))
    assert fetched == ["shard-00000.npy", "shard-00002.npy"]
    (out / "8" / "shard-00002.npy").unlink()
    assert levels(ShardStore.open(url, size=8, cache=tmp_path / "cache").gather(np.array([9]))) == [90]
    damaged = bytearray((out / "8" / "shard-00001.npy").read_bytes())
    damaged[-1] ^= 1
    (out / "8" / "shard-00001.npy").write_bytes(bytes(damaged))
    with pytest.raises(
        ValueError, match=r"shard-00001.npy: its sha256 is .*, the index says .*copy the prepared folder"
    ):
        store.gather(np.array([5]))
    assert len(list((tmp_path / "cache").rglob("*.npy"))) == 2


def test_digest_is_of_pictures_not_of_texts():
    manifest = manifest_of(["a.png", "b.png"])
    base = images_digest(manifest, size=8)
    manifest.frame["report"] = "clear"
    assert images_digest(manifest, size=8) == base
    assert images_digest(manifest, size=16) != base
    assert images_digest(manifest_of(["b.png", "a.png"]), size=8) != base
    # A data set that was moved is the same.
    moved = manifest_of(["/other/disk/a.png", "/other/disk/b.png"])
    assert images_digest(moved, size=8) == base
    assert images_digest(manifest_of(["/other/a.png", "/other/disk/b.png"]), size=8) != base
    other = make_manifest(manifest_of(["a.png", "b.png"]).frame, source="y")
    assert images_digest(other, size=8) != base
