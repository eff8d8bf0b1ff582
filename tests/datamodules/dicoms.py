"""Small DICOMs for tests: written, changed against the standard, compressed by hand, and read."""

import warnings
from pathlib import Path

import numpy as np
import pydicom
from pydicom.encaps import encapsulate

from datamodules.dicom import read_dicom
from datamodules.phantom.disk.dicom_file import save_dicom


def saved(path: Path, pixels: np.ndarray, *, change=None, **options) -> Path:
    """A DICOM at `path`, its data set changed by `change(data)` if there is such."""
    save_dicom(pixels, path, **{"bits": 12} | options)
    if change:
        data = pydicom.dcmread(path)
        change(data)
        with warnings.catch_warnings():
            # Some of what the tests plant is against the standard.
            warnings.simplefilter("ignore")
            data.save_as(path)
    return path


def with_frame(path: Path, frame: bytes, syntax: "pydicom.uid.UID") -> Path:
    """The DICOM at `path` with this frame for its pixels."""
    data = pydicom.dcmread(path)
    data.PixelData = encapsulate([frame])
    data["PixelData"].is_undefined_length = True
    data.file_meta.TransferSyntaxUID = syntax
    data.save_as(path)
    return path


def shown(path: Path) -> np.ndarray:
    with path.open("rb") as file:
        return read_dicom(file, reference=str(path))


def stretched(values: np.ndarray) -> np.ndarray:
    values = values.astype(np.float64)
    return np.rint((values - values.min()) * (255 / (values.max() - values.min()))).astype(np.uint8)
