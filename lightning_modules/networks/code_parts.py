"""The codes of images while they are made: an encoding that is killed goes on with the next images.

Every half minute each rank writes what it has made since into a file of its own:

    tokens.partial-1a2b3c4d-0-00002.npz:  facts (JSON), image_ids [N], codes int32 [N,h,w]

The facts are all that codes depend on beside their image, and their digest stands in the name. A later run with the
same facts, on any number of ranks, takes the codes over; one with others says what differs, and leaves the files.
"""

import hashlib
import json
import os
import time
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from lightning_modules.networks.ranks import gather_items

SECONDS = 30.0  # between two files; what is made in them is lost by a kill
UNREADABLE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)


class CodeParts:
    """The codes of one `predict`, and what of them is on disk.

    Args:
        path: of the token cache that they will make; the parts lie beside it.
        rank: of this process.
        facts: all that a code depends on beside its image.
        seconds: between two files.
    """

    def __init__(self, path: Path, *, rank: int, facts: Mapping[str, str], seconds: float = SECONDS) -> None:
        self.path, self.rank, self.facts, self.seconds = path, rank, dict(facts), seconds
        self.digest = hashlib.sha256(json.dumps(self.facts, sort_keys=True).encode()).hexdigest()[:8]
        self.rows: dict[str, np.ndarray] = {}
        self.done: set[str] = set()
        self._waiting: list[str] = []
        self._written = 0
        self._since = time.monotonic()

    def resume(self) -> None:
        """Rank 0 reads what an earlier run left, whatever its number of ranks; all learn which images are done."""
        if self.rank == 0:
            self._take_over()
        self.done = set(gather_items(sorted(self.rows)))
        # Files of an earlier run keep their names.
        self._written = max(gather_items([len(self._files(self.digest)) if self.rank == 0 else 0]))
        self._since = time.monotonic()

    def missing(self, image_ids: Sequence[str]) -> list[int]:
        """Where in a batch the images stand that have no codes yet."""
        return [place for place, image_id in enumerate(image_ids) if image_id not in self.done]

    def add(self, image_ids: Sequence[str], codes: np.ndarray) -> None:
        """Keep the codes int [N,h,w] of N images; they are on disk after `seconds` at the latest."""
        self.rows |= dict(zip(image_ids, codes.astype(np.int32), strict=True))
        self.done |= set(image_ids)
        self._waiting += image_ids
        if self._waiting and time.monotonic() - self._since >= self.seconds:
            self._write()

    def gather(self) -> tuple[list[str], np.ndarray]:
        """The ids of all ranks' images, sorted, and their codes int64 [N,h,w]; for all ranks to call."""
        rows = dict(sorted(gather_items(list(self.rows.items())), key=lambda row: row[0]))
        return list(rows), np.stack(list(rows.values())).astype(np.int64)

    def remove(self) -> None:
        """Remove the parts of all ranks; for rank 0, once the cache is written."""
        for file in self.path.parent.glob(f"{self.path.stem}.partial-{self.digest}-*"):
            file.unlink()

    def _files(self, digest: str = "*") -> list[Path]:
        return sorted(self.path.parent.glob(f"{self.path.stem}.partial-{digest}-*.npz"))

    def _write(self) -> None:
        name = f"{self.path.stem}.partial-{self.digest}-{self.rank}-{self._written:05d}.npz"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        beside = self.path.with_name(f"{name}.writing")
        with beside.open("wb") as file:
            np.savez(
                file,
                facts=np.array(json.dumps(self.facts)),
                image_ids=np.array(self._waiting),
                codes=np.stack([self.rows[image_id] for image_id in self._waiting]),
            )
        os.replace(beside, self.path.with_name(name))
        self._waiting, self._written, self._since = [], self._written + 1, time.monotonic()

    def _take_over(self) -> None:
        mine = self._files(self.digest)
        for file in mine:
            try:
                with np.load(file) as part:
                    self.rows |= dict(zip(part["image_ids"].tolist(), part["codes"], strict=True))
            except UNREADABLE as error:
                print(f"codebook: {file} is damaged and its images are encoded again ({error})", flush=True)
        if mine:
            more = f" and {len(mine) - 1} more" if len(mine) > 1 else ""
            print(
                f"codebook: takes the codes of {len(self.rows)} images over from an interrupted run ({mine[0]}{more})",
                flush=True,
            )
        others = sorted(set(self._files()) - set(mine))
        if others:
            print(
                f"codebook: starts anew beside {len(others)} files of an interrupted run with other "
                f"{self._difference(others[0])} ({others[0]}); they stay for a run with these, remove them if there is "
                "none",
                flush=True,
            )

    def _difference(self, other: Path) -> str:
        """E.g. "checkpoint, precision"."""
        try:
            with np.load(other) as part:
                facts = json.loads(str(part["facts"]))
        except UNREADABLE:
            return "facts that cannot be read"
        names = sorted(self.facts.keys() | facts.keys())
        return ", ".join(name for name in names if self.facts.get(name) != facts.get(name))
