"""The codes that a look at a picture gives: how grave each is, what it means, and what mends it."""

from typing import NamedTuple

from datamodules.doctor.headers import LARGEST_ASPECT, SMALLEST_SIDE
from datamodules.manifest import Level

# Where a file of a layout comes from.
SOURCES: dict[str, str] = {
    "chexpert": "the download page of CheXpert",
    "chexpert_plus": "the download page of CheXpert Plus",
    "mimic_cxr": "PhysioNet (MIMIC-CXR-JPG)",
    "nih": "the image archives of NIH ChestX-ray14",
    "openi": "the image archive of OpenI (NLMCXR_png.tgz, or Kaggle's copy)",
    "padchest": "the download page of PadChest",
    "vindr": "PhysioNet (VinDr-CXR)",
}


class Issue(NamedTuple):
    """How a code is reported; "{source}" in the mend becomes where the layout's files come from."""

    level: Level
    what: str
    mend: str


_AGAIN = "fetch the file again from {source}"
_OR_REMOVE = "; where it is broken there too, take its row out of the table"

ISSUES: dict[str, Issue] = {
    "gone": Issue("error", "the picture that the table names does not exist", _AGAIN),
    "denied": Issue("error", "the picture may not be read (permissions)", "chmod a+r the file, a+rx its folders"),
    "unreadable": Issue("error", "the disk or server does not give the picture's bytes", "look at the disk; " + _AGAIN),
    "empty": Issue("error", "the picture is a file of 0 bytes", _AGAIN + _OR_REMOVE),
    "zeros": Issue("error", "the picture's bytes are all zero: an interrupted download", _AGAIN),
    "page": Issue(
        "error",
        "not a picture but a web page: the server answered with it instead of the file",
        "log in or accept the licence, then " + _AGAIN,
    ),
    "text": Issue("error", "not a picture but text", _AGAIN),
    "pointer": Issue("error", "not a picture but the pointer of Git LFS", "git lfs pull in the data set's folder"),
    "no picture": Issue("error", "not a picture: neither Pillow nor DICOM knows it", _AGAIN + _OR_REMOVE),
    "no header": Issue("error", "a DICOM whose header cannot be read", _AGAIN + _OR_REMOVE),
    "no pixels": Issue("error", "a DICOM without pixel data", _AGAIN + _OR_REMOVE),
    "cut": Issue("error", "the picture is cut off: its end is missing", _AGAIN),
    "too large": Issue("error", "the header claims an impossible number of pixels", _AGAIN + _OR_REMOVE),
    "wrong decoder": Issue(
        "error", "DICOM and picture formats are confused: the suffix names another than the content", "rename the file"
    ),
    "undecodable": Issue("error", "the pixels cannot be decoded", _AGAIN + _OR_REMOVE),
    "constant": Issue("error", "every pixel is the same: there is nothing in the picture", _AGAIN + _OR_REMOVE),
    "suffix": Issue(
        "warning",
        "the suffix names another format than the content is (it is read by its content)",
        "rename the file, or leave it where no other program reads it",
    ),
    "tiny": Issue(
        "warning", f"a side is under {SMALLEST_SIDE} px: a thumbnail", "fetch the full size from {source}, or drop it"
    ),
    "aspect": Issue(
        "warning",
        f"one side is over {LARGEST_ASPECT:g} times the other: a strip, no chest",
        "look at it, and take its row out of the table where it is no chest",
    ),
    "orientation": Issue(
        "warning",
        "viewers show the picture turned or mirrored (EXIF orientation), here it is read as it is stored",
        "look at it: where it is stored right, take the tag away (exiftool -Orientation= FILE); where not, make "
        "it so (exiftran -ai FILE without loss, or ImageMagick's mogrify -auto-orient FILE) and turn its boxes too",
    ),
    "frames": Issue("error", "a DICOM of several frames", "split it into files of one frame, or take its row out"),
    "DICOM colour": Issue("error", "a DICOM that is not grey", "convert it to MONOCHROME2, or take its row out"),
    "no decoder": Issue(
        "error", "a DICOM so compressed that no installed package decodes it", "pip install -e '.[dicom-jpeg]'"
    ),
    "no pydicom": Issue(
        "warning", "DICOM files were not looked into", "pip install -e '.[dicom]', then run this again"
    ),
    "colour": Issue("note", "a colour picture: it is read as grey", ""),
    "deep": Issue("note", "more than 8 bits a pixel: scaled to 8 when read", ""),
    "inverted": Issue("note", "MONOCHROME1 (black is dense): turned round when read", ""),
}


def mend_of(code: str, *, layout: str) -> str:
    """The mend of a code for a layout."""
    return ISSUES[code].mend.format(source=SOURCES.get(layout, "where the data set came from"))
