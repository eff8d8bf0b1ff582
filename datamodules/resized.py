"""The images of a manifest that are resized when they are first needed, in a folder of the cache of their own."""

import hashlib
from pathlib import Path

from datamodules.manifest import Manifest, common_folder
from datamodules.prepare import prepare, up_to_date
from datamodules.shards import INDEX, ShardStore, images_digest


def key_here(manifest: Manifest, digest: str) -> str:
    """Sha256 of a digest and of where the data set lies: moved, it keeps its digests but not its paths."""
    return hashlib.sha256(f"{digest} {common_folder(manifest.frame['image'])}".encode()).hexdigest()


def resized_folder(manifest: Manifest, *, size: int, cache_dir: Path) -> Path:
    """Where the images of that size (side in pixels) are, or will be."""
    return cache_dir / f"images-{key_here(manifest, images_digest(manifest, size=size))[:12]}"


def resize(manifest: Manifest, *, size: int, folder: Path) -> None:
    """Resize what is not resized yet, or has been replaced on disk since.

    Raises:
        ValueError: as `datamodules.prepare.prepare`.
    """
    if not up_to_date(manifest, size=size, out=folder):
        prepare(manifest, sizes=[size], out=folder)


def open_resized(manifest: Manifest, *, size: int, folder: Path) -> ShardStore:
    """The images, resized first where there are none; that none was replaced is not looked at again."""
    if not (folder / str(size) / INDEX).is_file():
        resize(manifest, size=size, folder=folder)
    return ShardStore.open(folder, size=size)
