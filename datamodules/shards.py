"""Resized radiographs on disk as shards: plain `.npy` files that are memory-mapped, with an index of their digests.

Why arrays and no streaming format: training draws rows in random order and must resume at the exact next one, which a
memory map serves at the speed of memory (several hundred thousand images of 256 px a second and core, against tens of
thousands from a chunked stream), and one copy in the page cache serves all workers. `datamodules.prepare` writes them.
"""

import base64
import hashlib
import json
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
from filelock import FileLock

from datamodules.files import replacing
from datamodules.images import PHANTOM
from datamodules.manifest import Manifest, image_names
from datamodules.progress import bar

SCHEMA = 3
INDEX = "index.json"
AGAIN = "write the shards again: python -m datamodules prepare --root <root> --out <folder>"
READ = 1 << 20


@dataclass
class ShardStore:
    """The images of a prepared data set at one size.

    Attributes:
        folder: where the shards are, a path or an fsspec URL, ending with the size.
        size: side in pixels.
        rows: number of rows, readable or not.
        rows_per_shard: rows of every shard but the last.
        shards: of each its file name, its sha256, and the digests of its images (base64 of little-endian uint64).
        unreadable: rows without a picture; asking for one is an error.
        data_digest: `images_digest` of what was prepared.
        served_ids: digest of the image ids of the readable rows, in order.
        manifest: sha256 of the manifest beside the shards.
        shapes: width and height of the pictures that have boxes, by row.
        cache: where shards of a URL are fetched to, each when it is first needed.
    """

    folder: str
    size: int
    rows: int
    rows_per_shard: int
    shards: list[dict[str, str]] = field(repr=False)
    unreadable: frozenset[int]
    data_digest: str
    served_ids: str
    manifest: str
    shapes: dict[int, tuple[int, int]] = field(default_factory=dict, repr=False)
    cache: Path | None = None
    _maps: dict[int, np.ndarray] = field(default_factory=dict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @staticmethod
    def open(folder: str | Path, *, size: int, cache: str | Path | None = None) -> "ShardStore":
        """Open what `prepare` wrote.

        Args:
            folder: the one given to `prepare` as --out, or an fsspec URL that it was copied to.
            size: side in pixels.
            cache: local folder for the shards of a URL.

        Raises:
            FileNotFoundError: when there are no finished shards of that size.
            ValueError: for another schema, or a URL without a cache.
        """
        place = f"{str(folder).rstrip('/')}/{size}"
        try:
            with fsspec.open(f"{place}/{INDEX}", "rb") as file:
                index = json.load(file)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"{place}/{INDEX} does not exist: no finished shards of {size} px; "
                f"python -m datamodules prepare --root <root> --size {size} --out <folder>"
            ) from error
        except ValueError as error:
            raise ValueError(f"{place}/{INDEX}: is no JSON ({error}); {AGAIN}") from error
        if index.get("schema") != SCHEMA:
            raise ValueError(f"{place}: shards of schema {index.get('schema')}, expected {SCHEMA}; {AGAIN}")
        if "://" in place and cache is None:
            raise ValueError(f"{place} is remote: name a local folder for its shards with data.init_args.cache_dir")
        return ShardStore(
            folder=place,
            size=index["size"],
            rows=index["rows"],
            rows_per_shard=index["rows_per_shard"],
            shards=index["shards"],
            unreadable=frozenset(index["unreadable"]),
            data_digest=index["data_digest"],
            served_ids=index["served_ids"],
            manifest=index["manifest"],
            shapes={int(row): (width, height) for row, (width, height) in index["shapes"].items()},
            cache=None if cache is None else Path(cache),
        )

    def __len__(self) -> int:
        return self.rows

    def __getstate__(self) -> dict[str, Any]:
        # Pickling a memory map would copy its pixels into each spawned worker; the digests grow with the data set.
        state = {name: value for name, value in self.__dict__.items() if name not in ("_maps", "_lock")}
        return state | {"shards": [{"file": shard["file"], "sha256": shard["sha256"]} for shard in self.shards]}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _maps={}, _lock=threading.Lock())

    def gather(self, rows: np.ndarray) -> np.ndarray:
        """The images of some rows: uint8 [n, size, size], in the order of `rows` (int [n]).

        Raises:
            IndexError: for a row that does not exist or whose picture could not be read.
        """
        if len(rows) and (rows.min() < 0 or rows.max() >= self.rows):
            raise IndexError(f"{self.folder}: rows {rows.min()}..{rows.max()} are asked for, there are {self.rows}")
        if self.unreadable and not self.unreadable.isdisjoint(rows.tolist()):
            row = next(r for r in rows.tolist() if r in self.unreadable)
            raise IndexError(
                f"{self.folder}: row {row} has no picture; take the rows from the manifest beside the shards"
            )
        if not len(rows):
            return np.empty((0, self.size, self.size), dtype=np.uint8)
        shard, inside = np.divmod(rows, self.rows_per_shard)
        if (shard == shard[0]).all():
            return self._map(int(shard[0]))[inside]
        maps = {number: self._map(number) for number in np.unique(shard).tolist()}
        # One copy of each image: an index of arrays a shard would make two, a loop over rows costs more than the copy.
        images = [maps[number][row] for number, row in zip(shard.tolist(), inside.tolist(), strict=True)]
        return np.concatenate(images).reshape(len(rows), self.size, self.size)

    def pixels(self) -> np.ndarray:
        """Uint64 [rows]: a digest of each image's pixels, by which codes are known to be of these very images."""
        texts = (base64.b64decode(shard["pixels"]) for shard in self.shards)
        return np.frombuffer(b"".join(texts), dtype="<u8")

    def verify(self, *, shown: bool = False) -> list[str]:
        """Read every shard and compare its digest with the index: what is wrong with which, nothing where all is well.

        A shard behind a URL is read from there, not from what was fetched of it.
        """
        wrong = []
        for shard in bar(iterable=self.shards, desc=f"shards of {self.size} px", unit="shard", disable=not shown):
            place = f"{self.folder}/{shard['file']}"
            try:
                with fsspec.open(place, "rb") as file:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
            except FileNotFoundError:
                wrong.append(f"{place} is missing")
                continue
            if digest != shard["sha256"]:
                wrong.append(f"{place}: its sha256 is {digest[:12]}, the index says {shard['sha256'][:12]}")
        return wrong

    def _map(self, number: int) -> np.ndarray:
        if number not in self._maps:
            path = self._local(number)
            rows = min(self.rows_per_shard, self.rows - number * self.rows_per_shard)
            self._check_record(path, number)
            try:
                pixels = np.load(path, mmap_mode="r", allow_pickle=False)
            except (ValueError, OSError) as error:
                raise ValueError(f"{path}: cannot be opened as a shard ({error}); {AGAIN}") from error
            if pixels.dtype != np.uint8 or pixels.shape != (rows, self.size, self.size):
                raise ValueError(
                    f"{path}: expected uint8 {(rows, self.size, self.size)} and found {pixels.dtype} {pixels.shape}; "
                    f"remove the file and {AGAIN}"
                )
            # The same memory without np.memmap's slow indexing, which costs as much as copying a small image.
            self._maps[number] = pixels.view(np.ndarray)
        return self._maps[number]

    def _check_record(self, path: Path, number: int) -> None:
        """See that the shard is still the index's: `prepare` may have made it again since that was opened."""
        record = path.with_suffix(".json")
        if not record.is_file():
            return  # fetched by its digest, or copied without records
        try:
            found = json.loads(record.read_text())["sha256"]
        except (ValueError, KeyError) as error:
            raise ValueError(f"{record}: is no record of a shard ({error}); {AGAIN}") from error
        if found != self.shards[number]["sha256"]:
            raise ValueError(
                f"{path}: was made again after this process had opened {self.folder}; start the process again"
            )

    def _local(self, number: int) -> Path:
        """The shard's file; one of a URL is fetched first, once for all processes, and its digest is checked."""
        shard = self.shards[number]
        if "://" not in self.folder:
            return Path(self.folder) / shard["file"]
        assert self.cache is not None
        # By its content: what is at a URL may have been made again.
        path = self.cache / f"shards-{self.data_digest[:12]}-{self.size}" / f"{shard['sha256'][:12]}-{shard['file']}"
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._lock, FileLock(f"{path}.lock"):
            if not path.is_file():
                with replacing(path) as temporary:
                    self._fetch(shard["file"], temporary)
                    found = file_digest(temporary)
                    if found != shard["sha256"]:
                        raise ValueError(
                            f"{self.folder}/{shard['file']}: its sha256 is {found[:12]}, the index says "
                            f"{shard['sha256'][:12]}; copy the prepared folder again"
                        )
        return path

    def _fetch(self, name: str, path: Path) -> None:
        try:
            with fsspec.open(f"{self.folder}/{name}", "rb") as remote, path.open("wb") as local:
                while block := remote.read(READ):
                    local.write(block)
        except FileNotFoundError as error:
            raise ValueError(f"{self.folder}/{name} is missing; copy the whole prepared folder again") from error


def file_digest(path: Path) -> str:
    """Sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def pixel_digest(pixels: bytes) -> bytes:
    """Eight bytes that tell one image's pixels from another's."""
    return hashlib.blake2b(pixels, digest_size=8).digest()


def ids_digest(image_ids: Iterable[str]) -> str:
    """Sha256 of image ids in order: equal digests mean the same pictures in the same places."""
    return hashlib.sha256("\n".join(image_ids).encode()).hexdigest()


def images_digest(manifest: Manifest, *, size: int) -> str:
    """Sha256 over which pictures these are, in which order, at which size; reports and labels do not enter.

    Pictures are known by their ids and by their paths within the data set, which may be moved. What is in the files
    does not enter: `datamodules.stamps` and `ShardStore.pixels` know that. A phantom is drawn by this package, so the
    text of its code enters: after a change its images are made again.
    """
    state = hashlib.sha256(f"images:{SCHEMA}:{size}:{manifest.source}\n".encode())
    if manifest.frame["image"].str.startswith(PHANTOM).any():
        state.update(phantom_code().encode())
    pairs = zip(manifest.frame["image_id"], image_names(manifest.frame["image"]), strict=True)
    state.update("".join(f"{image_id}\t{image}\n" for image_id, image in pairs).encode())
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
