"""DICOM shown as the file says: depths, polarity, LUTs and windows, compression, and what is refused how."""

import builtins
import io
import re
import sys
from pathlib import Path

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom")

from pydicom.dataset import Dataset  # noqa: E402
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut  # noqa: E402
from pydicom.sequence import Sequence  # noqa: E402

from datamodules import dicom  # noqa: E402
from datamodules.dicom import dicom_size, read_dicom  # noqa: E402
from datamodules.images import picture_size, read_image  # noqa: E402
from tests.datamodules.dicoms import saved, shown, stretched, with_frame  # noqa: E402
from tests.datamodules.lossless_jpeg import lossless_jpeg  # noqa: E402

SAMPLES = Path(pydicom.__file__).parent / "data" / "test_files"
# The grey pictures of one frame and at most 16 bits among them.
READ = (
    *("693_J2KI", "CT_small", "J2K_pixelrep_mismatch", "JPEG2000", "JPEGLSNearLossless_08"),
    *("JPEGLSNearLossless_16", "JPGExtended", "MR_small", "MR_small_RLE", "MR_small_bigendian"),
    *("MR_small_expb", "MR_small_implicit", "MR_small_jp2klossless", "MR_small_jpeg_ls_lossless", "MR_small_padded"),
    *("examples_overlay", "image_dfl"),
)


@pytest.fixture
def grey() -> np.ndarray:
    """Every grey level, in a picture that is not square."""
    return np.random.default_rng(0).permutation(np.arange(40 * 64) % 256).astype(np.uint8).reshape(40, 64)


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("compressed", [False, True])
def test_depth_polarity_and_compression_do_not_change_the_picture(tmp_path, grey, bits, inverted, compressed):
    for window in (True, False):
        path = saved(tmp_path / "x.dicom", grey, bits=bits, inverted=inverted, compressed=compressed, window=window)
        found = shown(path)
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, grey)
        assert picture_size(str(path)) == (64, 40)


def test_read_image_pads_a_dicom_to_its_square(tmp_path, grey):
    found = read_image(str(saved(tmp_path / "x.dcm", grey)), size=64)
    np.testing.assert_array_equal(found[12:52], grey)
    assert not found[:12].any()
    assert not found[52:].any()


def test_signed_pixels_are_stretched_and_windowed(tmp_path, grey):
    values = (grey.astype(np.int16) - 128) * 9

    def sign(data):
        data.PixelRepresentation = 1
        data.PixelData = values.astype("<i2").tobytes()

    plain = shown(saved(tmp_path / "x.dicom", grey, window=False, change=sign))
    np.testing.assert_array_equal(plain, stretched(values))

    def window(data):
        sign(data)
        data.WindowCenter, data.WindowWidth = 0, 501

    # PS3.3 C.11.2.1.2.1 by hand: from -250.5 black to 249.5 white.
    windowed = shown(saved(tmp_path / "y.dicom", grey, window=False, change=window))
    expected = np.rint(np.clip((values + 0.5) / 500 + 0.5, 0, 1) * 255)
    np.testing.assert_allclose(windowed, expected, atol=1)


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize("inverted", [False, True])
def test_windows_show_what_pydicom_computes(tmp_path, grey, function, inverted):
    def change(data):
        data.VOILUTFunction = function
        data.RescaleSlope, data.RescaleIntercept = "0.5", "-100"
        data.WindowCenter, data.WindowWidth = ["700", "1"], ["900", "5"]

    path = saved(tmp_path / "x.dicom", grey, inverted=inverted, change=change)
    data = pydicom.dcmread(path)
    # The scale runs over what 12 bits can hold after the rescale.
    values = apply_voi_lut(apply_modality_lut(data.pixel_array, data), data, index=0)
    expected = (values + 100) / (4095 * 0.5) * 255
    np.testing.assert_allclose(shown(path), 255 - expected if inverted else expected, atol=0.51)


def test_the_first_of_several_windows_is_taken(tmp_path, grey):
    def change(data):
        data.WindowCenter, data.WindowWidth = ["2048", "100"], ["4096", "10"]

    np.testing.assert_array_equal(shown(saved(tmp_path / "x.dicom", grey, change=change)), grey)


def test_an_empty_window_is_no_window(tmp_path, grey):
    def change(data):
        data.WindowCenter, data.WindowWidth = None, None

    low = (grey // 2 + 20).astype(np.uint8)
    # 12 bits between two roundings to 8 cost a level.
    found = shown(saved(tmp_path / "x.dicom", low, change=change))
    np.testing.assert_allclose(found.astype(int), stretched(low), atol=1)


def lut(entries: list[int], *, first: int, bits: int) -> Sequence:
    item = Dataset()
    item.LUTDescriptor = [len(entries), first, bits]
    item.LUTData = entries
    item["LUTDescriptor"].VR = item["LUTData"].VR = "US"
    return Sequence([item])


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_a_voi_lut_goes_before_the_window(tmp_path, grey, bits):
    entries = np.linspace(255, 0, 4096).round().astype(int).tolist()

    def change(data):
        data.VOILUTSequence = lut(entries, first=0, bits=bits)

    np.testing.assert_allclose(shown(saved(tmp_path / "x.dicom", grey, change=change)), 255.0 - grey, atol=1)


def test_a_voi_lut_after_a_rescale(tmp_path, grey):
    def change(data):
        data.RescaleSlope, data.RescaleIntercept = "1", "-1000"
        data.VOILUTSequence = lut(list(range(4096)), first=-1000, bits=12)
        data.VOILUTSequence[0]["LUTDescriptor"].VR = "SS"

    np.testing.assert_array_equal(shown(saved(tmp_path / "x.dicom", grey, change=change)), grey)


def test_a_modality_lut_is_applied_before_the_window(tmp_path, grey):
    def change(data):
        data.ModalityLUTSequence = lut(list(range(65535, -1, -16)), first=0, bits=16)
        data.WindowCenter, data.WindowWidth = 32768, 65536

    np.testing.assert_allclose(shown(saved(tmp_path / "x.dicom", grey, change=change)), 255.0 - grey, atol=1)


def test_presentation_lut_shape_does_not_invert_a_second_time(tmp_path, grey):
    def change(data):
        data.PresentationLUTShape = "INVERSE"

    np.testing.assert_array_equal(shown(saved(tmp_path / "x.dicom", grey, inverted=True, change=change)), grey)


@pytest.mark.parametrize("inverted", [False, True])
def test_padding_is_black_and_counts_as_no_value(tmp_path, inverted):
    values = np.full((8, 8), 3000, "<u2")
    values[2:6, 2:6] = np.arange(16).reshape(4, 4) * 10 + 1000

    def change(data):
        data.PixelData = values.tobytes()
        data.PixelPaddingValue = 3000
        data["PixelPaddingValue"].VR = "US"

    pixels = np.zeros((8, 8), np.uint8)
    found = shown(saved(tmp_path / "x.dicom", pixels, window=False, inverted=inverted, change=change))
    expected = np.zeros((8, 8), np.uint8)
    inner = stretched(values[2:6, 2:6])
    expected[2:6, 2:6] = 255 - inner if inverted else inner
    np.testing.assert_array_equal(found, expected)


def test_nothing_but_padding_is_an_error(tmp_path):
    def change(data):
        data.PixelPaddingValue = 0
        data["PixelPaddingValue"].VR = "US"

    with pytest.raises(ValueError, match=r"x.dicom: every pixel is padding"):
        shown(saved(tmp_path / "x.dicom", np.zeros((8, 8), np.uint8), change=change))


@pytest.mark.parametrize("window", [True, False])
def test_an_even_picture_is_an_error(tmp_path, window):
    path = saved(tmp_path / "x.dicom", np.full((8, 8), 7, np.uint8), window=window)
    with pytest.raises(ValueError, match=r"x.dicom: every pixel is .*take its row out of the table"):
        shown(path)


def change_to(**values):
    def change(data):
        for name, value in values.items():
            if value is None:
                delattr(data, name)
            else:
                setattr(data, name, value)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (change_to(NumberOfFrames=3), "has 3 frames, expected one radiograph"),
        (
            change_to(SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0),
            "is RGB with 3 samples a pixel, expected MONOCHROME1 or MONOCHROME2; convert it to grey",
        ),
        (change_to(PhotometricInterpretation="PALETTE COLOR"), "is PALETTE COLOR with 1 samples a pixel"),
        (change_to(PhotometricInterpretation=None), "is of no photometric interpretation"),
        (change_to(PixelData=None), "has no pixel data, or was cut off before them; fetch it again"),
        (change_to(BitsAllocated=32), "has 32 bits a pixel, expected 8 or 16"),
        (change_to(Rows=41), "its pixels cannot be decoded"),
        (change_to(Rows=None), "its pixels cannot be decoded"),
        (change_to(WindowWidth=0), r"its LUT or window \(2048.0, 0.0\) cannot be applied"),
        (change_to(WindowCenter=-9000), r"every pixel is shown as 255, values 0 to 4095 in the window \(-9000.0"),
    ],
)
def test_what_is_no_radiograph_names_file_found_and_mend(tmp_path, grey, change, message):
    path = saved(tmp_path / "x.dicom", grey, change=change)
    with pytest.raises(ValueError, match=rf"{re.escape(str(path))}: {message}") as error:
        shown(path)
    assert re.search("fetch it again|take its row out|convert it", str(error.value))


def test_a_missing_size_is_an_error(tmp_path, grey):
    path = saved(tmp_path / "x.dicom", grey, change=change_to(Rows=None))
    with pytest.raises(ValueError, match=r"x.dicom: its header gives no Rows and Columns"):
        picture_size(str(path))


@pytest.mark.parametrize("content", [b"", b"no dicom at all", b"\0" * 128 + b"DICM"])
def test_what_is_no_dicom_is_an_error(content):
    for function in (read_dicom, dicom_size):
        with pytest.raises(ValueError, match=r"x.dicom: "):
            function(io.BytesIO(content), reference="x.dicom")


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_file_cut_off_anywhere_is_an_error(tmp_path, grey, compressed):
    content = saved(tmp_path / "x.dicom", grey, compressed=compressed).read_bytes()
    # The last bytes of a compressed file end a list of which the picture is the only item.
    for length in range(0, len(content) - 16, 37):
        with pytest.raises(ValueError, match=r"x.dicom: "):
            read_dicom(io.BytesIO(content[:length]), reference="x.dicom")


@pytest.mark.parametrize("bits", [12, 16])
def test_lossless_jpeg_is_read(tmp_path, grey, bits):
    path = saved(tmp_path / "x.dicom", grey, bits=bits, inverted=True)
    frame = lossless_jpeg(pydicom.dcmread(path).pixel_array, bits=bits)
    with_frame(path, frame, pydicom.uid.JPEGLosslessSV1)
    np.testing.assert_array_equal(shown(path), grey)


def test_compressed_files_of_other_makers_are_read():
    # Raw, deflated, RLE, JPEG extended, JPEG-LS and JPEG 2000, as pydicom ships them.
    raw = shown(SAMPLES / "MR_small.dcm")
    for name in ("MR_small_RLE", "MR_small_jp2klossless", "MR_small_jpeg_ls_lossless", "MR_small_bigendian"):
        np.testing.assert_array_equal(shown(SAMPLES / f"{name}.dcm"), raw, err_msg=name)
    assert shown(SAMPLES / "image_dfl.dcm").shape == (512, 512)
    assert shown(SAMPLES / "JPGExtended.dcm").shape == (1024, 256)
    assert shown(SAMPLES / "693_J2KI.dcm").shape == (512, 512)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("path", sorted(SAMPLES.glob("*.dcm")), ids=lambda path: path.stem)
def test_every_sample_is_read_or_refused_with_its_name(path):
    if path.stem in READ:
        assert shown(path).dtype == np.uint8
        return
    with pytest.raises(ValueError, match=re.escape(f"{path}: ")):
        shown(path)


@pytest.mark.parametrize(
    ("syntax", "package"),
    [
        ("1.2.840.10008.1.2.4.90", "pylibjpeg pylibjpeg-openjpeg"),
        ("1.2.840.10008.1.2.4.70", "pylibjpeg pylibjpeg-libjpeg"),
        ("1.2.840.10008.1.2.4.80", "pylibjpeg pylibjpeg-libjpeg"),
        ("1.2.840.10008.1.2.4.201", "pylibjpeg pylibjpeg-openjpeg"),
    ],
)
def test_a_missing_decoder_names_its_package(tmp_path, grey, monkeypatch, syntax, package):
    from types import SimpleNamespace

    path = saved(tmp_path / "x.dicom", grey, compressed=True)
    data = pydicom.dcmread(path)
    data.file_meta.TransferSyntaxUID = pydicom.uid.UID(syntax)
    data.save_as(path)
    monkeypatch.setattr("pydicom.pixels.get_decoder", lambda _: SimpleNamespace(is_available=False))
    with pytest.raises(ValueError, match=rf"no decoder is installed: .*-e '\.\[dicom\].* pip install {package}"):
        shown(path)


def test_a_transfer_syntax_of_films_is_refused(tmp_path, grey):
    path = saved(tmp_path / "x.dicom", grey, compressed=True)
    data = pydicom.dcmread(path)
    data.file_meta.TransferSyntaxUID = pydicom.uid.MPEG2MPML
    data.save_as(path)
    with pytest.raises(ValueError, match=r"is not one of pictures; convert it to a raw DICOM"):
        shown(path)


def test_without_pydicom_the_message_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def absent(name, *args, **kwargs):
        if name.split(".")[0] == "pydicom":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    for name in [name for name in sys.modules if name.split(".")[0] == "pydicom"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(ImportError, match=r"needs pydicom, which is not installed: pip install -e '\.\[dicom\]'"):
        dicom.read_dicom(io.BytesIO(), reference="x.dicom")
