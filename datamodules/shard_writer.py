"""Filling shards: what a worker of `prepare` does, and how the workers are started, watched and ended."""

import base64
import contextlib
import hashlib
import io
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.files import replacing
from datamodules.images import PHANTOM, decode, fit, open_image, read_image
from datamodules.processes import can_spawn, granted_cores
from datamodules.progress import bar
from datamodules.shards import pixel_digest
from datamodules.stamps import Stamp

# Starting workers takes about a second, which is what this many images take.
IN_PROCESS = 256


@dataclass(frozen=True)
class Job:
    """One shard: consecutive rows, at those sizes that are not done."""

    number: int
    references: list[str]
    ids: list[str]
    stamp: Stamp  # taken before the pictures are read: what is replaced meanwhile is noticed by the next run
    folders: dict[int, str]


def shard_name(number: int) -> str:
    """File name of a shard."""
    return f"shard-{number:05d}.npy"


def record_name(number: int) -> str:
    """File name of what says that a shard is complete: of which pictures, its digests, which could not be read."""
    return f"shard-{number:05d}.json"


def npy_header(rows: int, size: int) -> tuple[bytes, int]:
    """The `.npy` header of a shard, and the size of the whole file in bytes."""
    buffer = io.BytesIO()
    facts = {"descr": "|u1", "fortran_order": False, "shape": (rows, size, size)}
    np.lib.format.write_array_header_1_0(buffer, facts)
    return buffer.getvalue(), len(buffer.getvalue()) + rows * size * size


def fill_shards(jobs: list[Job], *, total: int, workers: int | None) -> None:
    """Fill all shards, in this process where there is little to do."""
    rows = sum(len(job.ids) for job in jobs)
    workers = min(workers or granted_cores(), len(jobs))
    hidden = rows <= IN_PROCESS
    with bar(desc="images", unit="image", total=total, initial=total - rows, disable=hidden) as progress:
        if rows <= IN_PROCESS or workers < 2 or not can_spawn():
            for job in jobs:
                _fill(job, lambda: progress.update(1))
            return
        # Spawned, not forked: a fork of a process in which torch or CUDA has threads can hang.
        context = get_context("spawn")
        counter, stop = context.Value("q", 0), context.Event()
        arguments = (counter, stop, os.getpid())
        with ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=arguments) as pool:
            pending = {pool.submit(_fill_counted, job) for job in jobs}
            try:
                while pending:
                    done, pending = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
                    for future in done:
                        future.result()
                    progress.update(counter.value - (progress.n - (total - rows)))
            except BaseException:
                # Workers look at it after every image: nobody waits for the end of their shards.
                stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise


_shared: tuple[Synchronized, Event] | None = None


def _start_worker(counter: Synchronized, stop: Event, parent: int) -> None:
    global _shared
    _shared = counter, stop
    # Ctrl-C goes to the whole group: the parent tells the workers when to stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def end_with_parent() -> None:
        # A killed parent cannot tell: without this its workers would wait for jobs for ever.
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


def _fill_counted(job: Job) -> None:
    assert _shared is not None
    counter, stop = _shared

    def count() -> None:
        with counter.get_lock():
            counter.value += 1
        if stop.is_set():
            raise InterruptedError(f"shard {job.number} was given up, since another failed or the user stopped")

    _fill(job, count)


def _fill(job: Job, count: Callable[[], object]) -> None:
    """Write one shard at each of its sizes, then the records that say that they are complete."""
    with contextlib.ExitStack() as stack:
        writers = {}
        for size, folder in job.folders.items():
            path = Path(folder) / shard_name(job.number)
            temporary = stack.enter_context(replacing(path))
            writers[size] = _Writer(stack.enter_context(temporary.open("wb")), npy_header(len(job.ids), size)[0])
        failures: list[list[Any]] = []
        for row, (reference, image_id) in enumerate(zip(job.references, job.ids, strict=True)):
            try:
                pixels = read_sizes(reference, sizes=list(writers))
            except ValueError as error:
                failures.append([row, image_id, f"image {image_id}: {error}"])
                # Never served: the index names the row, and the store refuses it.
                pixels = {size: np.zeros((size, size), dtype=np.uint8) for size in writers}
            for size, writer in writers.items():
                writer.write_image(pixels[size].tobytes())
            count()
        for writer in writers.values():
            writer.file.flush()
            os.fsync(writer.file.fileno())
    for size, folder in job.folders.items():
        facts = job.stamp.record() | writers[size].record() | {"unreadable": failures}
        with replacing(Path(folder) / record_name(job.number)) as temporary:
            temporary.write_text(json.dumps({"file": shard_name(job.number), **facts}))


class _Writer:
    """A file, the digest of what has been written to it, and those of its images."""

    def __init__(self, file: io.BufferedWriter, header: bytes) -> None:
        self.file, self.digest, self.pixels = file, hashlib.sha256(), bytearray()
        self._write(header)

    def write_image(self, pixels: bytes) -> None:
        self._write(pixels)
        self.pixels += pixel_digest(pixels)

    def record(self) -> dict[str, str]:
        return {"sha256": self.digest.hexdigest(), "pixels": base64.b64encode(self.pixels).decode()}

    def _write(self, data: bytes) -> None:
        self.file.write(data)
        self.digest.update(data)


def read_sizes(reference: str, *, sizes: Sequence[int]) -> dict[int, np.ndarray]:
    """As `images.read_image` at several sizes, from one reading of the file.

    Each size is decoded for itself, so that it does not depend on which others are made with it.
    """
    if reference.startswith(PHANTOM) or len(sizes) == 1:
        return {size: read_image(reference, size=size) for size in sizes}
    with open_image(reference) as file:
        try:
            data = file.read()
        except OSError as error:
            raise ValueError(f"{reference}: cannot be read ({error}); mend the disk or fetch it again") from error
    return {size: fit(decode(io.BytesIO(data), reference=reference, size=size), size=size) for size in sizes}
