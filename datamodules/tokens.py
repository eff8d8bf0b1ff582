"""Codes and clues of a data set's images, cached under the digests of the data and of what made them.

A cache is one safetensors file: the array, the image ids in the same order, and metadata. It is looked up by image id,
so a subset of the data set may be served from it; a cache of other data, or of another size, is refused.
"""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from datamodules.files import replacing
from datamodules.stamps import changed

SCHEMA = 2
Kind = Literal["codes", "clues"]
MAKERS: dict[str, str] = {
    "codes": "python main.py predict -c configs/base.yaml -c configs/codebook.yaml --ckpt_path=<codebook>.ckpt",
    "clues": "python main.py predict -c configs/base.yaml -c configs/aligner.yaml --ckpt_path=<aligner>.ckpt",
}


class Pictures(NamedTuple):
    """What is known of N images.

    Attributes:
        files: int64 [N,2] of bytes and times, see `datamodules.stamps.file_facts`.
        pixels: uint64 [N], `ShardStore.pixels`; None where no resized images are at hand.
    """

    files: np.ndarray
    pixels: np.ndarray | None = None

    def digest(self) -> str:
        """Sha256 of what is known."""
        return hashlib.sha256(b" ".join(part.tobytes() for part in self if part is not None)).hexdigest()


def write_tokens(
    path: str | Path,
    *,
    image_ids: Sequence[str],
    codes: np.ndarray,
    manifest_digest: str,
    checkpoint_digest: str,
    codes_total: int,
    pictures: Pictures | None = None,
) -> None:
    """Write a cache of image codes.

    Args:
        path: the file, written under a temporary name first.
        image_ids: N distinct ids.
        codes: int [N, h, w] in [0, codes_total).
        manifest_digest: `CXRDataModule.tokens_key` of the data that was encoded.
        checkpoint_digest: sha256 of the codebook's checkpoint.
        codes_total: number of entries of the codebook.
        pictures: what is known of the N images that were encoded.

    Raises:
        ValueError: for a wrong shape, a repeated id or a code out of range.
    """
    if codes.ndim != 3:
        raise ValueError(f"{path}: codes are [N, h, w], found {codes.shape}")
    _check_range(codes, low=0, high=codes_total, what="code", path=path)
    dtype = np.uint16 if codes_total <= 65536 else np.int32
    facts = {"kind": "codes", "codes_total": str(codes_total)}
    facts |= {"manifest_digest": manifest_digest, "checkpoint_digest": checkpoint_digest}
    _write(path, image_ids, codes.astype(dtype), facts, pictures)


def write_clues(
    path: str | Path,
    *,
    image_ids: Sequence[str],
    clues: np.ndarray,
    manifest_digest: str,
    key_patches_digest: str,
    codes_total: int,
    positions_total: int,
    pictures: Pictures | None = None,
) -> None:
    """Write a cache of clues.

    Args:
        path: the file, written under a temporary name first.
        image_ids: N distinct ids.
        clues: int [N, K, 2] of (code, position), both -1 where a row has fewer than K.
        manifest_digest: `CXRDataModule.clues_key` of the data whose reports fetched them.
        key_patches_digest: sha256 of the key-patch file that they were fetched from; it names its aligner.
        codes_total: number of entries of the codebook.
        positions_total: number of cells of the token grid, h × w.
        pictures: as in `write_tokens`.

    Raises:
        ValueError: for a wrong shape, a repeated id, or a code or position out of range.
    """
    if clues.ndim != 3 or clues.shape[2] != 2:
        raise ValueError(f"{path}: clues are [N, K, 2], found {clues.shape}")
    _check_range(clues[..., 0], low=-1, high=codes_total, what="code", path=path)
    _check_range(clues[..., 1], low=-1, high=positions_total, what="position", path=path)
    facts = {"kind": "clues", "codes_total": str(codes_total), "positions_total": str(positions_total)}
    facts |= {"manifest_digest": manifest_digest, "checkpoint_digest": key_patches_digest}
    _write(path, image_ids, clues.astype(np.int32), facts, pictures)


@dataclasses.dataclass(frozen=True)
class TokenCache:
    """A cache of codes [N, h, w] or of clues [N, K, 2].

    Attributes:
        kind: which of the two.
        values: the array as stored.
        index: image id → row of `values`.
        manifest_digest: of the data that it was made from.
        checkpoint_digest: sha256 of what made it: the codebook's checkpoint, or the key patches.
        codes_total: number of entries of the codebook.
        path: where it was read.
        pictures: what was known of the images that it was made from.
    """

    kind: Kind
    values: np.ndarray
    index: dict[str, int]
    manifest_digest: str
    checkpoint_digest: str
    codes_total: int
    path: Path
    pictures: Pictures

    @staticmethod
    def load(path: str | Path, *, kind: Kind, manifest_digest: str | None = None) -> "TokenCache":
        """Read a cache.

        Args:
            path: what `write_tokens` or `write_clues` wrote.
            kind: what it must hold.
            manifest_digest: of the data that it is to be used with; None does not check.

        Raises:
            FileNotFoundError: when there is no such file.
            ValueError: when it holds something else, comes from other data, or has codes out of range.
        """
        path = Path(path)
        again = f"make it again: {MAKERS[kind]}"
        if not path.is_file():
            raise FileNotFoundError(f"{kind} cache {path} does not exist; {again}")
        try:
            with safe_open(path, framework="numpy") as file:
                facts = file.metadata() or {}
                if facts.get("kind") != kind or facts.get("schema") != str(SCHEMA):
                    raise ValueError(
                        f"{path}: expected a {kind} cache of schema {SCHEMA} and found kind {facts.get('kind')!r}, "
                        f"schema {facts.get('schema')!r}; {again}"
                    )
                if manifest_digest is not None and facts["manifest_digest"] != manifest_digest:
                    raise ValueError(
                        f"{path}: was made from data {facts['manifest_digest'][:12]}, and this data set at this size "
                        f"is {manifest_digest[:12]}; {again}"
                    )
                values, ids = file.get_tensor("values"), file.get_tensor("image_ids")
                pixels = file.get_tensor("pixels") if "pixels" in file.keys() else None  # noqa: SIM118
                pictures = Pictures(file.get_tensor("files"), pixels)
        except SafetensorError as error:
            raise ValueError(f"{path}: is not a readable safetensors file ({error}); {again}") from error
        names = ids.tobytes().decode().split("\n") if ids.size else []
        if len(names) != len(values):
            raise ValueError(f"{path}: has {len(names)} image ids and {len(values)} rows; {again}")
        codes_total = int(facts["codes_total"])
        low = 0 if kind == "codes" else -1
        _check_range(values if kind == "codes" else values[..., 0], low=low, high=codes_total, what="code", path=path)
        if kind == "clues":
            _check_range(values[..., 1], low=-1, high=int(facts["positions_total"]), what="position", path=path)
        index = {name: row for row, name in enumerate(names)}
        made_from, made_by = facts["manifest_digest"], facts["checkpoint_digest"]
        return TokenCache(kind, values, index, made_from, made_by, codes_total, path, pictures)

    def rows(self, image_ids: Sequence[str]) -> np.ndarray:
        """Int64 rows of `values`, in the order of the ids.

        Raises:
            ValueError: naming the first image that is not in the cache.
        """
        missing = [i for i in image_ids if i not in self.index]
        if missing:
            raise ValueError(
                f"{self.path}: image {missing[0]} is not in the {self.kind} cache ({len(missing)} of {len(image_ids)} "
                f"are not); make it again over all splits and views: {MAKERS[self.kind]}"
            )
        return np.fromiter((self.index[i] for i in image_ids), dtype=np.int64, count=len(image_ids))

    def check_pictures(self, image_ids: Sequence[str], now: Pictures) -> None:
        """See that it was made from the images that are there now, by their pixels or else by their files.

        Args:
            image_ids: N ids, all in the cache.
            now: what is known of these images.

        Raises:
            ValueError: naming the first image that has changed.
        """
        rows = self.rows(image_ids)
        if self.pictures.pixels is not None and now.pixels is not None:
            other = self.pictures.pixels[rows] != now.pixels
            what, mend = "the picture", ""
        else:
            other = changed(self.pictures.files[rows], now.files)
            what = "the size or time of the file"
            mend = "see by its pixels whether the picture is the same (data.init_args.images=true, store=shards), or "
        if other.any():
            raise ValueError(
                f"{self.path}: {what} of image {image_ids[int(other.argmax())]} is not the one that these {self.kind} "
                f"are of ({int(other.sum())} of {len(image_ids)} have changed); {mend}make it again: "
                f"{MAKERS[self.kind]}"
            )


def _write(
    path: str | Path, image_ids: Sequence[str], values: np.ndarray, facts: dict[str, str], pictures: Pictures | None
) -> None:
    path = Path(path)
    if len(image_ids) != len(values):
        raise ValueError(f"{path}: {len(image_ids)} image ids for {len(values)} rows")
    if len(set(image_ids)) != len(image_ids):
        repeated = next(i for n, i in enumerate(image_ids) if i in image_ids[:n])
        raise ValueError(f"{path}: image {repeated} is given twice; predict without padding or repeats")
    if any("\n" in i or not i for i in image_ids):
        raise ValueError(f"{path}: an image id is empty or has a line break")
    names = np.frombuffer("\n".join(image_ids).encode(), dtype=np.uint8)
    tensors = {"values": np.ascontiguousarray(values), "image_ids": names}
    tensors["files"] = np.full((len(values), 2), -1, dtype=np.int64) if pictures is None else pictures.files
    if pictures is not None and pictures.pixels is not None:
        tensors["pixels"] = np.ascontiguousarray(pictures.pixels, dtype=np.uint64)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata=facts | {"schema": str(SCHEMA)})
        _sort_metadata(temporary)


def _sort_metadata(path: Path) -> None:
    """Put the metadata of a safetensors file in order: it is written in any, and equal caches are to be equal bytes."""
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(length)
        if len(text) != length:
            raise ValueError(f"{path}: a header of {length} bytes became one of {len(text)}")
        file.seek(8)
        file.write(text)


def _check_range(values: np.ndarray, *, low: int, high: int, what: str, path: str | Path) -> None:
    if values.size and (int(values.min()) < low or int(values.max()) >= high):
        raise ValueError(
            f"{path}: {what}s are expected in [{low}, {high}) and found in [{int(values.min())}, {int(values.max())}]"
        )
