"""One look at a picture: each kind of damage by its code, whole pictures without one."""

import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, ImageOps

from datamodules.doctor import headers
from datamodules.doctor.headers import HEAD, TURNS, Known, Look, look
from datamodules.doctor.issues import ISSUES, mend_of
from datamodules.images import read_image
from tests.datamodules.doctor.damage import PAGE, constant, cut, hole, noise, save


def codes(path, **options) -> list[str]:
    found = look(str(path), **options)
    assert isinstance(found, Look)
    assert all(code in ISSUES for code, _ in found.issues)
    return [code for code, _ in found.issues]


def exif(orientation: int) -> bytes:
    block = Image.Exif()
    block[0x0112] = orientation
    return block.tobytes()


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
@pytest.mark.parametrize("side", [96, 700])
def test_whole_pictures_have_no_issue(tmp_path, suffix, side):
    path = save(noise(side), tmp_path / f"a{suffix}")
    found = look(str(path))
    assert found == Look(path.stat().st_size, path.stat().st_mtime_ns, found.mark, side, side)
    assert codes(path, decode=True) == []


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("side", [96, 700])
@pytest.mark.parametrize("share", [0.2, 0.9, 0.999])
def test_cut_off(tmp_path, suffix, side, share):
    path = save(noise(side), tmp_path / f"a{suffix}")
    cut(path, share=share)
    assert codes(path) == ["cut"]


def test_a_thumbnail_in_the_header_is_no_end(tmp_path):
    # Small pictures are read whole, with the end of the thumbnail that stands in their EXIF block.
    thumbnail = b"Exif\0\0" + b"\xff\xd8 a small picture \xff\xd9"
    path = tmp_path / "a.jpg"
    Image.fromarray(noise(16)).save(path, exif=thumbnail)
    assert codes(path) == ["tiny"]
    cut(path, share=0.95)
    assert codes(path) == ["cut", "tiny"]


def test_a_long_comment_before_the_picture(tmp_path):
    path = tmp_path / "a.jpg"
    Image.fromarray(noise(200)).save(path, icc_profile=bytes(3 * HEAD))
    assert path.stat().st_size > 3 * HEAD
    assert codes(path) == []


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "empty"),
        (bytes(5000), "zeros"),
        (PAGE, "page"),
        (b"\n" * 600 + PAGE * 20, "page"),
        (b'{"error": "not authorised"}', "text"),
        ("Datei gelöscht".encode() * 100, "text"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n", "pointer"),
        (b"\x93NUMPY\x01\x00" + bytes(range(256)) * 4, "no picture"),
        (b"\xff\xd8\xff\xe0 cut in the header", "no picture"),
    ],
)
def test_what_is_no_picture(tmp_path, data, code):
    path = tmp_path / "a.jpg"
    path.write_bytes(data)
    assert codes(path) == [code]


def test_missing_and_unreadable(tmp_path):
    assert codes(tmp_path / "none.png") == ["gone"]
    (tmp_path / "folder.png").mkdir()
    assert codes(tmp_path / "folder.png") == ["unreadable"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_permissions(tmp_path):
    path = save(noise(), tmp_path / "a.png")
    path.chmod(0)
    assert codes(path) == ["denied"]


def test_permission_errors_are_told_apart(tmp_path, monkeypatch):
    def refuse(image):
        raise PermissionError(13, "Permission denied", image)

    path = save(noise(), tmp_path / "a.png")
    monkeypatch.setattr(headers, "_open", refuse)
    assert codes(path) == ["denied"]


def test_suffix_contradicts_the_content(tmp_path):
    assert codes(save(noise(), tmp_path / "a.jpg", format="PNG")) == ["suffix"]
    assert look(str(save(noise(), tmp_path / "a.png", format="JPEG"))).issues == (("suffix", "JPEG in .png"),)
    assert codes(save(noise(), tmp_path / "a.dcm", format="PNG")) == ["wrong decoder"]


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("side", [96, 900])
def test_constant_pictures_are_found_without_decoding_all(tmp_path, suffix, side):
    path = save(noise(side), tmp_path / f"a{suffix}")
    constant(path)
    found = look(str(path))
    assert found.issues == (("constant", "7"),)
    assert found.decoded


def test_only_suspicious_files_are_decoded(tmp_path):
    path = save(noise(300), tmp_path / "a.png")
    assert not look(str(path)).decoded
    assert look(str(path), decode=True).decoded


@pytest.mark.parametrize(
    ("suffix", "why"),
    [(".png", r"broken PNG file \(bad header checksum in b'IDAT'\)"), (".jpg", "damaged data, libjpeg says '[^']+'")],
)
def test_a_damaged_middle_needs_decoding(tmp_path, suffix, why):
    path = save(noise(300), tmp_path / f"a{suffix}")
    hole(path, share=0.4)
    assert codes(path) == []
    (issue,) = look(str(path), decode=True).issues
    assert issue[0] == "undecodable"
    # The reason alone: that it cannot be decoded, and the mend, stand in the issue.
    assert re.fullmatch(why, issue[1])


def test_pixels_that_are_no_numbers(tmp_path):
    pixels = noise(96).astype(np.float32)
    pixels[0, :3] = np.nan
    path = save(pixels, tmp_path / "a.tif")
    assert look(str(path), decode=True).issues == (
        ("deep", "F"),
        ("undecodable", f"3 of {96 * 96} pixels are not finite"),
    )


def test_shapes_colours_and_depths(tmp_path):
    assert codes(save(noise(40), tmp_path / "a.png")) == ["tiny"]
    assert codes(save(noise(512)[:100], tmp_path / "b.png")) == ["aspect"]
    assert codes(save(np.stack([noise()] * 3, -1), tmp_path / "c.png")) == ["colour"]
    deep = save(noise().astype(np.uint16) * 200, tmp_path / "d.png")
    assert look(str(deep)).issues == (("deep", "I;16"),)
    assert codes(deep, decode=True) == ["deep"]


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_orientations_are_told(tmp_path, suffix):
    path = save(noise(300)[:200], tmp_path / f"a{suffix}")
    Image.open(path).convert("L").save(path.with_stem("b"), exif=exif(1))
    assert "orientation" not in codes(path) + codes(path.with_stem("b"))
    told = []
    for orientation in range(2, 9):
        Image.fromarray(noise(300)[:200]).save(path, exif=exif(orientation))
        found = look(str(path))
        assert (found.width, found.height, found.decoded) == (300, 200, False)
        told += [detail for code, detail in found.issues if code == "orientation"]
    assert told == [f"{orientation}: {turn}" for orientation, turn in TURNS.items()]
    assert told[0] == "2: mirrored"
    assert told[4] == "6: turned right by 90°"


def test_the_names_of_orientations_are_what_viewers_do():
    stored = Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3))
    for orientation, turn in TURNS.items():
        stored.getexif()[0x0112] = orientation
        shown = np.array(stored)
        for step in turn.split(", "):
            shown = {
                "mirrored": np.fliplr,
                "turned by 180°": lambda a: np.rot90(a, 2),
                "upside down": lambda a: np.rot90(a, 2),
                "turned right by 90°": lambda a: np.rot90(a, -1),
                "turned left by 90°": np.rot90,
            }[step](shown)
        np.testing.assert_array_equal(shown, np.array(ImageOps.exif_transpose(stored)), turn)


def test_an_orientation_that_cannot_be_read_is_none(tmp_path):
    path = tmp_path / "a.png"
    for block in (b"Exif\0\0nonsense", exif(77), exif(0)):
        Image.fromarray(noise()).save(path, exif=block)
        assert codes(path) == []


def test_tiffs_are_turned_when_read(tmp_path):
    path = tmp_path / "a.tif"
    pixels = noise(96)[:64]
    Image.fromarray(pixels).save(path, tiffinfo={0x0112: 6})
    found = look(str(path))
    assert (found.width, found.height, found.issues) == (64, 96, ())
    upright = tmp_path / "b.tif"
    Image.fromarray(np.rot90(pixels, -1)).save(upright)
    np.testing.assert_array_equal(read_image(str(path), size=96), read_image(str(upright), size=96))


def test_an_impossible_size(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert codes(save(noise(), tmp_path / "a.png")) == ["too large"]


def dicom(path, *, side=96, pixels=None, **options):
    pytest.importorskip("pydicom")
    from datamodules.phantom.disk.dicom_file import save_dicom

    save_dicom(noise(side) if pixels is None else pixels, path, **{"bits": 12, **options})
    return path


@pytest.mark.parametrize("side", [96, 300])
def test_dicom(tmp_path, side):
    path = dicom(tmp_path / "a.dicom", side=side)
    found = look(str(path))
    assert found.issues == (("deep", "12 bits"),)
    assert (found.width, found.height, found.decoded) == (side, side, False)
    assert codes(path, decode=True) == ["deep"]
    assert codes(dicom(tmp_path / "b.dicom", side=side, bits=8)) == []
    assert codes(dicom(tmp_path / "c.dicom", side=side, inverted=True)) == ["inverted", "deep"]
    shutil.copy(path, tmp_path / "d.png")
    assert codes(tmp_path / "d.png") == ["deep", "wrong decoder"]
    for share in (0.9999, 0.5):
        cut(path, share=share)
        assert codes(path) == ["cut", "deep"]
    path.write_bytes(path.read_bytes()[:300])
    assert codes(path)[0] in ("no header", "no pixels")


@pytest.mark.parametrize("side", [96, 300])
def test_a_constant_dicom(tmp_path, side):
    pixels = np.full((side, side), 90, np.uint8)
    assert codes(dicom(tmp_path / "a.dcm", pixels=pixels)) == ["deep", "constant"]
    # A black border at both ends is looked into, and is no fault.
    pixels = noise(side)
    pixels[:200] = pixels[-50:] = 0
    pixels[60, :5] = 200
    found = look(str(dicom(tmp_path / "b.dcm", pixels=pixels)))
    assert [code for code, _ in found.issues] == ["deep"]


def test_dicoms_that_cannot_be_shown(tmp_path):
    pydicom = pytest.importorskip("pydicom")
    path = dicom(tmp_path / "a.dcm", side=100)

    def changed(**values):
        data = pydicom.dcmread(path)
        for name, value in values.items():
            setattr(data, name, value)
        data.save_as(tmp_path / "b.dcm")
        return codes(tmp_path / "b.dcm")

    assert changed(NumberOfFrames=2) == ["frames", "deep"]
    assert changed(PhotometricInterpretation="YBR_FULL") == ["DICOM colour", "deep"]
    assert changed(Rows=101) == ["cut", "deep"]
    data = pydicom.dcmread(path)
    del data.PixelData
    data.save_as(tmp_path / "b.dcm")
    assert codes(tmp_path / "b.dcm") == ["no pixels", "deep"]


def test_without_pydicom_it_says_so(tmp_path, monkeypatch):
    path = dicom(tmp_path / "a.dcm")
    monkeypatch.setitem(sys.modules, "pydicom", None)
    assert codes(path) == ["no pydicom"]


def test_unchanged_files_are_not_read(tmp_path, monkeypatch):
    path = save(noise(), tmp_path / "a.png")
    first = look(str(path))
    known = Known(first.size, first.stamp, False)
    assert look(str(path), known=known) is None
    again = look(str(path), known=known, decode=True)
    assert again.decoded
    assert look(str(path), known=Known(first.size, first.stamp, True), decode=True) is None
    os.utime(path, ns=(0, 0))
    assert look(str(path), known=known) is not None


def test_remote_pictures(tmp_path):
    fsspec = pytest.importorskip("fsspec")
    path = save(noise(300), tmp_path / "a.png")
    with fsspec.open("memory://doctor/a.png", "wb") as file:
        file.write(path.read_bytes())
    local, remote = look(str(path)), look("memory://doctor/a.png", decode=True)
    assert (remote.size, remote.mark, remote.width, remote.issues) == (local.size, local.mark, 300, ())
    assert look("memory://doctor/a.png", known=Known(remote.size, remote.stamp, True), decode=True) is None
    assert codes("memory://doctor/none.png") == ["gone"]


def test_fingerprints_tell_files_apart(tmp_path):
    marks = {look(str(save(noise(seed=seed), tmp_path / f"{seed}.png"))).mark for seed in range(20)}
    assert len(marks) == 20


def test_every_error_and_warning_has_a_mend():
    for code, issue in ISSUES.items():
        assert issue.level == "note" or mend_of(code, layout="nih")
        assert "{" not in mend_of(code, layout="table")
    assert "PhysioNet" in mend_of("empty", layout="mimic_cxr")


def test_looking_loads_no_torch():
    code = (
        "import sys, datamodules.doctor.cli; "
        "sys.exit(','.join(m for m in ('torch', 'lightning') if m in sys.modules) or 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
