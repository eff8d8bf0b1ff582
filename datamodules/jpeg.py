"""JPEGs decoded so that damage in their middle is an error: libjpeg-turbo through simplejpeg, which hears its warnings.

libjpeg decodes on over damaged data and only counts a warning, which Pillow throws away: a hole of zeros then becomes a
grey band or a shifted half of the picture. The pixels here are Pillow's, bit for bit; the warnings are errors.

An error is each warning that says pixels are lost: a bad code, data that end before the picture does ("premature end"),
or are left over after it ("extraneous bytes"), restart markers and progressive scans out of order. No error is what
leaves every pixel right: bytes after the picture's end, a bad colour profile, an unknown JFIF revision or Adobe colour
code, scan parameters that only progressive files use (some phones set them wrongly), zeros that pad a segment or the
end of the data.

Of damage planted in sequential files (9,000 places in radiographs and phantoms), every visible hole of 512 zeros (a
block of a disk) or more was found; of as many bytes cut out or of another file all but one in 400; of 64 zeros nine in
ten; of single wrong bits three in ten. Nothing can find the rest: what they leave reads as another picture. Progressive
files, rare among radiographs, hide one in eight holes of 512 zeros. A run of zeros alone is no sign of damage: flat
black may be coded so.
"""

import re

import numpy as np
import simplejpeg

# What libjpeg warns of while the pixels are right, and what silences it: one warning hides all that follow it.
_HARMLESS: tuple[tuple[str, bytes, bytes], ...] = (
    ("Warning: unknown JFIF revision", rb"JFIF\0", b"jfif\0"),
    ("Unknown Adobe color transform", rb"(\xff\xee..)Adobe", rb"\1adobe"),
    ("Corrupt JPEG data: bad ICC marker", rb"ICC_PROFILE\0", b"icc_profile\0"),
    # After the components and their tables: the coefficients 0 to 63 in full, as every sequential scan holds them.
    ("Invalid SOS parameters", rb"(\xff\xda..(?:\x01.{2}|\x03.{6}|\x04.{8}))...", b"\\1\x00\x3f\x00"),
)
_LEFT_OVER = re.compile(r"Corrupt JPEG data: (\d+) extraneous bytes before marker 0x([0-9a-f]{2})")
# Bytes that libjpeg reads ahead and does not count as left over.
_READ_AHEAD = 8
_RESTARTS = range(0xD0, 0xD8)
# What simplejpeg says of files that it cannot look into, whole or not: rare subsampling, 12 bits, no JPEG at all.
_UNKNOWN = ("Could not determine subsampling", "Unsupported JPEG data precision", "Unsupported color conversion")


def decode_grey(data: bytes, *, width: int, height: int) -> np.ndarray | None:
    """The grey picture, reduced to 1/2, 1/4 or 1/8 while it is decoded where that is the size asked for.

    Args:
        data: the whole file.
        width: in pixels, of the picture or of its reduction as Pillow's `draft` gives it.
        height: as `width`.

    Returns:
        uint8 [height, width]; None where Pillow is to decode it: it has a harmless fault, or is of a kind that
        simplejpeg cannot look into, whose damage stays unknown.

    Raises:
        OSError: with what libjpeg says, where the data are damaged.
    """
    try:
        return _decode(data, width=width, height=height)
    except ValueError as error:
        _refuse_harm(data, said=str(error))
    return None


def refuse_damaged(data: bytes) -> None:
    """Check a picture that something else decodes, such as one of four inks, or in a DICOM.

    Raises:
        OSError: as `decode_grey`.
    """
    # As small as it can be: its codes are all read, and hardly a pixel is made.
    decode_grey(data, width=1, height=1)


def _decode(data: bytes, *, width: int, height: int) -> np.ndarray:
    pixels: np.ndarray = simplejpeg.decode_jpeg(data, colorspace="GRAY", min_width=width, min_height=height)
    return pixels[..., 0]


def _refuse_harm(data: bytes, *, said: str) -> None:
    """Silence one harmless warning after the other, until none is left or one that is not harmless."""
    for _ in range(2 * len(_HARMLESS)):
        if any(reason in said for reason in _UNKNOWN):
            return
        silenced = _silence(data, said)
        if silenced is None:
            break
        data = silenced
        try:
            _decode(data, width=1, height=1)
            return
        except ValueError as error:
            said = str(error)
    raise OSError(f"damaged data, libjpeg says {said!r}")


def _silence(data: bytes, said: str) -> bytes | None:
    """The file without what caused this warning; None where that did harm."""
    for start, cause, instead in _HARMLESS:
        if said.startswith(start):
            return _replaced(cause, instead, data)
    left_over = _LEFT_OVER.match(said)
    if left_over is None or int(left_over[2], 16) in _RESTARTS:
        return None
    # Padding are zeros of which the decoder took none. Where there are more than it left over, it took some of them as
    # data: they are the end of a hole.
    ending = b"\xff" + bytes.fromhex(left_over[2])
    padding = rb"(?<!\0)(\0{0,%d})\0{%d}(?=%s)" % (_READ_AHEAD, int(left_over[1]), re.escape(ending))
    return _replaced(padding, rb"\1", data)


def _replaced(pattern: bytes, instead: bytes, data: bytes) -> bytes | None:
    replaced, times = re.subn(pattern, instead, data, flags=re.DOTALL)
    return replaced if times else None
