"""Batches from shards against files, another dataset, the bare store: `python -m tests.benchmarks.batches`."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datamodules.cxr import CXRDataModule
from datamodules.manifest import make_manifest
from datamodules.phantom import disk
from datamodules.prepare import prepare
from datamodules.shards import ShardStore
from tests.benchmarks.jpegs import write_jpegs
from tests.benchmarks.record import interleaved, write
from tests.datamodules.pictures import manifest_of

BATCH, SIZE, ROUNDS = 64, 256, 7
STORE_ROUNDS = 25  # of a twentieth of a second each, at the speed of memory, which other processes share
JPEGS, NIH = 12, 256


def module(out: Path, cache: Path, *, size: int = SIZE) -> CXRDataModule:
    return CXRDataModule(shards=str(out), size=size, batch_size=BATCH, cache_dir=str(cache))


def measure() -> dict[str, Any]:
    """Seconds an image of both sides of each comparison, and their ratios."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        figures = from_jpegs(place / "jpeg") | from_nih_files(place / "nih") | from_bare_store(place / "bare")
    return write("batches", figures)


def from_jpegs(place: Path) -> dict[str, Any]:
    """Shards against decoding 3,000 px JPEGs for every epoch, both through the data module."""
    paths = write_jpegs(place / "in", JPEGS)
    prepare(manifest_of(paths), sizes=[SIZE], out=place / "out")
    shards = module(place / "out", place / "cache").train_dataloader()
    files = module(place / "out", place / "cache")
    files.shards, files.store = None, "files"
    files.source = module(place / "out", place / "cache").source
    reading = files.train_dataloader()
    seconds = interleaved({"shards": lambda: list(shards), "files": lambda: list(reading)}, rounds=ROUNDS)
    return {
        "files_3000px_images_per_s": JPEGS / seconds["files"],
        "shards_images_per_s_of_these": JPEGS / seconds["shards"],
        "ratio_to_jpegs": seconds["files"] / seconds["shards"],
    }


def from_nih_files(place: Path) -> dict[str, Any]:
    """Shards against torchxrayvision's NIH dataset on the same 256 px files, with the labels that both give."""
    import torchxrayvision

    disk.write("nih", place / "nih", studies=NIH, size=SIZE, folders=1)
    table = next((place / "nih").glob("Data_Entry_2017*.csv"))
    theirs = torchxrayvision.datasets.NIH_Dataset(
        imgpath=str(next((place / "nih").glob("images*"))), csvpath=str(table), unique_patients=False
    )
    from datamodules import layouts

    manifest = layouts.read("nih", place / "nih")
    prepare(manifest, sizes=[SIZE], out=place / "out")
    data = module(place / "out", place / "cache")
    loaders = [data.train_dataloader(), data.val_dataloader(), data.test_dataloader()]
    sides = {
        "ours": lambda: [batch["image"].shape for loader in loaders for batch in loader],
        "theirs": lambda: [theirs[index]["img"].shape for index in range(len(theirs))],
    }
    seconds = interleaved(sides, rounds=3)
    rates = {"ours": len(manifest) / seconds["ours"], "theirs": len(theirs) / seconds["theirs"]}
    return {
        "nih_256px_torchxrayvision_images_per_s": rates["theirs"],
        "nih_256px_shards_images_per_s": rates["ours"],
        "ratio_to_torchxrayvision": rates["ours"] / rates["theirs"],
    }


def from_bare_store(place: Path) -> dict[str, Any]:
    """The loader against fancy indexing of one mapped array: to bytes, and to the floats of a batch."""
    count = 8192
    pixels = np.random.default_rng(0).integers(0, 255, (count, SIZE, SIZE), dtype=np.uint8)
    place.mkdir()
    np.save(place / "one.npy", pixels)
    write_store(place / "out", pixels)
    bare, store = np.load(place / "one.npy", mmap_mode="r"), ShardStore.open(place / "out", size=SIZE)
    loader = module(place / "out", place / "cache").train_dataloader()
    order = loader.sampler.order()
    batches = [order[start : start + BATCH] for start in range(0, count, BATCH)]
    np.testing.assert_array_equal(store.gather(batches[0]), bare[batches[0]])

    def floats(rows: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(bare[rows]).unsqueeze(1).float().div_(127.5).sub_(1.0)

    def empty(batches: Any) -> None:
        for _ in batches:
            pass

    sides = {
        "bare": lambda: empty(bare[rows] for rows in batches),
        "gather": lambda: empty(store.gather(rows) for rows in batches),
        "bare_floats": lambda: empty(floats(rows) for rows in batches),
        "loader": lambda: empty(loader),
    }
    empty(floats(rows) for rows in batches)  # into the page cache
    seconds = interleaved(sides, rounds=STORE_ROUNDS)
    return {
        "bare_uint8_images_per_s": count / seconds["bare"],
        "gather_uint8_images_per_s": count / seconds["gather"],
        "ratio_gather_to_bare": seconds["gather"] / seconds["bare"],
        "bare_float_images_per_s": count / seconds["bare_floats"],
        "loader_images_per_s": count / seconds["loader"],
        "ratio_loader_to_bare": seconds["loader"] / seconds["bare_floats"],
    }


def write_store(out: Path, pixels: np.ndarray, *, reports: list[str] | None = None) -> None:
    """Shards as `prepare` writes them, of pixels that exist only as an array."""
    import base64
    import json

    from datamodules.prepare import MOST_ROWS
    from datamodules.prepared import MANIFEST
    from datamodules.shard_writer import shard_name
    from datamodules.shards import INDEX, SCHEMA, file_digest, ids_digest

    size = pixels.shape[1]
    (out / str(size)).mkdir(parents=True)
    names = []
    for number, start in enumerate(range(0, len(pixels), MOST_ROWS)):
        part = pixels[start : start + MOST_ROWS]
        digests = base64.b64encode(bytes(8 * len(part))).decode()
        names.append({"file": shard_name(number), "sha256": "", "pixels": digests})
        np.save(out / str(size) / shard_name(number), part)
    index = {"schema": SCHEMA, "size": size, "rows": len(pixels), "rows_per_shard": MOST_ROWS, "shards": names}
    index |= {"data_digest": "", "unreadable": [], "shapes": {}}
    index["served_ids"] = ids_digest(f"{n:08x}-{n:08x}-{n:08x}-{n:08x}" for n in range(len(pixels)))
    texts = reports or ["The lungs are clear. No pleural effusion or pneumothorax."] * len(pixels)
    rows = {
        "image": [f"files/p{n % 100:02d}/{n}.jpg" for n in range(len(pixels))],
        "image_id": [f"{n:08x}-{n:08x}-{n:08x}-{n:08x}" for n in range(len(pixels))],
        "study_id": [f"s{n:08d}" for n in range(len(pixels))],
        "patient_id": [f"p{n // 4:08d}" for n in range(len(pixels))],
        "split": ["train" if n < 0.97 * len(pixels) // 4 * 4 else "validate" for n in range(len(pixels))],
        "view": ["PA"] * len(pixels),
        "report": texts,
    }
    import pandas as pd

    make_manifest(pd.DataFrame(rows), source="x").save(out / MANIFEST)
    (out / str(size) / INDEX).write_text(json.dumps(index | {"manifest": file_digest(out / MANIFEST)}))


if __name__ == "__main__":
    measure()
