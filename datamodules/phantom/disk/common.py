"""What the writers share: drawing with a progress bar, and saving so that equal runs give equal bytes."""

import gzip
import io
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from datamodules.layouts.phantom import split_of
from datamodules.manifest import Box
from datamodules.phantom.render import boxes, render
from datamodules.phantom.report import report, study_labels
from datamodules.phantom.study import Study, study
from datamodules.progress import bar
from datamodules.reports.labels import FINDINGS


@dataclass(frozen=True)
class Phantom:
    """One phantom study and what is written of it.

    Attributes:
        study: what is drawn.
        pixels: uint8 [size,size], bright = dense.
        report: the whole text, "FINDINGS: ..." and "IMPRESSION: ...", sometimes with other sections before them.
        labels: finding → 1, 0 or -1.
        boxes: where each finding is, in fractions.
        split: "train", "validate" or "test", by patient.
    """

    study: Study
    pixels: np.ndarray
    report: str
    labels: dict[str, float]
    boxes: list[Box]
    split: str

    @property
    def patient(self) -> int:
        """Number of the patient; studies 2k and 2k+1 are patient k."""
        return self.study.index // 2

    def positive(self) -> list[str]:
        """The findings that are present, in the order of FINDINGS."""
        return [finding for finding in FINDINGS if self.labels[finding] == 1]


def phantoms(*, studies: int, seed: int, size: int) -> Iterator[Phantom]:
    """The phantoms 0 .. `studies` - 1, drawn one after the other under a progress bar on standard error."""
    for index in bar(iterable=range(studies), desc="phantoms", unit="study", disable=studies < 50):
        one = study(seed, index)
        yield Phantom(
            study=one,
            pixels=render(one, size=size),
            report=report(one),
            labels=dict(zip(FINDINGS, study_labels(one).tolist(), strict=True)),
            boxes=boxes(one),
            split=split_of(one.patient_id),
        )


def quirk(one: Phantom, name: str, *, share: float) -> bool:
    """Whether this study shows a quirk of its data set: a function of (seed, index, name) alone, true for `share`."""
    # Not hash(), which differs from process to process.
    code = zlib.crc32(name.encode())
    return bool(np.random.default_rng([one.study.seed, one.study.index, code]).random() < share)


def lateral(pixels: np.ndarray) -> np.ndarray:
    """A stand-in for a lateral view, uint8 of the same shape: the phantom has no profile, so the frontal is narrowed.

    It only has to be another picture of the same study; nothing is trained on it.
    """
    side = pixels.shape[0]
    narrow = Image.fromarray(pixels).resize((max(side * 3 // 5, 1), side), Image.Resampling.BICUBIC)
    picture = Image.new("L", (side, side), 0)
    picture.paste(narrow, ((side - narrow.width) // 2, 0))
    return np.array(picture)


def save_picture(pixels: np.ndarray, path: Path) -> None:
    """Save uint8 or uint16 [H,W] in the format of the suffix, JPEG at quality 95; makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    options: dict[str, Any] = {"quality": 95} if path.suffix.lower() in (".jpg", ".jpeg") else {}
    Image.fromarray(pixels).save(path, **options)


def save_csv(table: pd.DataFrame, path: Path) -> None:
    """Save a table as CSV, gzipped if the name ends in .gz; equal tables give equal bytes."""
    text = table.to_csv(index=False, lineterminator="\n").encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzipped(text) if path.name.endswith(".gz") else text)


def gzipped(data: bytes) -> bytes:
    """Gzip without the time of writing."""
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0) as file:
        file.write(data)
    return buffer.getvalue()
