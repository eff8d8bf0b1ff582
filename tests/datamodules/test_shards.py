"""Reading pictures, boxes as masks, and the store of resized images."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from datamodules import shards
from datamodules.manifest import Box, make_manifest
from datamodules.reports.labels import FINDINGS
from datamodules.images import read_image, read_masks
from datamodules.shards import build_store, images_digest, open_store


def manifest_of(paths):
    return make_manifest(
        [{"image": str(p), "image_id": f"i{n}", "patient_id": f"p{n}", "split": "train"} for n, p in enumerate(paths)],
        source="x",
    )


def test_eight_bits_are_not_stretched(tmp_path):
    pixels = np.full((8, 8), 90, dtype=np.uint8)
    pixels[2:4, 2:4] = 130
    Image.fromarray(pixels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(str(tmp_path / "a.png"), size=8), pixels)
    Image.fromarray(np.stack([pixels] * 3, axis=-1)).save(tmp_path / "rgb.png")
    np.testing.assert_array_equal(read_image(str(tmp_path / "rgb.png"), size=8), pixels)


def test_sixteen_bits_are_scaled_by_their_own_range(tmp_path):
    # 12 bits in 16: dividing by 65535 would make this nearly black.
    pixels = np.linspace(1000, 4095, 64).reshape(8, 8).astype(np.uint16)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    expected = np.round((pixels - 1000.0) * 255 / 3095).astype(np.uint8)
    np.testing.assert_array_equal(read_image(str(tmp_path / "a.png"), size=8), expected)


def test_oblong_is_padded_not_cut_or_stretched(tmp_path):
    Image.new("L", (16, 8), 200).save(tmp_path / "wide.png")
    image = read_image(str(tmp_path / "wide.png"), size=16)
    assert (image[4:12] == 200).all()
    assert (image[:4] == 0).all()
    assert (image[12:] == 0).all()


def test_jpeg_draft_agrees_with_full_decode(tmp_path):
    y, x = np.mgrid[:1024, :1024] / 1024
    pixels = (127 + 80 * np.sin(9 * x) * np.cos(7 * y)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.jpg", quality=95)
    full = np.asarray(Image.open(tmp_path / "a.jpg").resize((64, 64), Image.Resampling.BICUBIC), dtype=float)
    assert np.abs(read_image(str(tmp_path / "a.jpg"), size=64) - full).max() <= 2


def test_unreadable_images_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"missing.png: there is no such image; mend the path"):
        read_image(str(tmp_path / "missing.png"), size=8)
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(ValueError, match=r"text.png: cannot be read as an image"):
        read_image(str(tmp_path / "text.png"), size=8)
    noise = np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)
    for name in ("cut.jpg", "cut.png"):
        Image.fromarray(noise).save(tmp_path / name)
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) // 2])
        with pytest.raises(ValueError, match=f"{name}: cannot be read as an image"):
            read_image(str(tmp_path / name), size=8)
    Image.fromarray(np.full((8, 8), 700, dtype=np.uint16)).save(tmp_path / "flat.png")
    with pytest.raises(ValueError, match=r"flat.png: every pixel is 700"):
        read_image(str(tmp_path / "flat.png"), size=8)
    holed = np.ones((8, 8), dtype=np.float32)
    holed[0, 0] = np.nan
    Image.fromarray(holed).save(tmp_path / "nan.tiff")
    with pytest.raises(ValueError, match=r"nan.tiff: 1 of 64 pixels are not finite"):
        read_image(str(tmp_path / "nan.tiff"), size=8)
    with pytest.raises(ValueError, match="expected phantom:<seed>:<index>"):
        read_image("phantom:zero:1", size=64)


def test_box_covers_the_pixels_whose_centres_it_holds(tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    masks = read_masks(str(tmp_path / "a.png"), boxes=[Box("Edema", 0.25, 0.5, 0.75, 1.0)], size=8)
    expected = np.zeros((8, 8), dtype=bool)
    expected[4:8, 2:6] = True
    np.testing.assert_array_equal(masks[FINDINGS.index("Edema")], expected)
    assert masks.sum() == 16


def test_box_follows_the_padding(tmp_path):
    # The lower half of a 16 × 8 picture is rows 8 to 11 of the padded 16 × 16.
    Image.new("L", (16, 8)).save(tmp_path / "wide.png")
    mask = read_masks(str(tmp_path / "wide.png"), boxes=[Box("Edema", 0.0, 0.5, 1.0, 1.0)], size=16)[5]
    expected = np.zeros((16, 16), dtype=bool)
    expected[8:12] = True
    np.testing.assert_array_equal(mask, expected)


def test_phantom_image_and_masks():
    image = read_image("phantom:0:3", size=32)
    np.testing.assert_array_equal(image, read_image("phantom:0:3", size=32))
    assert image.std() > 10
    assert not np.array_equal(image, read_image("phantom:1:3", size=32))
    masks = read_masks("phantom:0:0", boxes="", size=32)
    assert masks.shape == (14, 32, 32)
    assert masks.dtype == bool


def test_store_holds_each_image_and_is_reused(tmp_path):
    paths = []
    for n in range(5):
        paths.append(tmp_path / f"{n}.png")
        Image.new("L", (16, 16), 40 * n).save(paths[-1])
    manifest = manifest_of(paths)
    path = build_store(manifest, size=8, folder=tmp_path / "cache")
    store = open_store(path, count=5, size=8)
    assert [int(image.mean()) for image in store] == [0, 40, 80, 120, 160]
    made = path.stat().st_mtime_ns
    paths[0].unlink()
    assert build_store(manifest, size=8, folder=tmp_path / "cache") == path
    assert path.stat().st_mtime_ns == made
    assert [p.name for p in (tmp_path / "cache").iterdir() if p.suffix != ".lock"] == [path.name]
    with pytest.raises(ValueError, match=r"expected uint8 \(6, 8, 8\) and found uint8 \(5, 8, 8\); remove the file"):
        open_store(path, count=6, size=8)


def test_store_names_all_bad_images_and_leaves_nothing(tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_text("x")
    manifest = manifest_of([tmp_path / "a.png", tmp_path / "b.png", tmp_path / "c.png"])
    with pytest.raises(ValueError, match=r"2 of 3 images cannot be read:\n  image i1: .*b.png.*\n  image i2: .*c.png"):
        build_store(manifest, size=8, folder=tmp_path / "cache")
    assert [p for p in (tmp_path / "cache").iterdir() if p.suffix != ".lock"] == []


def test_processes_that_start_at_once_make_a_store_once(tmp_path, monkeypatch, capsys):
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    for path in paths:
        Image.new("L", (8, 8), 7).save(path)
    manifest, began, made = manifest_of(paths), threading.Event(), []
    write = shards._write_store

    def slow(path, *args):
        began.set()
        time.sleep(0.3)
        made.append(path)
        write(path, *args)

    monkeypatch.setattr(shards, "_write_store", slow)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(build_store, manifest, size=8, folder=tmp_path / "cache")
        began.wait()
        second = pool.submit(build_store, manifest, size=8, folder=tmp_path / "cache")
        assert first.result() == second.result()
    assert len(made) == 1
    assert "waiting for another process" in capsys.readouterr().err


def test_workers_write_the_same_store(tmp_path, monkeypatch):
    paths = []
    for n in range(2 * shards.CHUNK + 3):
        paths.append(tmp_path / f"{n}.png")
        Image.new("L", (8, 8), n).save(paths[-1])
    manifest = manifest_of(paths)
    alone = np.load(build_store(manifest, size=8, folder=tmp_path / "alone"))
    monkeypatch.setattr(shards, "IN_PROCESS", 0)
    monkeypatch.setattr(shards.os, "sched_getaffinity", lambda _: {0, 1})
    together = np.load(build_store(manifest, size=8, folder=tmp_path / "together"))
    np.testing.assert_array_equal(alone, together)
    assert together[:, 0, 0].tolist() == list(range(len(paths)))


def test_digest_is_of_pictures_not_of_texts(tmp_path):
    manifest = manifest_of(["a.png", "b.png"])
    base = images_digest(manifest, size=8)
    manifest.frame["report"] = "clear"
    assert images_digest(manifest, size=8) == base
    assert images_digest(manifest, size=16) != base
    assert images_digest(manifest_of(["b.png", "a.png"]), size=8) != base
