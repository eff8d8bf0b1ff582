"""Images of a manifest as one array of resized pixels, made once."""

import contextlib
import hashlib
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from datamodules.files import temporary_beside
from datamodules.images import PHANTOM, read_image
from datamodules.manifest import Manifest

SCHEMA = 1
# Starting workers takes about a second, which is what this many images take.
IN_PROCESS = 256
CHUNK = 64
SHOWN = 5


def images_digest(manifest: Manifest, *, size: int) -> str:
    """Sha256 over which pictures these are, in which order, at which size; reports and labels do not enter.

    A phantom is drawn by this package, so the text of its code enters: after a change its images are made again.
    """
    state = hashlib.sha256(f"images:{SCHEMA}:{size}:{manifest.source}\n".encode())
    if manifest.frame["image"].str.startswith(PHANTOM).any():
        state.update(phantom_code().encode())
    for image_id, image in zip(manifest.frame["image_id"], manifest.frame["image"], strict=True):
        state.update(f"{image_id}\t{image}\n".encode())
    return state.hexdigest()


def phantom_code() -> str:
    """Sha256 of the files that decide what a phantom's image, report and labels are."""
    here = Path(__file__).parent
    files = [
        *sorted((here / "phantom").glob("*.py")),
        here / "layouts" / "phantom.py",
        here / "reports" / "sections.py",
    ]
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()


def build_store(manifest: Manifest, *, size: int, folder: str | Path) -> Path:
    """Resize every image of the manifest once.

    Args:
        manifest: each row has an image.
        size: side in pixels.
        folder: where the array is kept.

    Returns:
        Path of a `.npy`, uint8 [N, size, size] in the manifest's order, named by `images_digest`. One that is there is
        used again. It is written under a temporary name and renamed when complete.

    Raises:
        ValueError: naming the first images that cannot be read, and how many there are.
    """
    folder = Path(folder)
    path = folder / f"images-{images_digest(manifest, size=size)[:12]}-{size}.npy"
    if path.is_file():
        open_store(path, count=len(manifest), size=size)
        return path
    references, ids = list(manifest.frame["image"]), list(manifest.frame["image_id"])
    missing = [i for i, reference in zip(ids, references, strict=True) if not reference]
    if missing:
        raise ValueError(
            f"{manifest.source}: image {missing[0]} has no file ({len(missing)} rows); serve it as text only"
        )
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(path):
        if not path.is_file():  # another process may have made it meanwhile
            _write_store(path, manifest.source, references, ids, size)
    open_store(path, count=len(manifest), size=size)
    return path


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold `path` for this process: stages of a chain or the jobs of a sweep start at once and want the same images."""
    lock = FileLock(f"{path}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"images: waiting for another process that is making {path.name}", file=sys.stderr, flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _write_store(path: Path, source: str, references: list[str], ids: list[str], size: int) -> None:
    temporary = temporary_beside(path)
    try:
        store = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=(len(ids), size, size))
        store.flush()
        del store
        failures = _fill(temporary, references, ids, size)
        if failures:
            shown = "\n  ".join(failures[:SHOWN])
            raise ValueError(f"{source}: {len(failures)} of {len(ids)} images cannot be read:\n  {shown}")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def open_store(path: str | Path, *, count: int, size: int) -> np.ndarray:
    """The array of `build_store`, memory-mapped.

    Raises:
        ValueError: when it is not uint8 [count, size, size].
    """
    store = np.load(path, mmap_mode="r", allow_pickle=False)
    if store.dtype != np.uint8 or store.shape != (count, size, size):
        raise ValueError(
            f"{path}: expected uint8 {(count, size, size)} and found {store.dtype} {store.shape}; remove the file, it "
            "is made again"
        )
    return store


def _fill(path: Path, references: list[str], ids: list[str], size: int) -> list[str]:
    jobs = [
        (start, references[start : start + CHUNK], ids[start : start + CHUNK]) for start in range(0, len(ids), CHUNK)
    ]
    # What Slurm or a container granted, not what the node has.
    workers = min(len(os.sched_getaffinity(0)), len(jobs))
    # A spawned worker imports the main module again, which a script read from standard input does not allow.
    main = getattr(sys.modules["__main__"], "__file__", None)
    if len(ids) <= IN_PROCESS or workers < 2 or (main is not None and not Path(main).is_file()):
        return [failure for job in jobs for failure in _fill_chunk(path, *job, size)]
    failures: dict[int, list[str]] = {}
    began, told = time.monotonic(), time.monotonic()
    # Spawned, not forked: a fork of a process in which torch or CUDA has threads can hang.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        pending = {pool.submit(_fill_chunk, path, *job, size): job[0] for job in jobs}
        for done, future in enumerate(as_completed(pending), start=1):
            failures[pending[future]] = future.result()
            if time.monotonic() - told > 5:
                told = time.monotonic()
                count = min(done * CHUNK, len(ids))
                print(f"images: {count}/{len(ids)}, {count / (told - began):.0f}/s", file=sys.stderr, flush=True)
    return [failure for start in sorted(failures) for failure in failures[start]]


def _fill_chunk(path: Path, start: int, references: list[str], ids: list[str], size: int) -> list[str]:
    store = np.load(path, mmap_mode="r+")
    failures = []
    for offset, (reference, image_id) in enumerate(zip(references, ids, strict=True)):
        try:
            store[start + offset] = read_image(reference, size=size)
        except ValueError as error:
            failures.append(f"image {image_id}: {error}")
    store.flush()
    return failures

