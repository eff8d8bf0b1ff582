"""Writing a radiograph as a DICOM of the kinds in VinDr-CXR: 12 or 16 bits, either polarity, with or without window."""

import zlib
from pathlib import Path

import numpy as np

UID_ROOT = "1.2.826.0.1.3680043.10.543"  # of phantoms: digits after it come from the file's name alone


def save_dicom(
    pixels: np.ndarray, path: Path, *, bits: int, inverted: bool = False, window: bool = True, compressed: bool = False
) -> None:
    """Write uint8 [H,W] so that equal arguments give equal bytes.

    Args:
        pixels: bright = dense.
        path: of the file; its folder is made.
        bits: 8 to 16 stored, in 16 allocated from 9 on; grey level 255 becomes the largest value.
        inverted: MONOCHROME1, with the stored values turned over: the picture is the same.
        window: give the window that shows the whole range; without it a viewer stretches what values there are.
        compressed: JPEG 2000 lossless, which needs pylibjpeg-openjpeg.
    """
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import UID, ComputedRadiographyImageStorage, ExplicitVRLittleEndian, JPEG2000Lossless

    largest = 2**bits - 1
    stored = np.rint(pixels.astype(np.float64) * (largest / 255))
    stored = (largest - stored if inverted else stored).astype("<u2" if bits > 8 else np.uint8)
    uid = UID(f"{UID_ROOT}.{zlib.crc32(path.name.encode())}")
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
    meta.MediaStorageSOPInstanceUID = uid
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID = ComputedRadiographyImageStorage
    data.SOPInstanceUID = uid
    data.Modality = "CR"
    data.Rows, data.Columns = stored.shape
    data.SamplesPerPixel = 1
    data.PhotometricInterpretation = "MONOCHROME1" if inverted else "MONOCHROME2"
    data.BitsAllocated = 16 if bits > 8 else 8
    data.BitsStored = bits
    data.HighBit = bits - 1
    data.PixelRepresentation = 0
    if window:
        # The linear window that maps 0 to black and the largest value to white, PS3.3 C.11.2.1.2.1.
        data.WindowCenter = 2 ** (bits - 1)
        data.WindowWidth = 2**bits
    data.PixelData = stored.tobytes()
    data["PixelData"].VR = "OW"
    if compressed:
        data.compress(JPEG2000Lossless, generate_instance_uid=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)
