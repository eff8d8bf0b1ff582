"""`prepare` on 3,000 px JPEGs against Pillow's full decode and Lanczos: `python -m tests.benchmarks.prepare_rate`."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from datamodules.prepare import prepare
from datamodules.shards import ShardStore
from tests.benchmarks.jpegs import SIDE, write_jpegs
from tests.benchmarks.record import interleaved, write
from tests.datamodules.pictures import manifest_of

COUNT, SIZE, ROUNDS = 12, 256, 15


def plain(path: Path) -> np.ndarray:
    """What a script without this package does."""
    with Image.open(path) as picture:
        return np.asarray(picture.convert("L").resize((SIZE, SIZE), Image.Resampling.LANCZOS))


def measure() -> dict[str, Any]:
    """Ratios per core (processor time, one process) and the agreement of both sides' pixels."""
    with tempfile.TemporaryDirectory() as folder:
        paths = write_jpegs(Path(folder) / "in", COUNT)
        manifest, out = manifest_of(paths), Path(folder) / "out"

        def ours(sizes: list[int]) -> None:
            shutil.rmtree(out, ignore_errors=True)
            prepare(manifest, sizes=sizes, out=out, workers=1)

        sides = {
            "plain": lambda: [plain(path) for path in paths],
            "ours": lambda: ours([SIZE]),
            "both": lambda: ours([SIZE, 2 * SIZE]),
        }
        seconds = interleaved(sides, rounds=ROUNDS, cpu=True)
        mine = ShardStore.open(out, size=SIZE).gather(np.arange(COUNT)).astype(np.float64)
        error = ((mine - np.stack([plain(path) for path in paths])) ** 2).mean(axis=(1, 2))
        megabytes = sum(path.stat().st_size for path in paths) / COUNT / 1e6
    decibels = 10 * np.log10(255**2 / error)
    return write(
        "prepare_rate",
        {
            "jpeg_side": SIDE,
            "jpeg_megabytes": megabytes,
            "plain_images_per_s_core": COUNT / seconds["plain"],
            "prepare_images_per_s_core": COUNT / seconds["ours"],
            "prepare_256_and_512_images_per_s_core": COUNT / seconds["both"],
            "ratio": seconds["plain"] / seconds["ours"],
            "agreement_db_min": float(decibels.min()),
            "agreement_db_mean": float(decibels.mean()),
            "hours_for_mimic_cxr_on_2_cores": 377_110 / (2 * COUNT / seconds["ours"]) / 3600,
        },
    )


if __name__ == "__main__":
    measure()
