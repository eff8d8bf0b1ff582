"""Small pictures of one grey level each, and the manifest or the table of them."""

from pathlib import Path

import pandas as pd
from PIL import Image

from datamodules.manifest import Manifest, make_manifest
from datamodules.shards import file_digest


def write_pictures(folder: Path, count: int, *, side: int = 16) -> list[Path]:
    """Pictures 0.png, 1.png, ... of grey level 10 × number, modulo 250."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{n}.png" for n in range(count)]
    for n, path in enumerate(paths):
        Image.new("L", (side, side), 10 * n % 250).save(path)
    return paths


def manifest_of(paths: list) -> Manifest:
    """One patient an image, all in train."""
    return make_manifest(
        [{"image": str(p), "image_id": f"i{n}", "patient_id": f"p{n}", "split": "train"} for n, p in enumerate(paths)],
        source="x",
    )


def write_table(folder: Path, columns: dict[str, list[str]], *, side: int) -> Path:
    """A folder of studies.csv and its pictures r0.png, r1.png, ... of grey level 10 × number, one patient each.

    Args:
        folder: a new one.
        columns: further columns of the table, all of as many values as there shall be rows.
        side: of the pictures.
    """
    folder.mkdir()
    count = len(next(iter(columns.values())))
    for n in range(count):
        Image.new("L", (side, side), 10 * n).save(folder / f"r{n}.png")
    names = {"image": "r{}.png", "report": "report {}", "patient": "p{}"}
    table = {column: [name.format(n) for n in range(count)] for column, name in names.items()}
    pd.DataFrame(table | columns).to_csv(folder / "studies.csv", index=False)
    return folder


def digests(out: Path) -> dict[str, str]:
    """Sha256 of each file below a folder, but for the lock."""
    return {
        str(p.relative_to(out)): file_digest(p) for p in sorted(out.rglob("*")) if p.is_file() and p.name != ".lock"
    }
