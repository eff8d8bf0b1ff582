"""Which codes and clues belong to a data set: the keys of their caches, and opening caches that fit."""

import hashlib
from collections.abc import Sequence

import numpy as np

from datamodules.manifest import Manifest
from datamodules.shards import ShardStore, images_digest
from datamodules.stamps import file_facts
from datamodules.tokens import Pictures, TokenCache


def tokens_key(source: Manifest, *, size: int) -> str:
    """Digest of what the codes of this data depend on: the pictures, their order and size, and the splits.

    A codebook has seen its training pictures: under other splits some of them would be test pictures.
    """
    splits = ",".join(source.frame["split"])
    return hashlib.sha256(f"{images_digest(source, size=size)} {splits}".encode()).hexdigest()


def clues_key(source: Manifest, *, codes: str) -> str:
    """Digest of what the clues of this data depend on: what its codes do (their `tokens_key`), and the texts."""
    texts = hashlib.sha256(codes.encode())
    for report in source.frame["report"]:
        texts.update(f"{len(report)} {report}\n".encode())
    return texts.hexdigest()


def pictures_of(
    image_ids: Sequence[str], *, manifest: Manifest, store: ShardStore | None, rows: np.ndarray
) -> Pictures:
    """What is known of some images.

    Args:
        image_ids: images of the manifest.
        manifest: the rows that are served.
        store: the resized images, None where there are none at hand.
        rows: int64 [N], the store's row of each row of the manifest.
    """
    place = {image_id: row for row, image_id in enumerate(manifest.frame["image_id"])}
    mine = np.array([place[image_id] for image_id in image_ids], dtype=np.int64)
    files = file_facts(manifest.frame["image"].iloc[mine].tolist())
    return Pictures(files, None if store is None else store.pixels()[rows[mine]])


def load_caches(
    tokens: str | None, clues: str | None, *, source: Manifest, size: int, served: Sequence[str], now: Pictures
) -> dict[str, TokenCache]:
    """The caches that are named, as "codes" and "clues".

    Args:
        tokens: path of the cache of codes.
        clues: path of the cache of clues.
        source: everything that the layout holds.
        size: side of the images in pixels.
        served: the image ids that will be asked for.
        now: what is known of these images.

    Raises:
        FileNotFoundError: when a cache does not exist.
        ValueError: when it is not of these pictures, splits and texts, or holds something else.
    """
    caches, key = {}, tokens_key(source, size=size)
    if tokens:
        caches["codes"] = TokenCache.load(tokens, kind="codes", manifest_digest=key)
    if clues:
        caches["clues"] = TokenCache.load(clues, kind="clues", manifest_digest=clues_key(source, codes=key))
    for cache in caches.values():
        cache.check_pictures(served, now)
    return caches
