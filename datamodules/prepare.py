"""Resize a data set once, into shards: all cores, bounded memory, resumable after a kill at any moment.

`prepare` cuts the manifest's rows into shards. A worker decodes one shard at a time, image by image, into a temporary
file, which is renamed when complete; then a small record with its digests is renamed into place. A shard with a record
of the pictures that are there now is done; whatever else a kill leaves is made again. New shards wait in a folder of
their own until all are there: a run that fails leaves what was finished before as it was. Equal input gives equal
bytes, interrupted or not. `datamodules.prepared` opens what was written.
"""

import contextlib
import dataclasses
import json
import multiprocessing
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from filelock import FileLock, Timeout

from datamodules.files import replacing
from datamodules.images import PHANTOM, picture_size
from datamodules.manifest import Manifest, Remark
from datamodules.prepared import MANIFEST
from datamodules.shard_writer import Job, fill_shards, npy_header, record_name, shard_name
from datamodules.shards import INDEX, SCHEMA, file_digest, ids_digest, images_digest
from datamodules.stamps import Stamp, stamps

# 128 MiB at 256 px: a kill loses at most so much work of each core, and MIMIC-CXR is 185 files. Small sets get
# smaller shards, enough to keep many cores busy; the number of cores does not enter, so digests are equal everywhere.
MOST_ROWS, FEWEST_ROWS, SHARDS = 2048, 64, 32
SHOWN = 5
PLAN = "plan.json"  # the first file, there before any shard
NEW = ".new"  # where shards wait, beside those that they are to replace


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
        out: local folder, new or empty; or one that holds shards of the same rows, which is gone on with. Shards whose
            pictures on disk have another size or time than when they were read are made again.
        workers: processes; by default the cores that were granted to this one.
        rows_per_shard: by default 64 to 2048, by the number of rows, or what `out` has.
        unreadable: "error" finishes all other shards and then stops, "drop" takes such rows out of the manifest and
            into its ledger.

    Returns:
        The manifest as written: the rows that have a picture.

    Raises:
        ValueError: naming the images that cannot be read; or when `out` holds shards of other rows, or anything else.
    """
    out, sizes = Path(out), sorted(set(sizes))
    if not sizes or sizes[0] < 8:
        raise ValueError(f"sizes are {sizes}; expected at least one, of at least 8 pixels")
    missing = manifest.frame.loc[manifest.frame["image"] == "", "image_id"]
    if len(missing):
        raise ValueError(
            f"{manifest.source}: image {missing.iloc[0]} has no file ({len(missing)} rows); prepare rows with images"
        )
    out.mkdir(parents=True, exist_ok=True)
    with _alone(out):
        plan = _plan(out, manifest, rows_per_shard)
        # Sizes that are there share the manifest: what could not be read then is tried again now.
        sizes = sorted({*sizes, *(int(folder.name) for folder in out.iterdir() if folder.name.isdigit())})
        folders = {size: out / str(size) for size in sizes}
        parts = _parts(manifest, plan["rows_per_shard"])
        fill_shards(_jobs(parts, folders), total=len(manifest), workers=workers)
        records = {size: [_json(_newest(folder, p)) for p in parts] for size, folder in folders.items()}
        failures = _failures(parts, records)
        if failures and unreadable == "error":
            shown = "\n  ".join(message for _, message in failures[:SHOWN])
            raise ValueError(
                f"{manifest.source}: {len(failures)} of {len(manifest)} images cannot be read:\n  {shown}\n"
                "mend them and run again (finished shards are kept), or leave them out: prepare --unreadable drop"
            )
        _take_over(list(folders.values()))
        kept = _without(manifest, failures)
        kept.save(out / MANIFEST)
        # All sizes share the manifest, so what one of them lacks is served by none.
        facts = plan | _index(manifest, unreadable=[row for row, _ in failures])
        facts["manifest"] = file_digest(out / MANIFEST)
        for size in sizes:
            shards = [{name: record[name] for name in ("file", "sha256", "pixels")} for record in records[size]]
            _save(facts | {"size": size, "shards": shards}, folders[size] / INDEX)
    return kept


def up_to_date(manifest: Manifest, *, size: int, out: Path) -> bool:
    """Whether `out` holds finished shards of that size, of these rows and of their pictures as they are now."""
    folder = out / str(size)
    if not ((folder / INDEX).is_file() and (out / MANIFEST).is_file() and (out / PLAN).is_file()):
        return False
    parts = _parts(manifest, _json(out / PLAN)["rows_per_shard"])
    return all(_done(_record(folder, part, size=size), part) for part in parts)


@dataclasses.dataclass(frozen=True)
class _Part:
    """The rows of one shard."""

    number: int
    start: int
    references: list[str]
    ids: list[str]
    stamp: Stamp


def _parts(manifest: Manifest, rows_per_shard: int) -> list[_Part]:
    references, ids = manifest.frame["image"].tolist(), manifest.frame["image_id"].tolist()
    parts = []
    for number, stamp in enumerate(stamps(references, ids=ids, rows_per_shard=rows_per_shard)):
        start = number * rows_per_shard
        rows = slice(start, start + rows_per_shard)
        parts.append(_Part(number, start, references[rows], ids[rows], stamp))
    return parts


@contextlib.contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Hold the folder for this process: stages of a chain or jobs of a sweep start at once and want the same images."""
    lock = FileLock(out / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        # Set while a spawned process imports its main module, where multiprocessing refuses to start processes.
        if getattr(multiprocessing.current_process(), "_inheriting", False):
            raise RuntimeError(
                f"a worker process that fills {out} runs the main script anew and would wait for itself; put what the "
                'script does under `if __name__ == "__main__":`'
            ) from None
        print(f"images: waiting for another process that is filling {out}", file=sys.stderr, flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _plan(out: Path, manifest: Manifest, rows_per_shard: int | None) -> dict[str, Any]:
    """What the folder is for: written down, or seen to be this."""
    # Sizes are not part of it: another one may be added later.
    plan: dict[str, Any] = {"schema": SCHEMA, "rows": len(manifest), "data_digest": images_digest(manifest, size=0)}
    path = out / PLAN
    if path.is_file():
        found = _json(path)
        if found.get("schema") != SCHEMA:
            raise ValueError(
                f"{out} holds shards of schema {found.get('schema')}, expected {SCHEMA}; name another folder, or "
                "remove it: they cannot be gone on with"
            )
        if found | plan != found:
            raise ValueError(
                f"{out} holds shards of other data: {found['rows']} rows, digest {found['data_digest'][:12]}, and now "
                f"there are {plan['rows']} rows, digest {plan['data_digest'][:12]}; name another folder, or remove it"
            )
        if rows_per_shard not in (None, found["rows_per_shard"]):
            raise ValueError(
                f"{out} holds shards of {found['rows_per_shard']} rows, and {rows_per_shard} are asked for"
            )
        return found
    strange = sorted(entry.name for entry in out.iterdir() if not entry.name.startswith("."))
    if strange:
        raise ValueError(f"{out} is not empty, it holds {strange[0]}; name a new folder for the shards")
    plan["rows_per_shard"] = rows_per_shard or min(max(-(-len(manifest) // SHARDS), FEWEST_ROWS), MOST_ROWS)
    _save(plan, path)
    return plan


def _jobs(parts: list[_Part], folders: dict[int, Path]) -> list[Job]:
    for folder in folders.values():
        (folder / NEW).mkdir(parents=True, exist_ok=True)
        for left_over in (folder / NEW).glob(".*.tmp"):
            left_over.unlink(missing_ok=True)
    jobs: list[Job] = []
    replaced = set()
    for part in parts:
        targets: dict[int, str] = {}
        for size, folder in folders.items():
            new, old = _record(folder / NEW, part, size=size), _record(folder, part, size=size)
            if _done(old, part):
                (folder / NEW / record_name(part.number)).unlink(missing_ok=True)
            elif not _done(new, part):
                targets[size] = str(folder / NEW)
                if any(record is not None and not part.stamp.fits(record) for record in (new, old)):
                    replaced.add(part.number)
        if targets:
            jobs.append(Job(part.number, part.references, part.ids, part.stamp, targets))
    if replaced:
        what = f"{len(replaced)} of {len(parts)} shards hold pictures that were replaced on disk"
        print(f"images: {what}; these shards are made again", file=sys.stderr, flush=True)
    return jobs


def _newest(folder: Path, part: _Part) -> Path:
    """The record of a shard that is complete: the new one where there is one."""
    new = folder / NEW / record_name(part.number)
    return new if new.is_file() else folder / record_name(part.number)


def _take_over(folders: list[Path]) -> None:
    """Put the new shards in the place of the old ones."""
    if any(folder.glob(f"{NEW}/*.json") for folder in folders):
        for folder in folders:
            # From here to the new index the shards are not what the old one says: nobody may open them.
            (folder / INDEX).unlink(missing_ok=True)
    for folder in folders:
        for record in sorted((folder / NEW).glob("*.json")):
            shard = record.with_suffix(".npy")
            # A kill may have come between the two.
            if shard.is_file():
                os.replace(shard, folder / shard.name)
            os.replace(record, folder / record.name)
        shutil.rmtree(folder / NEW)


def _record(folder: Path, part: _Part, *, size: int) -> dict[str, Any] | None:
    """What is written down of a shard; None where it is not complete."""
    record, shard = folder / record_name(part.number), folder / shard_name(part.number)
    if not (record.is_file() and shard.is_file() and shard.stat().st_size == npy_header(len(part.ids), size)[1]):
        return None
    try:
        return json.loads(record.read_text())
    except ValueError:
        return None  # a power cut may leave an empty file


def _done(record: dict[str, Any] | None, part: _Part) -> bool:
    # A shard with pictures that could not be read is tried again: they may have been mended.
    return record is not None and not record["unreadable"] and part.stamp.fits(record)


def _failures(parts: list[_Part], records: dict[int, list[dict[str, Any]]]) -> list[tuple[int, str]]:
    """Row and message of each picture that could not be read at one of the sizes, in order."""
    failures: dict[int, str] = {}
    for of_size in records.values():
        for part, record in zip(parts, of_size, strict=True):
            failures |= {part.start + row: message for row, _, message in record["unreadable"]}
    return sorted(failures.items())


def _index(manifest: Manifest, *, unreadable: list[int]) -> dict[str, Any]:
    """What the index of each size says besides the plan."""
    return {
        "resize": "pad to a square, Pillow Lanczos with antialias; JPEG in draft mode of at least twice the size",
        "unreadable": unreadable,
        "served_ids": ids_digest(manifest.frame["image_id"].drop(manifest.frame.index[unreadable])),
        "shapes": _shapes(manifest, unreadable=set(unreadable)),
    }


def _shapes(manifest: Manifest, *, unreadable: set[int]) -> dict[str, tuple[int, int]]:
    """Width and height of the pictures that have boxes, by row: masks need them where the pictures are not at hand."""
    frame = manifest.frame
    boxed = np.flatnonzero((frame["boxes"] != "") & ~frame["image"].str.startswith(PHANTOM))
    return {str(row): picture_size(str(frame["image"].iat[row])) for row in boxed.tolist() if row not in unreadable}


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


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: is no JSON ({error}); remove this file and run prepare again") from error


def _save(content: dict[str, Any], path: Path) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1))
