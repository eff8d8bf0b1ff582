"""Planted faults: each damages a freshly written folder of some layout, and says what the doctor must find.

`damage` of a picture is the same for all layouts; what is particular to a layout's tables is in `faults_tables`.
"""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from datamodules.manifest import Level
from tests.datamodules.doctor.damage import PAGE, constant, copy_over, cut, hole, noise, save

AGAIN = "fetch the file again from"
DAMAGED = {
    ".jpg": "pixels cannot be decoded.*damaged data, libjpeg says",
    ".png": "pixels cannot be decoded.*IDAT",
}


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        name: what is wrong.
        layout: whose writer writes the folder.
        damage: what is done to the folder.
        level: of the finding.
        what: pattern that the finding's `what` must hold.
        mend: pattern that its `mend` must hold.
        options: of the writer.
        read: options of the reader.
        studies: how many are written.
        named: give --layout, for what is no longer recognised.
        decode: give --decode, without which it is not found.
    """

    name: str
    layout: str
    damage: Callable[[Path], None]
    level: Level
    what: str
    mend: str
    options: Mapping[str, Any] = field(default_factory=dict)
    read: Mapping[str, Any] = field(default_factory=dict)
    studies: int = 12
    named: bool = False
    decode: bool = False

    def __str__(self) -> str:
        return f"{self.layout}: {self.name}"


def faults_of(layout: str, **always: Any) -> Callable[..., Fault]:
    """`Fault` of one layout: called with name, damage, level, what, mend, and what else a fault has."""
    return lambda name, *rest, **more: Fault(name, layout, *rest, **(always | more))


def on(file: str, change: Callable[..., object], *values: str, **more: Any) -> Callable[[Path], None]:
    """Apply a change to one file of the folder."""
    return lambda root: change(root / file, *values, **more)  # type: ignore[func-returns-value]


def pictures(root: Path, suffix: str) -> list[Path]:
    """The pictures under a root, sorted; never the phantom's contact sheet, which no table names."""
    found = sorted(p for p in root.rglob(f"*{suffix}") if p.name != "contact_sheet.png")
    assert found, f"no {suffix} under {root}"
    return found


def on_picture(suffix: str, change: Callable[[Path], Any], *, number: int = 0) -> Callable[[Path], None]:
    """Damage one picture of the folder."""

    def damage(root: Path) -> None:
        change(pictures(root, suffix)[number])

    return damage


def repeat_picture(suffix: str, *, first: int, second: int) -> Callable[[Path], None]:
    """Make one picture the copy of another."""

    def damage(root: Path) -> None:
        found = pictures(root, suffix)
        copy_over(found[first], found[second])

    return damage


def as_png(path: Path) -> None:
    with Image.open(path) as picture:
        picture.load()
        picture.save(path, format="PNG")


def turned(path: Path, orientation: int = 6) -> None:
    """The same pixels with a tag by which viewers turn them."""
    with Image.open(path) as picture:
        picture.load()
        exif = picture.getexif()
        exif[0x0112] = orientation
        picture.save(path, exif=exif)


def of_one_grey(path: Path) -> None:
    """The file of a DICOM with every stored value alike."""
    import pydicom

    data = pydicom.dcmread(path)
    data.PixelData = bytes(len(data.PixelData))
    data.save_as(path)


def without_pixels(path: Path) -> None:
    import pydicom

    data = pydicom.dcmread(path)
    del data.PixelData
    data.save_as(path)


def add_stray(name: str, like: str) -> Callable[[Path], None]:
    """A picture that no table names, beside another."""

    def damage(root: Path) -> None:
        beside = pictures(root, like)[0]
        shutil.copyfile(beside, beside.with_name(name))

    return damage


def _picture_faults(layout: str, suffix: str, **more: Any) -> list[Fault]:
    """What may happen to any layout's JPEG or PNG files."""
    other = "PNG" if suffix == ".jpg" else "JPEG"
    swap = as_png if suffix == ".jpg" else lambda path: save(noise(seed=5), path, format="JPEG")
    table: list[tuple[str, Callable[[Path], Any], Level, str, str]] = [
        ("empty picture", lambda p: p.write_bytes(b""), "error", "a file of 0 bytes", AGAIN),
        ("web page as picture", lambda p: p.write_bytes(PAGE), "error", "not a picture but a web page", "log in"),
        ("text as picture", lambda p: p.write_text("file not found"), "error", "not a picture but text", AGAIN),
        ("picture of zeros", lambda p: p.write_bytes(bytes(4000)), "error", "bytes are all zero", AGAIN),
        ("pointer of Git LFS", lambda p: p.write_text("version https://git-lfs\n"), "error", "Git LFS", "lfs pull"),
        ("truncated picture", cut, "error", "cut off", AGAIN),
        ("constant picture", constant, "error", "every pixel is the same", "take its row out"),
        ("wrong suffix", swap, "warning", f"suffix names another format.*{other} in {suffix}", "rename the file"),
        ("thumbnail", lambda p: save(noise(20), p), "warning", "under 64 px", "fetch the full size"),
        ("tag that turns it", turned, "warning", r"read as it is stored", "exiftran -ai .* turn its boxes too"),
        ("strip", lambda p: save(noise(512)[:90], p), "warning", "3 times the other", "take its row out"),
    ]
    found = [
        Fault(name, layout, on_picture(suffix, change), level, what, mend, **more)
        for name, change, level, what, mend in table
    ]
    middle = on_picture(suffix, hole)
    return [*found, Fault("hole of zeros", layout, middle, "error", DAMAGED[suffix], AGAIN, decode=True, **more)]


PICTURES: list[Fault] = [
    *_picture_faults("mimic_cxr", ".jpg", read={"section": "first"}),
    *_picture_faults("nih", ".png"),
    *_picture_faults("table", ".png"),
    Fault("truncated DICOM", "vindr", on_picture(".dicom", cut), "error", "cut off", AGAIN),
    Fault(
        "DICOM cut in its header",
        "vindr",
        on_picture(".dicom", lambda p: cut(p, share=0.02)),
        "error",
        "DICOM (without pixel data|whose header)",
        AGAIN,
    ),
    Fault("DICOM without pixels", "vindr", on_picture(".dicom", without_pixels), "error", "without pixel data", AGAIN),
    Fault("constant DICOM", "vindr", on_picture(".dicom", of_one_grey), "error", "every pixel is the same", AGAIN),
    Fault(
        "JPEG named as DICOM",
        "vindr",
        on_picture(".dicom", lambda p: save(noise(), p, format="JPEG")),
        "error",
        "confused.*JPEG in .dicom",
        "rename",
    ),
]
