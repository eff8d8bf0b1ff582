"""The pass over all pictures of a manifest: in parallel, resumable, with a bar, in bounded memory.

Threads, not processes: a look waits for the disk or server, and reading, hashing and decoding release the interpreter's
lock. tests/benchmarks/doctor_rate.py measures both. On 2 cores with the files in the page cache, 4,000 pictures took
threads a quarter of a second, and processes more than one, most of it to start; 20,000 took threads half as long.
"""

import dataclasses
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path

import numpy as np

from datamodules.doctor.headers import Known, Look, look_at_each
from datamodules.doctor.state import Writer, load
from datamodules.processes import granted_cores
from datamodules.progress import bar

BATCH = 64
# More threads than cores: some of them wait for the disk. A server answers slower still.
THREADS_PER_CORE = 2
REMOTE_THREADS = 32


@dataclasses.dataclass
class Pass:
    """What the pass found, in columns: 377,110 pictures need about 15 MB.

    Attributes:
        images: path or URL of each picture, each once.
        size: int64 [N], bytes.
        stamp: int64 [N].
        mark: uint64 [N], fingerprints.
        width: int32 [N].
        height: int32 [N].
        decoded: bool [N].
        issues: number of the picture → its (code, detail) pairs, of those that have any.
        examined: how many were looked at now, not in an earlier pass.
        seconds: that this took.
        workers: threads.
    """

    images: list[str]
    size: np.ndarray
    stamp: np.ndarray
    mark: np.ndarray
    width: np.ndarray
    height: np.ndarray
    decoded: np.ndarray
    issues: dict[int, tuple[tuple[str, str], ...]]
    examined: int = 0
    seconds: float = 0.0
    workers: int = 1

    @property
    def rate(self) -> float:
        """Pictures a second; 0 where none was looked at."""
        return self.examined / self.seconds if self.examined and self.seconds else 0.0

    def put(self, number: int, look: Look) -> None:
        """Take one look."""
        self.size[number], self.stamp[number], self.mark[number] = look.size, look.stamp, look.mark
        self.width[number], self.height[number], self.decoded[number] = look.width, look.height, look.decoded
        self.issues.pop(number, None)
        if look.issues:
            self.issues[number] = look.issues


def look_at(
    images: Sequence[str],
    *,
    state: Path,
    decode: bool = False,
    workers: int | None = None,
) -> Pass:
    """Look at each picture, but for those that have not changed since an earlier pass.

    Args:
        images: paths or URLs; repeated ones are looked at once.
        state: the file of earlier looks; it is appended to.
        decode: decode all pixels.
        workers: threads; by default two for each granted core, for remote files 32.

    Raises:
        KeyboardInterrupt: on Ctrl-C, after what has been looked at is in `state`.
    """
    unique = list(dict.fromkeys(images))
    n = len(unique)
    found = Pass(
        images=unique,
        size=np.zeros(n, np.int64),
        stamp=np.zeros(n, np.int64),
        mark=np.zeros(n, np.uint64),
        width=np.zeros(n, np.int32),
        height=np.zeros(n, np.int32),
        decoded=np.zeros(n, bool),
        issues={},
    )
    earlier = np.zeros(n, bool)
    number_of = {image: number for number, image in enumerate(unique)}
    for image, look in load(state):
        number = number_of.get(image)
        if number is not None:
            found.put(number, look)
            earlier[number] = True
    del number_of

    found.workers = workers or (
        REMOTE_THREADS if any("://" in image for image in unique) else THREADS_PER_CORE * granted_cores()
    )
    batches = (_batch(found, earlier, start) for start in range(0, n, BATCH))
    began = time.perf_counter()
    writer = Writer(state)
    # On standard error, so that --json - stays JSON; of a short pass nothing is shown.
    progress = bar(total=n, desc="pictures", unit="picture", delay=1.0, smoothing=0.05)
    try:
        for results in _run(batches, workers=found.workers, decode=decode):
            new = [(number, look) for number, look in results if look is not None]
            for number, look in new:
                found.put(number, look)
            writer.write((unique[number], look) for number, look in new)
            found.examined += len(new)
            progress.update(len(results))
    finally:
        progress.close()
        writer.close()
    found.seconds = time.perf_counter() - began
    return found


def _batch(found: Pass, earlier: np.ndarray, start: int) -> list[tuple[int, str, Known | None]]:
    return [
        (
            number,
            found.images[number],
            Known(int(found.size[number]), int(found.stamp[number]), bool(found.decoded[number]))
            if earlier[number]
            else None,
        )
        for number in range(start, min(start + BATCH, len(found.images)))
    ]


def _run(
    batches: Iterator[list[tuple[int, str, Known | None]]], *, workers: int, decode: bool
) -> Iterator[list[tuple[int, Look | None]]]:
    with ThreadPoolExecutor(workers) as threads:
        waiting: set[Future[list[tuple[int, Look | None]]]] = set()
        try:
            for batch in batches:
                waiting.add(threads.submit(look_at_each, batch, decode))
                # A few batches ahead keep the threads busy; all of them at once would hold every path twice.
                if len(waiting) >= 3 * workers:
                    done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                    for future in done:
                        yield future.result()
            while waiting:
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            raise
