"""Resize a data set once, into shards: all cores, bounded memory, resumable after a kill at any moment.

`prepare` cuts the manifest's rows into shards. A worker decodes one shard at a time, image by image, into a temporary
file, which is renamed when complete; then a small record with its digest is renamed into place. A shard with a record
is done; whatever else a kill leaves is made again. Equal input gives equal bytes, interrupted or not.
"""

import contextlib
import dataclasses
import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import fsspec
import numpy as np
from filelock import FileLock, Timeout

from datamodules.files import replacing
from datamodules.images import PHANTOM, picture_size
from datamodules.manifest import Manifest, Remark, ledger_path
from datamodules.shard_writer import Job, fill_shards, npy_header, record_name, shard_name
from datamodules.shards import AGAIN, INDEX, SCHEMA, ShardStore, ids_digest, images_digest

# 128 MiB at 256 px: a kill loses at most so much work of each core, and MIMIC-CXR is 185 files. Small sets get
# smaller shards, enough to keep many cores busy; the number of cores does not enter, so digests are equal everywhere.
MOST_ROWS, FEWEST_ROWS, SHARDS = 2048, 64, 32
SHOWN = 5
MANIFEST = "manifest.parquet"


def prepare(
    manifest: Manifest,
    *,
    sizes: Sequence[int],
    out: str | Path,
    workers: int | None = None,
    rows_per_shard: int | None = None,
    unreadable: Literal["error", "drop"] = "error",
) -> Manifest:
    """Write `out`/manifest.parquet with its ledger and, for each size, `out`/<size>/ with shards and index.json.

    Args:
        manifest: each row has an image.
        sizes: sides in pixels; each file is read once for all of them.
        out: local folder; one that holds unfinished shards of the same rows is gone on with.
        workers: processes; by default the cores that were granted to this one.
        rows_per_shard: by default 64 to 2048, by the number of rows.
        unreadable: "error" finishes all other shards and then stops, "drop" takes such rows out of the manifest and
            into its ledger.

    Returns:
        The manifest as written: the rows that have a picture.

    Raises:
        ValueError: naming the images that cannot be read; or when `out` holds shards of other rows.
    """
    out, sizes = Path(out), sorted(set(sizes))
    if not sizes or sizes[0] < 8:
        raise ValueError(f"sizes are {sizes}; expected at least one, of at least 8 pixels")
    missing = manifest.frame.loc[manifest.frame["image"] == "", "image_id"]
    if len(missing):
        raise ValueError(
            f"{manifest.source}: image {missing.iloc[0]} has no file ({len(missing)} rows); prepare rows with images"
        )
    if rows_per_shard is None:
        rows_per_shard = min(max(-(-len(manifest) // SHARDS), FEWEST_ROWS), MOST_ROWS)
    out.mkdir(parents=True, exist_ok=True)
    with _alone(out):
        _check_plan(out, manifest, rows_per_shard)
        # Sizes that are there share the manifest: what could not be read then is tried again now.
        sizes = sorted({*sizes, *(int(folder.name) for folder in out.iterdir() if folder.name.isdigit())})
        jobs = _jobs(manifest, sizes=sizes, out=out, rows_per_shard=rows_per_shard)
        fill_shards(jobs, total=len(manifest), workers=workers)
        failures = _failures(out, sizes)
        if failures and unreadable == "error":
            shown = "\n  ".join(message for _, message in failures[:SHOWN])
            raise ValueError(
                f"{manifest.source}: {len(failures)} of {len(manifest)} images cannot be read:\n  {shown}\n"
                "mend them and run again (finished shards are kept), or leave them out: prepare --unreadable drop"
            )
        # All sizes share the manifest, so what one of them lacks is served by none.
        rows, shapes = [row for row, _ in failures], _shapes(manifest, unreadable={row for row, _ in failures})
        for size in sizes:
            _write_index(out, manifest, size=size, rows_per_shard=rows_per_shard, unreadable=rows, shapes=shapes)
        kept = _without(manifest, failures)
        kept.save(out / MANIFEST)
    return kept


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


@contextlib.contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Hold the folder for this process: stages of a chain or jobs of a sweep start at once and want the same images."""
    lock = FileLock(out / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"images: waiting for another process that is filling {out}", file=sys.stderr, flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _check_plan(out: Path, manifest: Manifest, rows_per_shard: int) -> None:
    # Sizes are not part of it: another one may be added later.
    digest = images_digest(manifest, size=0)
    plan = {"schema": SCHEMA, "rows": len(manifest), "rows_per_shard": rows_per_shard, "data_digest": digest}
    path = out / "plan.json"
    if path.is_file():
        found = json.loads(path.read_text())
        if found != plan:
            raise ValueError(
                f"{out} holds shards of other data: {found['rows']} rows, digest {found['data_digest'][:12]}, and now "
                f"there are {len(manifest)} rows, digest {digest[:12]}; name another folder, or remove it"
            )
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(plan, indent=1))


def _jobs(manifest: Manifest, *, sizes: Sequence[int], out: Path, rows_per_shard: int) -> list[Job]:
    references, ids = manifest.frame["image"].tolist(), manifest.frame["image_id"].tolist()
    for size in sizes:
        (out / str(size)).mkdir(exist_ok=True)
        for left_over in (out / str(size)).glob(".*.tmp"):
            left_over.unlink(missing_ok=True)
    jobs: list[Job] = []
    for number, start in enumerate(range(0, len(ids), rows_per_shard)):
        end = min(start + rows_per_shard, len(ids))
        folders = {s: str(out / str(s)) for s in sizes if not _done(out / str(s), number, rows=end - start, size=s)}
        for folder in folders.values():
            # From here to the new index the shards are not what the old one says: nobody may open them.
            (Path(folder) / INDEX).unlink(missing_ok=True)
        if folders:
            jobs.append(Job(number, references[start:end], ids[start:end], folders))
    return jobs


def _done(folder: Path, number: int, *, rows: int, size: int) -> bool:
    record, shard = folder / record_name(number), folder / shard_name(number)
    if not (record.is_file() and shard.is_file()):
        return False
    try:
        facts = json.loads(record.read_text())
    except json.JSONDecodeError:
        return False  # a power cut may leave an empty file
    # A shard with pictures that could not be read is tried again: they may have been mended.
    return not facts["unreadable"] and shard.stat().st_size == npy_header(rows, size)[1]


def _failures(out: Path, sizes: Sequence[int]) -> list[tuple[int, str]]:
    """Row and message of each picture that could not be read at one of the sizes, in order."""
    plan = json.loads((out / "plan.json").read_text())
    failures: dict[int, str] = {}
    for size in sizes:
        for number in range(-(-plan["rows"] // plan["rows_per_shard"])):
            record = json.loads((out / str(size) / record_name(number)).read_text())
            start = number * plan["rows_per_shard"]
            failures |= {start + row: message for row, _, message in record["unreadable"]}
    return sorted(failures.items())


def _shapes(manifest: Manifest, *, unreadable: set[int]) -> dict[str, tuple[int, int]]:
    """Width and height of the pictures that have boxes, by row: masks need them where the pictures are not at hand."""
    frame = manifest.frame
    boxed = np.flatnonzero((frame["boxes"] != "") & ~frame["image"].str.startswith(PHANTOM))
    return {str(row): picture_size(str(frame["image"].iat[row])) for row in boxed.tolist() if row not in unreadable}


def _write_index(
    out: Path,
    manifest: Manifest,
    *,
    size: int,
    rows_per_shard: int,
    unreadable: list[int],
    shapes: dict[str, tuple[int, int]],
) -> None:
    records = [
        json.loads((out / str(size) / record_name(number)).read_text())
        for number in range(-(-len(manifest) // rows_per_shard))
    ]
    index = {
        "schema": SCHEMA,
        "size": size,
        "rows": len(manifest),
        "rows_per_shard": rows_per_shard,
        "data_digest": images_digest(manifest, size=size),
        "resize": "pad to a square, Pillow Lanczos with antialias; JPEG in draft mode of at least twice the size",
        "unreadable": unreadable,
        "served_ids": ids_digest(manifest.frame["image_id"].drop(manifest.frame.index[unreadable])),
        "shapes": shapes,
        "shards": [{"file": record["file"], "sha256": record["sha256"]} for record in records],
    }
    with replacing(out / str(size) / INDEX) as temporary:
        temporary.write_text(json.dumps(index, indent=1))


def _without(manifest: Manifest, failures: list[tuple[int, str]]) -> Manifest:
    if not failures:
        return manifest
    rows = [row for row, _ in failures]
    remark = Remark(
        "the picture cannot be read",
        tuple(manifest.frame["image_id"].iloc[rows]),
        level="error",
        mend="fetch these pictures again and run prepare again",
    )
    frame = manifest.frame.drop(index=manifest.frame.index[rows]).reset_index(drop=True)
    return dataclasses.replace(manifest, frame=frame, drops=(*manifest.drops, remark))
