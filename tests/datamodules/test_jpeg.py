"""JPEGs: pixels as Pillow's, damage in the middle refused, harmless faults borne."""

import functools
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.images import decode
from datamodules.jpeg import decode_grey, refuse_damaged
from datamodules.phantom.render import render
from datamodules.phantom.study import study

SCAN = b"\xff\xda"
KINDS = {
    "baseline": {},
    "optimised": {"optimize": True},
    "restarts": {"restart_marker_rows": 1},
    "progressive": {"progressive": True},
}


@functools.cache
def radiograph(*, colour: bool = False, side: int = 600) -> Image.Image:
    """A phantom with grain, not square, of odd width."""
    drawn = Image.fromarray(render(study(0, 3), size=256)).resize((side | 1, side * 5 // 6), Image.Resampling.BICUBIC)
    grain = np.random.default_rng(0).normal(0.5, 2, (drawn.height, drawn.width))
    pixels = np.clip(np.asarray(drawn) + grain, 0, 255).astype(np.uint8)
    return Image.fromarray(np.stack([pixels, np.roll(pixels, 3, 1), 255 - pixels], -1) if colour else pixels)


def encoded(picture: Image.Image, **options) -> bytes:
    file = io.BytesIO()
    picture.save(file, "JPEG", **{"quality": 90} | options)
    return file.getvalue()


def by_pillow(data: bytes, size: int) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as picture:
        picture.draft("L", (size, size))
        return np.asarray(picture.convert("L"))


def by_us(data: bytes, size: int) -> np.ndarray:
    return np.asarray(decode(io.BytesIO(data), reference="a.jpg", size=size // 2))


def with_hole(data: bytes, *, length: int, place: float = 0.5, fill: bytes = b"\0") -> bytes:
    """Bytes of the picture's data overwritten; `place` is where, 0 its beginning and 1 its end."""
    first, last = data.index(SCAN) + 20, len(data) - 2 - length
    begin = int(first + place * (last - first))
    return data[:begin] + (fill * length)[:length] + data[begin + length :]


def before_end(data: bytes, more: bytes) -> bytes:
    assert data.endswith(b"\xff\xd9")
    return data[:-2] + more + data[-2:]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("colour", [{}, {"subsampling": "4:4:4"}, {"subsampling": "4:2:0"}, {"keep_rgb": True}])
def test_pixels_are_those_of_pillow(kind, colour):
    data = encoded(radiograph(colour=bool(colour)), **KINDS[kind], **colour)
    for size in (1200, 300, 299, 130, 60, 16):
        expected = by_pillow(data, size)
        np.testing.assert_array_equal(decode_grey(data, width=expected.shape[1], height=expected.shape[0]), expected)
        np.testing.assert_array_equal(by_us(data, size), expected)


@pytest.mark.parametrize("side", [1, 2, 7, 8, 9, 33])
def test_small_pictures_are_those_of_pillow(side):
    data = encoded(radiograph(side=max(side, 2)).crop((0, 0, side, side)))
    for size in (2, 4, 8, 64):
        np.testing.assert_array_equal(by_us(data, size), by_pillow(data, size))


@pytest.mark.parametrize("kind", ["baseline", "optimised", "restarts"])
@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize("length", [512, 4096, 16384])
def test_a_hole_is_refused_wherever_it_is(kind, colour, length):
    data = encoded(radiograph(colour=colour), **KINDS[kind])
    refuse_damaged(data)
    for place in np.linspace(0, 1, 9):
        damaged = with_hole(data, length=length, place=float(place))
        # Pillow decodes it without a word.
        assert np.abs(by_pillow(damaged, 1200).astype(int) - by_pillow(data, 1200)).max() > 30
        for size in ((1, 1), (601, 500)):
            with pytest.raises(OSError, match=r"damaged data, libjpeg says 'Corrupt JPEG data: "):
                decode_grey(damaged, width=size[0], height=size[1])


@pytest.mark.parametrize("fill", [b"<html>503</html>", b"\x55", b"\x12\x34\x56"])
def test_bytes_of_another_file_are_refused(fill):
    data = encoded(radiograph())
    for place in (0.1, 0.5, 0.9):
        with pytest.raises(OSError, match="damaged data"):
            refuse_damaged(with_hole(data, length=600, place=place, fill=fill))


def test_a_lost_middle_and_a_lost_end_are_refused():
    data = encoded(radiograph())
    middle = len(data) // 2
    with pytest.raises(OSError, match="premature end of data segment"):
        refuse_damaged(data[:middle] + data[middle + 700 :])
    with pytest.raises(OSError, match="Premature end of JPEG file"):
        refuse_damaged(data[:middle])
    with pytest.raises(OSError, match="premature end of data segment"):
        refuse_damaged(data[:middle] + b"\xff\xd9")


def test_a_progressive_picture_whose_last_scan_is_cut_is_refused():
    data = encoded(radiograph(), progressive=True)
    last = data.rindex(SCAN)
    with pytest.raises(OSError, match="premature end of data segment"):
        refuse_damaged(data[: (last + len(data)) // 2] + b"\xff\xd9")


def test_a_hole_in_a_picture_of_four_inks_is_refused():
    data = encoded(radiograph(colour=True).convert("CMYK"))
    np.testing.assert_array_equal(by_us(data, 300), by_pillow(data, 300))
    with pytest.raises(ValueError, match=r"a.jpg: cannot be read as an image \(damaged data"):
        by_us(with_hole(data, length=1000), 300)


def test_flat_black_is_coded_as_zeros_and_is_no_hole():
    pixels = np.zeros((2000, 1600), np.uint8)
    pixels[600:-600, 400:-400] = np.asarray(radiograph(side=800))[:, :800].repeat(2, 0)[:800]
    data = encoded(Image.fromarray(pixels), optimize=True)
    assert max(map(len, re.findall(rb"\0+", data[data.index(SCAN) :]))) > 2000
    np.testing.assert_array_equal(by_us(data, 4000), by_pillow(data, 4000))


def adobe(code: int) -> bytes:
    """A colour JPEG whose Adobe marker has this colour code."""
    marker = b"\xff\xee\x00\x0eAdobe\x00\x64\0\0\0\0" + bytes([code])
    data = encoded(radiograph(colour=True))
    return data[:2] + marker + data[20:]


def scan_parameters(data: bytes) -> bytes:
    place = data.index(SCAN) + 7
    assert data[place : place + 3] == b"\0\x3f\0"
    return data[:place] + b"\0\0\0" + data[place + 3 :]


GREY = encoded(radiograph())
BORNE = {
    "zeros behind": GREY + bytes(5000),
    "garbage behind": GREY + np.random.default_rng(1).bytes(5000),
    "another picture behind": GREY + encoded(radiograph(colour=True)),
    "orientation": encoded(radiograph(), exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\1\3\0\1\0\0\0\6\0\0\0\0\0\0\0"),
    "comment": encoded(radiograph(), comment=b"AP erect"),
    "fill bytes": before_end(GREY, b"\xff\xff\xff"),
    "one zero of padding": before_end(GREY, b"\0"),
    "a block of padding": before_end(GREY, bytes(512)),
    "padding in the header": GREY[:20] + bytes(2) + GREY[20:],
    "unknown JFIF revision": GREY.replace(b"JFIF\0\1", b"JFIF\0\3"),
    "bad ICC profile": encoded(radiograph(), icc_profile=bytes(300)).replace(b"FILE\0\1\1", b"FILE\0\2\1"),
    "Adobe colour code 1": adobe(1),
    "unknown Adobe colour code": adobe(7),
    "scan parameters": scan_parameters(GREY),
    "two faults": scan_parameters(GREY.replace(b"JFIF\0\1", b"JFIF\0\3")),
}


@pytest.mark.parametrize("name", BORNE)
def test_what_leaves_every_pixel_right_is_borne(name):
    data = BORNE[name]
    for size in (1200, 150):
        np.testing.assert_array_equal(by_us(data, size), by_pillow(data, size))


@pytest.mark.parametrize("name", [name for name in BORNE if "behind" not in name])
def test_a_harmless_fault_hides_no_damage(name):
    middle = len(BORNE[name]) // 2
    damaged = BORNE[name][:middle] + bytes(1000) + BORNE[name][middle + 1000 :]
    with pytest.raises(ValueError, match=r"damaged data, libjpeg says 'Corrupt JPEG data"):
        by_us(damaged, 300)


def test_a_hole_that_reaches_the_end_is_not_taken_for_padding():
    for length in (40, 100, 512, 5000):
        damaged = GREY[: -length - 2] + bytes(length) + b"\xff\xd9"
        with pytest.raises(OSError, match=r"extraneous bytes before marker 0xd9|premature end"):
            refuse_damaged(damaged)


def test_kinds_that_simplejpeg_does_not_know_are_left_to_pillow():
    # Sampling factors of no common kind; Pillow decodes it, as it would have.
    data = bytearray(encoded(radiograph(colour=True), subsampling="4:4:4"))
    frame = data.index(b"\xff\xc0")
    data[frame + 11], data[frame + 14] = 0x12, 0x21
    assert decode_grey(bytes(data), width=601, height=500) is None
    np.testing.assert_array_equal(by_us(bytes(data), 1200), by_pillow(bytes(data), 1200))
    for nothing in (b"", b"no picture", GREY[:100]):
        assert decode_grey(nothing, width=8, height=8) is None


@pytest.mark.real
def test_real_radiographs_are_read_as_pillow_reads_them(real_data):
    paths = [*real_data.glob("nih_sample/images/*"), *real_data.glob("covid_text/images/*")]
    jpegs = [data for data in map(Path.read_bytes, sorted(paths)) if data.startswith(b"\xff\xd8")]
    assert len(jpegs) > 1600
    for data in jpegs:
        np.testing.assert_array_equal(by_us(data, 128), by_pillow(data, 128))
