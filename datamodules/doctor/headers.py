"""One picture file, looked at by its first 64 kB and its last kB: what it is, and whether it is whole.

It knows no tables: one path in, one `Look` out.
"""

import codecs
import hashlib
import io
import os
import struct
import zlib
from pathlib import PurePosixPath
from typing import Any, BinaryIO, NamedTuple

from PIL import Image, UnidentifiedImageError

from datamodules.dicom import is_decodable
from datamodules.images import decode as decode_picture
from datamodules.images import open_image

HEAD = 64 * 1024
TAIL = 1024
# A JPEG or PNG of one grey needs about 0.01 bytes a pixel, a radiograph at quality 75 about 0.1.
EMPTY_BYTES_PER_PIXEL = 0.03
# Header and tables of a JPEG, which say nothing about the pixels.
HEADER_BYTES = 1024
SMALLEST_SIDE = 64
LARGEST_ASPECT = 3.0
SUFFIXES = {"JPEG": (".jpg", ".jpeg"), "PNG": (".png",), "DICOM": (".dcm", ".dicom"), "TIFF": (".tif", ".tiff")}
GREY_MODES = ("1", "L", "LA", "I", "F")
ORIENTATION = 0x0112
# What a viewer does to a picture of each orientation but 1, which is upright.
TURNS = {
    2: "mirrored",
    3: "turned by 180°",
    4: "upside down, mirrored",
    5: "turned right by 90°, mirrored",
    6: "turned right by 90°",
    7: "turned left by 90°, mirrored",
    8: "turned left by 90°",
}
ELEMENTS = (
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "SamplesPerPixel",
    "NumberOfFrames",
    "PhotometricInterpretation",
)
# What makes decoding pointless.
HOPELESS = ("cut", "no pixels", "wrong decoder", "no decoder", "frames", "DICOM colour")
PIXEL_DATA = b"\xe0\x7f\x10\x00"
SEQUENCE_END = b"\xfe\xff\xdd\xe0"
UNDEFINED = 0xFFFFFFFF


class Header(NamedTuple):
    """What a picture's header says: Pillow's format and mode, size in pixels, EXIF orientation (1 = upright)."""

    kind: str
    mode: str
    size: tuple[int, int]
    orientation: int


class Look(NamedTuple):
    """What one look at a file found.

    Attributes:
        size: bytes.
        stamp: changes when the file does: the time of its last change, of a remote file what its server says.
        mark: fingerprint of size, first and last kB; equal files have equal ones, unequal ones rarely.
        width: in pixels, 0 where that is not known.
        height: as `width`.
        issues: (code, detail) pairs; the codes are those of `datamodules.doctor.issues`.
        decoded: whether all pixels were decoded.
    """

    size: int = 0
    stamp: int = 0
    mark: int = 0
    width: int = 0
    height: int = 0
    issues: tuple[tuple[str, str], ...] = ()
    decoded: bool = False


class Known(NamedTuple):
    """What an earlier look left: nothing is read while these are unchanged."""

    size: int
    stamp: int
    decoded: bool


def look(image: str, *, known: Known | None = None, decode: bool = False) -> Look | None:
    """Look at one picture file.

    Args:
        image: path or fsspec URL.
        known: what an earlier look found.
        decode: decode all pixels also where nothing is suspicious.

    Returns:
        None where the file is as `known` says (and was decoded, if that is asked for).
    """
    try:
        size, stamp = _stat(image)
        if known is not None and (size, stamp) == (known.size, known.stamp) and known.decoded >= decode:
            return None
        if size == 0:
            return Look(stamp=stamp, issues=(("empty", ""),))
        with _open(image) as file:
            head, tail = _ends(file, size)
            digest = hashlib.blake2b(struct.pack("<q", size) + head[:TAIL] + tail, digest_size=8).digest()
            found = Look(size, stamp, int.from_bytes(digest, "little"))
            return _inside(image, file, head, tail, found, decode=decode)
    except FileNotFoundError:
        return Look(issues=(("gone", ""),))
    except PermissionError:
        return Look(issues=(("denied", ""),))
    except OSError as error:
        return Look(issues=(("unreadable", str(error)),))


def look_at_each(batch: list[tuple[int, str, Known | None]], decode: bool) -> list[tuple[int, Look | None]]:
    """`look` at several, each under its number: the unit of work of a thread."""
    return [(number, look(image, known=known, decode=decode)) for number, image, known in batch]


def whole_digest(image: str) -> str:
    """Sha256 of a whole file."""
    with _open(image) as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _stat(image: str) -> tuple[int, int]:
    if "://" not in image:
        status = os.stat(image)
        return status.st_size, status.st_mtime_ns
    import fsspec

    system, path = fsspec.core.url_to_fs(image)
    info = system.info(path)
    named = [str(info[key]) for key in ("ETag", "etag", "md5Hash", "mtime", "LastModified", "created") if key in info]
    return int(info["size"] or 0), zlib.crc32("|".join(named).encode())


def _open(image: str) -> Any:
    if "://" not in image:
        return open(image, "rb", buffering=0)
    import fsspec

    return fsspec.open(image, "rb", block_size=HEAD).open()


def _ends(file: BinaryIO, size: int) -> tuple[bytes, bytes]:
    head = file.read(HEAD)
    if size <= HEAD:
        return head, head[-TAIL:]
    file.seek(size - TAIL)
    return head, file.read(TAIL)


def _inside(image: str, file: BinaryIO, head: bytes, tail: bytes, found: Look, *, decode: bool) -> Look:
    suffix = PurePosixPath(image).suffix.lower()
    if head[128:132] == b"DICM":
        kind, found, suspicious = "DICOM", *_dicom(file, head, tail, found)
    else:
        kind, found, suspicious = _picture(file, head, tail, found)
    issues = list(found.issues)
    expected = next((name for name, suffixes in SUFFIXES.items() if suffix in suffixes), "")
    if kind and expected and kind != expected:
        # The suffix decides which decoder reads it: only Pillow's formats may stand for one another.
        code = "wrong decoder" if "DICOM" in (kind, expected) else "suffix"
        issues.append((code, f"{kind} in {suffix}"))
    if found.width:
        shorter, longer = sorted((found.width, found.height))
        if shorter < SMALLEST_SIDE:
            issues.append(("tiny", f"{found.width} × {found.height}"))
        if longer > LARGEST_ASPECT * shorter:
            issues.append(("aspect", f"{found.width} × {found.height}"))
    decoded = kind != "" and not any(code in HOPELESS for code, _ in issues)
    decoded = decoded and (decode or suspicious)
    if decoded:
        issues += _pixels(image)
    # A file that is known to be broken counts as decoded: decoding it finds no more.
    return found._replace(issues=tuple(issues), decoded=decoded or decode)


def _picture(file: BinaryIO, head: bytes, tail: bytes, found: Look) -> tuple[str, Look, bool]:
    try:
        kind, mode, (width, height), orientation = _header(file, head, found.size)
    except Image.DecompressionBombError as error:
        return "", found._replace(issues=(("too large", str(error)),)), False
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, struct.error):
        return "", found._replace(issues=(_nothing(head),)), False
    issues: list[tuple[str, str]] = []
    if kind == "JPEG":
        # Thumbnails in a small file's header have an end of their own, before the scan begins.
        whole = tail.rfind(b"\xff\xd9") > tail.rfind(b"\xff\xda")
    elif kind == "PNG":
        whole = b"IEND\xaeB`\x82" in tail
    else:
        whole = True
    if not whole:
        issues.append(("cut", ""))
    if mode.startswith("I") or mode == "F":
        issues.append(("deep", mode))
    elif mode not in GREY_MODES:
        issues.append(("colour", mode))
    if orientation in TURNS:
        issues.append(("orientation", f"{orientation}: {TURNS[orientation]}"))
    found = found._replace(width=width, height=height, issues=tuple(issues))
    return kind, found, _is_small(found.size, width, height)


def _is_small(size: int, width: int, height: int) -> bool:
    """Whether a file is too small for its pixels to show a radiograph."""
    return size - HEADER_BYTES < EMPTY_BYTES_PER_PIXEL * width * height


def _header(file: BinaryIO, head: bytes, size: int) -> Header:
    try:
        return _opened(io.BytesIO(head))
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, struct.error):
        # Some scanners' comments and profiles before the picture are longer than what was read.
        if size <= HEAD or not head.startswith((b"\xff\xd8", b"\x89PNG", b"II*\0", b"MM\0*")):
            raise
    file.seek(0)
    return _opened(file)


def _opened(file: BinaryIO) -> Header:
    with Image.open(file) as picture:
        return Header(str(picture.format), picture.mode, picture.size, _orientation(picture))


def _orientation(picture: Image.Image) -> int:
    # Pillow itself turns a TIFF when it decodes it, so that everybody sees the same.
    if picture.format == "TIFF":
        return 1
    try:
        return int(picture.getexif().get(ORIENTATION, 1))
    except (AttributeError, KeyError, OSError, SyntaxError, TypeError, ValueError, struct.error):
        # The picture is none the worse for a block of EXIF that cannot be read; viewers pass over it too.
        return 1


def _nothing(head: bytes) -> tuple[str, str]:
    """What a file is that is no picture."""
    if not head.strip(b"\0"):
        return "zeros", ""
    start = head.lstrip()[:512]
    if start.startswith(b"version https://git-lfs"):
        return "pointer", ""
    try:
        # A character may be cut in two where the piece ends.
        text = codecs.getincrementaldecoder("utf-8")().decode(start)
    except UnicodeDecodeError:
        return "no picture", ""
    if all(character.isprintable() or character.isspace() for character in text):
        return ("page" if text.startswith("<") else "text"), " ".join(text.split())[:60]
    return "no picture", ""


def _dicom(file: BinaryIO, head: bytes, tail: bytes, found: Look) -> tuple[Look, bool]:
    try:
        import pydicom
    except ImportError:
        return found._replace(issues=(("no pydicom", ""),)), False
    try:
        # pydicom reads ahead to the element after the last that is wanted, and stops before the pixels in any case.
        stream: BinaryIO = io.BytesIO(head)
        header = pydicom.dcmread(stream, stop_before_pixels=True, specific_tags=list(ELEMENTS))
        if found.size > HEAD and head[stream.tell() :][:4] != PIXEL_DATA:
            # The header is longer than what was read.
            stream = file
            stream.seek(0)
            header = pydicom.dcmread(stream, stop_before_pixels=True, specific_tags=list(ELEMENTS))
        begin = stream.tell()
        start = stream.read(12)
        values = {name: header.get(name) for name in ELEMENTS}
        width, height = int(values["Columns"]), int(values["Rows"])
        allocated, samples = int(values["BitsAllocated"] or 8), int(values["SamplesPerPixel"] or 1)
        syntax = header.file_meta.TransferSyntaxUID
        explicit = not syntax.is_implicit_VR
    # A damaged header raises whatever its first wrong byte leads to.
    except Exception as error:
        return found._replace(issues=(("no header", f"{type(error).__name__}: {error}"[:100]),)), False
    issues: list[tuple[str, str]] = []
    suspicious = False
    if start[:4] != PIXEL_DATA:
        issues.append(("no pixels", ""))
    else:
        length = struct.unpack("<I", start[8:12] if explicit else start[4:8])[0] if len(start) == 12 else UNDEFINED
        if length == UNDEFINED:
            whole = SEQUENCE_END in tail
            suspicious = _is_small(found.size, width, height)
        else:
            begin += 12 if explicit else 8
            whole = begin + length <= found.size and length >= width * height * samples * allocated // 8
            # Of raw pixels only the beginning and the end are at hand.
            suspicious = whole and len(set(head[begin:] + tail[-min(TAIL, length) : -2])) <= 2
        if not whole:
            issues.append(("cut", ""))
    photometric = str(values["PhotometricInterpretation"])
    if photometric == "MONOCHROME1":
        issues.append(("inverted", ""))
    elif photometric != "MONOCHROME2":
        issues.append(("DICOM colour", photometric))
    if int(values["NumberOfFrames"] or 1) > 1:
        issues.append(("frames", str(values["NumberOfFrames"])))
    if not is_decodable(syntax):
        issues.append(("no decoder", syntax.name))
    if int(values["BitsStored"] or allocated) > 8:
        issues.append(("deep", f"{values['BitsStored']} bits"))
    return found._replace(width=width, height=height, issues=tuple(issues)), suspicious


def _pixels(image: str) -> list[tuple[str, str]]:
    try:
        with open_image(image) as file:
            low, high = decode_picture(file, reference=image, size=64).getextrema()
    except ValueError as error:
        if "every pixel is" in str(error):
            return [("constant", "")]
        # The issue says that it cannot be decoded and what to do; what is left is the decoder's own reason.
        reason = error.__cause__ or str(error).removeprefix(f"{image}: ").split("; ")[0]
        return [("undecodable", str(reason)[:200])]
    return [("constant", f"{low}")] if low == high else []
