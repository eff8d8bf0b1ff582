"""Phantoms as a table of one's own: studies.csv (gzipped, or Parquet), images/<study>.png, and a contact sheet."""

import math
from pathlib import Path

import numpy as np
import pandas as pd

from datamodules.manifest import Manifest, make_manifest
from datamodules.phantom.disk.common import Phantom, phantoms, save_csv, save_picture
from datamodules.reports.labels import FINDINGS

COLUMNS = ("image", "patient", "view", "split", "sex", "age", "report", *FINDINGS)
SHEET = 64  # pictures on the contact sheet


def write(out: Path, *, studies: int, seed: int, size: int, parquet: bool = False, gz: bool = False) -> Manifest:
    """Write the table, its pictures and contact_sheet.png.

    Args:
        out: an empty folder.
        studies: how many; studies 2k and 2k+1 are one patient.
        seed: of the phantoms.
        size: side of the pictures.
        parquet: studies.parquet instead of studies.csv.
        gz: studies.csv.gz instead of studies.csv.

    Returns:
        What `read` must give by default: whole reports, an image id made of the picture's path.

    Raises:
        ValueError: when both Parquet and gzip are asked for.
    """
    if parquet and gz:
        raise ValueError("parquet and gz exclude each other: Parquet is compressed already")
    rows: list[dict] = []
    entries: list[dict] = []
    shown: list[np.ndarray] = []
    for one in phantoms(studies=studies, seed=seed, size=size):
        name = one.study.study_id
        save_picture(one.pixels, out / "images" / f"{name}.png")
        if len(shown) < SHEET:
            shown.append(one.pixels)
        entries.append(_entry(one))
        row = {key: value for key, value in entries[-1].items() if key not in ("image", "patient")}
        row |= {"image": str(out / "images" / f"{name}.png"), "image_id": f"images_{name}"}
        rows.append(row | {"patient_id": one.study.patient_id, "report_source": "column report"})
    table = pd.DataFrame(entries, columns=list(COLUMNS))
    if parquet:
        table.to_parquet(out / "studies.parquet", index=False)
    else:
        save_csv(table, out / ("studies.csv.gz" if gz else "studies.csv"))
    save_picture(_sheet(shown), out / "contact_sheet.png")
    return make_manifest(rows, source="table")


def _entry(one: Phantom) -> dict:
    study = one.study
    return {
        "image": f"images/{study.study_id}.png",
        "patient": study.patient_id,
        "view": study.view,
        "split": one.split,
        "sex": study.sex,
        "age": float(study.age),
        "report": one.report,
        **one.labels,
    }


def _sheet(images: list[np.ndarray]) -> np.ndarray:
    """All pictures in one, row by row in a square."""
    columns = math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    cells = images + [np.zeros_like(images[0])] * (rows * columns - len(images))
    return np.concatenate([np.concatenate(cells[r * columns : (r + 1) * columns], axis=1) for r in range(rows)])
