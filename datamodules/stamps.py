"""Whether pictures on disk are still those that were read: their sizes and times, known without opening a file.

A path says nothing about what is in the file: a picture that was fetched again after a damage has the same. Every start
of a training can afford to compare sizes and times: 400,000 files take a second or two from a local disk.
"""

import base64
import dataclasses
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from datamodules.shards import ids_digest

# A network file system answers each question late, but many at once.
THREADS, CHUNK = 16, 4096


@dataclasses.dataclass(frozen=True)
class Stamp:
    """What is known of a shard's pictures without opening them.

    Attributes:
        ids: digest of the image ids.
        files: int64 [n,2], see `file_facts`.
    """

    ids: str
    files: np.ndarray

    def record(self) -> dict[str, str]:
        """Itself as JSON values."""
        return {"ids": self.ids, "files": base64.b64encode(self.files.astype("<i8").tobytes()).decode()}

    def fits(self, record: dict[str, Any]) -> bool:
        """Whether a shard with this record is of the pictures that are there now."""
        if record["ids"] != self.ids:
            return False
        then = np.frombuffer(base64.b64decode(record["files"]), dtype="<i8").reshape(-1, 2)
        return not changed(then, self.files).any()


def stamps(references: Sequence[str], *, ids: Sequence[str], rows_per_shard: int) -> list[Stamp]:
    """The stamps of all shards, in order.

    Args:
        references: N paths, fsspec URLs or phantoms; of URLs and phantoms nothing but the ids is compared.
        ids: N image ids.
        rows_per_shard: rows of each shard but the last.
    """
    facts = file_facts(references)
    parts = (slice(start, start + rows_per_shard) for start in range(0, len(ids), rows_per_shard))
    return [Stamp(ids_digest(ids[rows]), facts[rows]) for rows in parts]


def file_facts(references: Sequence[str]) -> np.ndarray:
    """Int64 [N,2]: bytes, and the nanosecond of the last writing; -1 for what is no file on this machine."""
    chunks = [references[start : start + CHUNK] for start in range(0, len(references), CHUNK)]
    with ThreadPoolExecutor(THREADS) as pool:
        return np.concatenate([np.zeros((0, 2), dtype=np.int64), *pool.map(_look, chunks)])


def changed(then: np.ndarray, now: np.ndarray) -> np.ndarray:
    """Bool [N]: which files (int64 [N,2] each, see `file_facts`) are others now; not those that are not there.

    A copy has the times of its original only where it was told to keep them (cp -p, rsync -a).
    """
    known = (then[:, 0] >= 0) & (now[:, 0] >= 0)
    return known & (then != now).any(axis=1)


def _look(references: Sequence[str]) -> np.ndarray:
    facts = np.full((len(references), 2), -1, dtype=np.int64)
    for row, reference in enumerate(references):
        try:
            found = os.stat(reference)
        except OSError:
            continue  # whoever reads it will say what is wrong
        facts[row] = found.st_size, found.st_mtime_ns
    return facts
