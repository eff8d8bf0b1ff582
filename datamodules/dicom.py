"""DICOM radiographs as grey pixels, shown as the file says: modality LUT, VOI window, photometric interpretation.

The grey levels are those a viewer shows at first (DICOM PS3.3 C.11): the modality LUT or rescale, then the VOI LUT,
else the first window (linear, linear exact or sigmoid), then MONOCHROME1 is inverted, so that bright is dense. A file
without LUT and window is stretched from its smallest to its largest value. No percentiles are clipped: where the file
has a window, its maker chose what is cut off; where it has none, clipping would cut off devices and markers by a rule
that depends on how large the collimated border is. Presentation LUT Shape is not applied: for MONOCHROME1 it says
INVERSE, which is the same inversion, not a second one. Padding (Pixel Padding Value) is black and counts as no value.

Damage in the middle of the pixels is an error as far as a compression lets it be seen: JPEG of 8 bits as in
`datamodules.jpeg`, RLE by the number of pixels that come out, lossless JPEG mostly, since its decoder is strict. Raw,
deflated, JPEG-LS, JPEG 2000 and JPEG of 12 bits nearly always decode on without a word, and nothing in the file tells:
against that only the checksums help that their publisher gives.
"""

import threading
import warnings
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from datamodules.images import scale_to_bytes
from datamodules.jpeg import refuse_damaged

if TYPE_CHECKING:
    from pydicom import Dataset
    from pydicom.uid import UID

PYDICOM = "pip install -e '.[dicom]'"
# By the start of the transfer syntax's UID: what decodes it, besides pydicom itself (which does raw, deflated and RLE).
DECODERS: dict[str, str] = {
    "1.2.840.10008.1.2.4.9": "pylibjpeg pylibjpeg-openjpeg",  # JPEG 2000, .90 to .93
    "1.2.840.10008.1.2.4.20": "pylibjpeg pylibjpeg-openjpeg>=2",  # high-throughput JPEG 2000, .201 to .203
    "1.2.840.10008.1.2.4.": "pylibjpeg pylibjpeg-libjpeg",  # JPEG baseline, extended, lossless (.70), JPEG-LS (.80)
}
SIZE = ("Rows", "Columns")
# The whole numbers that are looked at. pydicom parses an element when it is asked for, and not always into a number.
NUMBERS = (*SIZE, "NumberOfFrames", "SamplesPerPixel", "BitsAllocated", "PixelPaddingValue", "PixelPaddingRangeLimit")
FETCH = "fetch it again, or take its row out of the table"
# `warnings` has one list of filters for all threads.
_FILTERS = threading.Lock()


def read_dicom(file: BinaryIO, *, reference: str) -> np.ndarray:
    """One radiograph as its file says it is to be shown: uint8 [H,W], bright = dense.

    Args:
        file: at the start of the DICOM.
        reference: its name, for messages.

    Raises:
        ImportError: when pydicom is not installed.
        ValueError: naming the file, what was found and the mend: when it is no DICOM, is cut off or damaged, has no
            pixels, several frames or colour, needs a decoder that is not installed, or shows nothing.
    """
    data = _read(file, reference)
    _refuse_what_is_no_radiograph(data, reference)
    _require_decoder(data, reference)
    try:
        stored = _stored(data)
    # Decoders raise what they like; whatever it is, this file has no picture.
    except Exception as error:
        raise ValueError(f"{reference}: its pixels cannot be decoded ({error}); {FETCH}") from error
    if stored.ndim != 2:
        raise ValueError(f"{reference}: expected pixels [H,W] and found {list(stored.shape)}; {FETCH}")

    # Everything after this acts on each value alone, so it is done once a value, not once a pixel: [V] for V ≤ 65,536.
    low = int(stored.min())
    positions = stored.astype(np.int32) - low
    present = np.flatnonzero(np.bincount(positions.ravel()))
    values = present + low
    padding = _padding(data, values)
    if padding.all():
        raise ValueError(f"{reference}: every pixel is padding, there is nothing in it; take its row out of the table")
    shown = np.zeros(len(values), np.uint8)
    shown[~padding] = _show(values[~padding], data, reference)
    table = np.zeros(int(present[-1]) + 1, np.uint8)
    table[present] = shown
    picture: np.ndarray = table[positions]
    if picture.min() == picture.max():
        raise ValueError(
            f"{reference}: every pixel is shown as {int(picture.flat[0])}, values {low} to {int(values[-1])} in the "
            f"window {_window(data)}; take its row out of the table"
        )
    return picture


def dicom_size(file: BinaryIO, *, reference: str) -> tuple[int, int]:
    """Width and height in pixels, from the header alone.

    Raises:
        ImportError: when pydicom is not installed.
        ValueError: naming the file, when it is no DICOM or its header has no size.
    """
    data = _read(file, reference, header=True)
    width, height = data.get("Columns"), data.get("Rows")
    if not width or not height:
        raise ValueError(f"{reference}: its header gives no Rows and Columns, it is cut off or no picture; {FETCH}")
    return int(width), int(height)


def require_pydicom() -> None:
    """Check that DICOM can be read at all.

    Raises:
        ImportError: when pydicom is not installed; says how to install it.
    """
    try:
        import pydicom  # noqa: F401
    except ImportError as error:
        raise ImportError(f"reading DICOM files needs pydicom, which is not installed: {PYDICOM}") from error


def is_decodable(syntax: "UID") -> bool | None:
    """Whether an installed package decodes a transfer syntax; None where it is not one of pictures."""
    from pydicom.pixels import get_decoder

    try:
        return bool(get_decoder(syntax).is_available)
    except NotImplementedError:
        return None


def _read(file: BinaryIO, reference: str, *, header: bool = False) -> "Dataset":
    require_pydicom()
    import pydicom

    try:
        data = pydicom.dcmread(file, stop_before_pixels=header, specific_tags=list(SIZE) if header else None)
        for name in SIZE if header else NUMBERS:
            int(data.get(name) or 0)
        _window(data)
        return data
    except Exception as error:
        raise ValueError(f"{reference}: cannot be read as a DICOM ({error}); {FETCH}") from error


def _refuse_what_is_no_radiograph(data: "Dataset", reference: str) -> None:
    if "PixelData" not in data:
        raise ValueError(f"{reference}: has no pixel data, or was cut off before them; {FETCH}")
    frames = int(data.get("NumberOfFrames") or 1)
    if frames != 1:
        raise ValueError(f"{reference}: has {frames} frames, expected one radiograph; take its row out of the table")
    kind, samples = str(data.get("PhotometricInterpretation", "")), int(data.get("SamplesPerPixel") or 1)
    if samples != 1 or kind not in ("MONOCHROME1", "MONOCHROME2"):
        raise ValueError(
            f"{reference}: is {kind or 'of no photometric interpretation'} with {samples} samples a pixel, expected "
            "MONOCHROME1 or MONOCHROME2; convert it to grey, or take its row out of the table"
        )
    bits = int(data.get("BitsAllocated") or 0)
    if bits not in (8, 16):
        raise ValueError(f"{reference}: has {bits} bits a pixel, expected 8 or 16; convert it, or take its row out")


def _require_decoder(data: "Dataset", reference: str) -> None:
    syntax = getattr(data.file_meta, "TransferSyntaxUID", None)
    if syntax is None:
        raise ValueError(f"{reference}: names no transfer syntax, so its pixels cannot be decoded; {FETCH}")
    ready = is_decodable(syntax)
    if ready is None:
        raise ValueError(
            f"{reference}: its transfer syntax {syntax.name} is not one of pictures; convert it to a raw DICOM"
        )
    if not ready:
        packages = next((p for start, p in DECODERS.items() if syntax.startswith(start)), "pydicom")
        raise ValueError(
            f"{reference}: is compressed as {syntax.name}, for which no decoder is installed: {PYDICOM}, or "
            f"pip install {packages}"
        )


def _stored(data: "Dataset") -> np.ndarray:
    """The stored values [H,W]; raises whatever a decoder does, also where it would only warn of damage."""
    from pydicom.encaps import generate_frames
    from pydicom.uid import JPEGBaseline8Bit, JPEGExtended12Bit, RLELossless

    syntax = data.file_meta.TransferSyntaxUID
    if syntax in (JPEGBaseline8Bit, JPEGExtended12Bit):
        refuse_damaged(next(generate_frames(data.PixelData, number_of_frames=1)))
    if syntax != RLELossless:
        return data.pixel_array
    # pydicom warns of pixels too many. One more pads the data to an even length.
    wanted = int(data.Rows) * int(data.Columns)
    with _FILTERS, warnings.catch_warnings():
        warnings.filterwarnings("error", rf"The decoded RLE segment .* - (?!{wanted + 1} vs\.)")
        return data.pixel_array


def _padding(data: "Dataset", values: np.ndarray) -> np.ndarray:
    """Which stored values [V] are padding."""
    first = data.get("PixelPaddingValue")
    if first is None:
        return np.zeros(len(values), bool)
    last = data.get("PixelPaddingRangeLimit")
    ends = sorted((int(first), int(first if last is None else last)))
    return (values >= ends[0]) & (values <= ends[1])


def _show(stored: np.ndarray, data: "Dataset", reference: str) -> np.ndarray:
    """Grey levels uint8 [V] of the stored values [V]."""
    from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut

    try:
        values = apply_modality_lut(stored, data)
        ends: np.ndarray | None = None
        if data.get("VOILUTSequence"):
            item = data.VOILUTSequence[0]
            entries, first, _ = item.LUTDescriptor
            # The scale is that of the entries, whatever depth is claimed; 8 would fold more than 256 entries.
            item.LUTDescriptor = [entries, first, 16]
            ends = apply_voi_lut(np.arange(first, first + (entries or 2**16)), data)
            ends = np.array([ends.min(), ends.max()])
            # A LUT is looked up by whole numbers, and a rescale gives floats.
            values = apply_voi_lut(np.rint(values).astype(np.int64), data)
        elif (window := _window(data)) is not None:
            # Far on either side of the window: what it shows as black and as white.
            ends = apply_voi_lut(np.array([window[0] - 50 * window[1], window[0] + 50 * window[1]]), data)
            values = apply_voi_lut(values, data)
    except Exception as error:
        raise ValueError(
            f"{reference}: its LUT or window {_window(data)} cannot be applied ({error}); {FETCH}"
        ) from error
    if ends is None:
        grey = scale_to_bytes(np.asarray(values, np.float32), reference=reference)
    else:
        span = (float(ends[1]) - float(ends[0])) or 1.0
        grey = np.clip(np.rint((values - float(ends[0])) * (255.0 / span)), 0, 255).astype(np.uint8)
    return 255 - grey if data.PhotometricInterpretation == "MONOCHROME1" else grey


def _window(data: "Dataset") -> tuple[float, float] | None:
    """The first window's centre and width; None where there is none."""

    def first(value: Any) -> float | None:
        if value is None or value == "":
            return None
        return float(value[0]) if isinstance(value, (list, tuple)) or hasattr(value, "append") else float(value)

    centre, width = first(data.get("WindowCenter")), first(data.get("WindowWidth"))
    return None if centre is None or width is None else (centre, width)
