"""Small pictures of one grey level each, and the manifest of them."""

from pathlib import Path

from PIL import Image

from datamodules.manifest import Manifest, make_manifest


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
