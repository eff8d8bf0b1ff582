"""Reading pictures, and boxes as masks."""

import numpy as np
import pytest
from PIL import Image

from datamodules.images import read_image, read_masks
from datamodules.manifest import Box
from datamodules.reports.labels import FINDINGS


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
    full = np.asarray(Image.open(tmp_path / "a.jpg").resize((64, 64), Image.Resampling.LANCZOS), dtype=float)
    assert np.abs(read_image(str(tmp_path / "a.jpg"), size=64) - full).max() <= 2


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_orientation_tags_are_not_applied(tmp_path, suffix):
    pixels = np.zeros((32, 32), dtype=np.uint8)
    pixels[:, :16] = 200
    exif = Image.Exif()
    for orientation in range(1, 9):
        exif[0x0112] = orientation
        Image.fromarray(pixels).save(tmp_path / f"a{suffix}", exif=exif)
        image = read_image(str(tmp_path / f"a{suffix}"), size=32)
        assert image[:, :12].min() > 190, orientation
        assert image[:, 20:].max() < 10, orientation


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


def test_damage_in_the_middle_is_an_error_that_names_the_file(tmp_path):
    grain = np.random.default_rng(0).normal(120, 20, (256, 256)).astype(np.uint8)
    for name, why in (("a.jpg", "damaged data, libjpeg says 'Corrupt JPEG data: .*'"), ("a.png", "IDAT")):
        path = tmp_path / name
        Image.fromarray(grain).save(path)
        data = path.read_bytes()
        middle = len(data) // 2
        path.write_bytes(data[:middle] + bytes(4096) + data[middle + 4096 :])
        with pytest.raises(ValueError, match=rf"{name}: cannot be read as an image \(.*{why}.*fetch it again, or take"):
            read_image(str(path), size=64)


def test_a_checksum_tells_what_pillow_decodes_wrongly(tmp_path):
    path = tmp_path / "a.png"
    y, x = np.mgrid[:500, :500]
    pixels = np.where((x - 250) ** 2 + (y - 250) ** 2 < 40_000, 255, 0).astype(np.uint8)
    Image.fromarray(pixels).save(path)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 64] = bytes(64)
    path.write_bytes(data)
    with Image.open(path) as wrong:
        assert not np.array_equal(np.asarray(wrong), pixels)
    with pytest.raises(ValueError, match=r"a.png: cannot be read as an image \(.*checksum"):
        read_image(str(path), size=8)


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


def test_images_behind_a_url_are_read_as_local_ones(tmp_path):
    noise = np.random.default_rng(1).integers(0, 255, (40, 30), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    url = f"file://{tmp_path}/a.png"
    np.testing.assert_array_equal(read_image(url, size=16), read_image(str(tmp_path / "a.png"), size=16))
    box = [Box("Edema", 0.0, 0.5, 1.0, 1.0)]
    np.testing.assert_array_equal(
        read_masks(url, boxes=box, size=16), read_masks(str(tmp_path / "a.png"), boxes=box, size=16)
    )
    with pytest.raises(ValueError, match=r"b.png: there is no such image"):
        read_image(f"file://{tmp_path}/b.png", size=16)
