"""`python -m datamodules verify FOLDER`: are prepared shards still what was written?"""

import argparse
import tempfile
from pathlib import Path

from datamodules.manifest import Manifest
from datamodules.prepared import fetch_manifest, positions, prepared_sizes
from datamodules.shards import ShardStore

MEND = (
    "remove each shard that is named, with the .json beside it, and run prepare again with the same --out; "
    "a copy is copied again"
)


def verify(folder: str) -> tuple[list[str], str]:
    """Read all shards and compare them with their index, and that with the manifest.

    Args:
        folder: what `prepare` wrote, or an fsspec URL that it was copied to.

    Returns:
        What is wrong, a line each, nothing where all is well; and what was looked at.

    Raises:
        FileNotFoundError: when it holds no manifest or no finished shards.
        ValueError: when the manifest or an index cannot be read.
    """
    sizes = prepared_sizes(folder)
    if not sizes:
        raise FileNotFoundError(
            f"{folder} holds no finished shards; name the folder that was given to prepare as --out, or finish it first"
        )
    wrong: list[str] = []
    with tempfile.TemporaryDirectory() as cache:
        manifest = fetch_manifest(folder, cache=Path(cache))
        ids = Manifest.load(manifest).frame["image_id"].tolist()
        for size in sizes:
            store = ShardStore.open(folder, size=size, cache=cache)
            wrong += store.verify(shown=True)
            try:
                positions(store, manifest=manifest, image_ids=ids)
            except ValueError as error:
                wrong.append(str(error))
    return wrong, f"{len(store.shards)} shards of {len(ids)} images at {' and '.join(map(str, sizes))} px"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the parser the command's arguments."""
    parser.add_argument("folder", help="what prepare wrote: its --out, or an fsspec URL of a copy")


def run(given: argparse.Namespace) -> int:
    """Print what is wrong; 1 where anything is."""
    wrong, what = verify(given.folder)
    for line in wrong:
        print(f"error: {line}")
    print(f"verify: {given.folder}: {what}, {f'{len(wrong)} errors; {MEND}' if wrong else 'all as written'}")
    return 1 if wrong else 0
