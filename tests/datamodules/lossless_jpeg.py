"""A lossless JPEG (ITU T.81 annex H, first-order prediction), the kind in DICOM that no encoder at hand writes."""

import struct

import numpy as np

BITS_OF_CODE = 5  # one length for the 17 categories


def lossless_jpeg(values: np.ndarray, *, bits: int) -> bytes:
    """Encode [H,W] of `bits`-bit values: each pixel less its left neighbour, a row's first less the one above."""
    height, width = values.shape
    stored = values.astype(np.int64)
    predicted = np.empty_like(stored)
    predicted[:, 1:] = stored[:, :-1]
    predicted[1:, 0] = stored[:-1, 0]
    predicted[0, 0] = 1 << (bits - 1)
    differences = (stored - predicted + 32768) % 65536 - 32768
    stream = "".join(_coded(int(difference)) for difference in differences.ravel())
    stream += "1" * (-len(stream) % 8)
    scan = int(stream, 2).to_bytes(len(stream) // 8, "big").replace(b"\xff", b"\xff\x00")
    frame = struct.pack(">BHHB", bits, height, width, 1) + bytes([1, 0x11, 0])
    counts = bytes(17 if length == BITS_OF_CODE else 0 for length in range(1, 17))
    table = b"\x00" + counts + bytes(range(17))
    start = bytes([1, 1, 0x00, 1, 0, 0])
    segments = [(0xC3, frame), (0xC4, table), (0xDA, start)]
    body = b"".join(struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data for marker, data in segments)
    return b"\xff\xd8" + body + scan + b"\xff\xd9"


def _coded(difference: int) -> str:
    """The category's code, then the difference's own bits."""
    size = abs(difference).bit_length()
    code = format(size, f"0{BITS_OF_CODE}b")
    if size in (0, 16):
        return code
    return code + format(difference if difference > 0 else difference + (1 << size) - 1, f"0{size}b")
