"""Whether pictures on disk are still those that were resized: digests of their ids, sizes and times, a shard's at once.

A path says nothing about what is in the file: a picture that was fetched again after a damage has the same. Sizes and
times are read without opening a file, so that every start of a training can afford to compare them.
"""

import dataclasses
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from datamodules.manifest import common_folder
from datamodules.shards import ids_digest

# A network file system answers each question late, but many at once.
THREADS, CHUNK = 16, 4096


@dataclasses.dataclass(frozen=True)
class Stamp:
    """What is known of a shard's pictures without opening them.

    Attributes:
        ids: digest of the image ids.
        folder: what the whole data set lies under.
        sizes: digest of the files' sizes in bytes; "" where one of them is not there, or none is a local file.
        times: digest of the times at which they were last written, in the same way.
    """

    ids: str
    folder: str
    sizes: str
    times: str

    def record(self) -> dict[str, str]:
        """Itself as JSON values."""
        return dataclasses.asdict(self)

    def fits(self, record: dict[str, Any]) -> bool:
        """Whether a finished shard with this record is of the pictures that are there now.

        Times count in the same folder only: a copy of a data set may have new ones. A shard whose pictures are not all
        there is kept: they could not be read again.
        """
        if record["ids"] != self.ids:
            return False
        if not self.sizes or not record["sizes"]:
            return True
        return record["sizes"] == self.sizes and (record["folder"] != self.folder or record["times"] == self.times)


def stamps(references: Sequence[str], *, ids: Sequence[str], rows_per_shard: int) -> list[Stamp]:
    """The stamps of all shards, in order.

    Args:
        references: N paths, fsspec URLs or phantoms; of URLs and phantoms nothing but the ids is compared.
        ids: N image ids.
        rows_per_shard: rows of each shard but the last.
    """
    folder, facts = common_folder(references), _sizes_and_times(references)
    found = []
    for start in range(0, len(ids), rows_per_shard):
        part = facts[start : start + rows_per_shard]
        complete = bool((part[:, 0] >= 0).all())
        sizes, times = (ids_digest(map(str, part[:, n].tolist())) if complete else "" for n in (0, 1))
        found.append(Stamp(ids_digest(ids[start : start + rows_per_shard]), folder, sizes, times))
    return found


def _sizes_and_times(references: Sequence[str]) -> np.ndarray:
    """Int64 [N,2] of bytes and nanoseconds, -1 for what is no local file."""
    chunks = [references[start : start + CHUNK] for start in range(0, len(references), CHUNK)]
    with ThreadPoolExecutor(THREADS) as pool:
        return np.concatenate([np.zeros((0, 2), dtype=np.int64), *pool.map(_look, chunks)])


def _look(references: Sequence[str]) -> np.ndarray:
    facts = np.full((len(references), 2), -1, dtype=np.int64)
    for row, reference in enumerate(references):
        try:
            found = os.stat(reference)
        except OSError:
            continue  # whoever reads it will say what is wrong
        facts[row] = found.st_size, found.st_mtime_ns
    return facts
