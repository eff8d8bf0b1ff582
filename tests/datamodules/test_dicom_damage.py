"""Damage in the middle of a DICOM's pixels: an error where the compression lets it be seen."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pydicom = pytest.importorskip("pydicom")

from pydicom.encaps import generate_frames  # noqa: E402

from tests.datamodules.dicoms import saved, shown, stretched, with_frame  # noqa: E402
from tests.datamodules.lossless_jpeg import lossless_jpeg  # noqa: E402


def with_hole(path: Path, *, length: int = 700, fill: bytes = b"\0") -> Path:
    """The same file with other bytes in the middle of its compressed pixels."""
    data = pydicom.dcmread(path)
    frame = next(generate_frames(data.PixelData, number_of_frames=1))
    content, middle = path.read_bytes(), len(frame) // 2
    path.write_bytes(content.replace(frame, frame[:middle] + length * fill + frame[middle + length :]))
    assert path.read_bytes() != content
    return path


@pytest.fixture
def grain() -> np.ndarray:
    return np.random.default_rng(0).normal(120, 20, (200, 150)).astype(np.uint8)


@pytest.mark.parametrize("syntax", [pydicom.uid.JPEGBaseline8Bit, pydicom.uid.JPEGExtended12Bit])
def test_a_hole_in_a_jpeg_is_an_error(tmp_path, grain, syntax):
    file = io.BytesIO()
    Image.fromarray(grain).save(file, "JPEG", quality=95)
    path = with_frame(saved(tmp_path / "x.dcm", grain, bits=8, window=False), file.getvalue(), syntax)
    assert np.abs(shown(path).astype(int) - stretched(grain)).max() < 20
    with pytest.raises(ValueError, match=r"x.dcm: its pixels cannot be decoded \(damaged data, libjpeg says 'Corrupt"):
        shown(with_hole(path))


# Zeros are too few pixels; the others are runs of 128 equal ones, hence too many.
@pytest.mark.parametrize("fill", [b"\0", b"\x81"])
@pytest.mark.parametrize("bits", [8, 12])
def test_a_hole_in_rle_is_an_error(tmp_path, grain, bits, fill):
    path = saved(tmp_path / "x.dcm", grain, bits=bits)
    data = pydicom.dcmread(path)
    data.compress(pydicom.uid.RLELossless)
    data.save_as(path)
    np.testing.assert_array_equal(shown(path), grain)
    with pytest.raises(ValueError, match=r"x.dcm: its pixels cannot be decoded \((?s:.*) RLE segment"):
        shown(with_hole(path, fill=fill))


def test_one_byte_of_padding_too_many_in_rle_is_borne(tmp_path):
    # Literal runs: a count, then the pixels; two zeros more are one literal pixel.
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8)
    path = saved(tmp_path / "x.dcm", pixels, bits=8, window=False)
    header = np.array([1, 64, *[0] * 14], "<u4").tobytes()
    runs = b"\x3f" + pixels.tobytes() + b"\0\0\0"
    with pytest.warns(UserWarning, match="65 vs. 64 bytes expected"):
        found = shown(with_frame(path, header + runs, pydicom.uid.RLELossless))
    np.testing.assert_array_equal(found, stretched(pixels))
    with pytest.raises(ValueError, match=r"69 vs. 64 bytes expected"):
        shown(with_frame(path, header + runs + bytes(8), pydicom.uid.RLELossless))


def test_a_hole_in_lossless_jpeg_is_an_error(tmp_path, grain):
    path = saved(tmp_path / "x.dcm", grain, bits=12)
    frame = lossless_jpeg(pydicom.dcmread(path).pixel_array, bits=12)
    with_frame(path, frame, pydicom.uid.JPEGLosslessSV1)
    np.testing.assert_array_equal(shown(path), grain)
    with pytest.raises(ValueError, match=r"x.dcm: its pixels cannot be decoded \((?s:.*)libjpeg error"):
        shown(with_hole(path))
