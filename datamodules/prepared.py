"""Opening what `datamodules.prepare` wrote: its manifest, and the shard row of each row of the manifest."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import fsspec
import numpy as np

from datamodules.files import replacing
from datamodules.manifest import ledger_path
from datamodules.shards import AGAIN, INDEX, ShardStore, ids_digest

MANIFEST = "manifest.parquet"


def fetch_manifest(folder: str, *, cache: Path) -> Path:
    """Where the manifest of prepared shards is; of an fsspec URL it is copied into `cache` first.

    Raises:
        FileNotFoundError: when the folder has none.
    """
    if "://" not in folder:
        path = Path(folder) / MANIFEST
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} does not exist; finish it first: python -m datamodules prepare --root <root> --out {folder}"
            )
        return path
    local = cache / f"prepared-{hashlib.sha256(folder.encode()).hexdigest()[:12]}" / MANIFEST
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


def positions(store: ShardStore, *, image_ids: Sequence[str]) -> np.ndarray:
    """Int64 [N]: the store's row of each row of the manifest beside it, whose image ids are `image_ids`.

    Raises:
        ValueError: when the shards of this size lack other pictures than the manifest: a run was stopped before its
            end, or the folder was copied in part.
    """
    found = np.setdiff1d(np.arange(store.rows), np.fromiter(store.unreadable, dtype=np.int64))
    if ids_digest(image_ids) != store.served_ids:
        raise ValueError(
            f"{store.folder}: the manifest's {len(image_ids)} rows are not the {len(found)} of these shards; "
            f"{AGAIN}, or copy the whole folder again"
        )
    return found


def pixels_of(
    image_ids: Sequence[str], *, store: ShardStore | None, rows: np.ndarray, served: Sequence[str]
) -> np.ndarray | None:
    """Uint64 [n]: `ShardStore.pixels` of some of the images `served`, `rows` of the store; None without a store."""
    if store is None:
        return None
    row_of = dict(zip(served, rows.tolist(), strict=True))
    return store.pixels()[[row_of[image_id] for image_id in image_ids]]


def prepared_sizes(folder: str) -> list[int]:
    """The sizes, in ascending order, of which there are finished shards in a folder or at an fsspec URL."""
    system, path = fsspec.core.url_to_fs(folder)
    names = (entry.rstrip("/").rpartition("/")[2] for entry in system.ls(path, detail=False))
    return sorted(int(name) for name in names if name.isdigit() and system.exists(f"{path}/{name}/{INDEX}"))
