"""Opening what `datamodules.prepare` wrote: its manifest, and the shard row of each row of the manifest."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import fsspec
import numpy as np

from datamodules.files import replacing
from datamodules.manifest import ledger_path
from datamodules.shards import AGAIN, INDEX, ShardStore, file_digest, ids_digest

MANIFEST = "manifest.parquet"


def manifest_path(folder: str, *, cache: Path) -> Path:
    """Where `fetch_manifest` has the manifest of prepared shards."""
    if "://" not in folder:
        return Path(folder) / MANIFEST
    return cache / f"prepared-{hashlib.sha256(folder.encode()).hexdigest()[:12]}" / MANIFEST


def fetch_manifest(folder: str, *, cache: Path) -> Path:
    """Where the manifest of prepared shards is; of an fsspec URL it is copied into `cache` first.

    Raises:
        FileNotFoundError: when the folder has none.
    """
    local = manifest_path(folder, cache=cache)
    if "://" not in folder:
        if not local.is_file():
            raise FileNotFoundError(
                f"{local} does not exist; finish it first: python -m datamodules prepare --root <root> --out {folder}"
            )
        return local
    local.parent.mkdir(parents=True, exist_ok=True)
    # Always fetched: it is small, and what is at a URL may have changed.
    for target in (ledger_path(local), local):
        url = f"{folder.rstrip('/')}/{target.name}"
        try:
            with replacing(target) as temporary, fsspec.open(url, "rb") as remote:
                temporary.write_bytes(remote.read())
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{url} does not exist; copy the whole folder that prepare wrote") from error
    return local


def positions(store: ShardStore, *, manifest: Path, image_ids: Sequence[str]) -> np.ndarray:
    """Int64 [N]: the store's row of each row of the manifest beside it, whose image ids are `image_ids`.

    Raises:
        ValueError: when the shards of this size lack other pictures than the manifest, or their index was written for
            another one: a run was stopped before its end, the folder was copied in part, or the manifest was changed.
    """
    found = np.setdiff1d(np.arange(store.rows), np.fromiter(store.unreadable, dtype=np.int64))
    if ids_digest(image_ids) != store.served_ids:
        raise ValueError(
            f"{store.folder}: the manifest's {len(image_ids)} rows are not the {len(found)} of these shards; "
            f"{AGAIN}, or copy the whole folder again"
        )
    if file_digest(manifest) != store.manifest:
        raise ValueError(
            f"{manifest}: is not the manifest that these shards were finished with; {AGAIN}, which takes what the data "
            "set says now and keeps the shards, or copy the whole folder again"
        )
    return found


def prepared_sizes(folder: str) -> list[int]:
    """The sizes, in ascending order, of which there are finished shards in a folder or at an fsspec URL.

    Raises:
        FileNotFoundError: when there is no such folder.
    """
    system, path = fsspec.core.url_to_fs(folder)
    if not system.isdir(path):
        raise FileNotFoundError(
            f"{folder} does not exist; name the folder that was given to prepare as --out, or a copy"
        )
    names = (entry.rstrip("/").rpartition("/")[2] for entry in system.ls(path, detail=False))
    return sorted(int(name) for name in names if name.isdigit() and system.exists(f"{path}/{name}/{INDEX}"))
