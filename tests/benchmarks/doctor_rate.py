"""How many pictures a second the doctor's pass looks at, by threads and by processes, and what MIMIC-CXR would take.

    python tests/benchmarks/doctor_rate.py [--pictures 4000] [--side 512] [--out runs/benchmarks/doctor_rate.json]

The pictures are made at run time: noise over a slope, JPEG at quality 90, in folders of 100. They are in the page cache
when they are looked at, so a disk that must seek for each file (a hard disk, a network share) is slower than this.
"""

import argparse
import json
import multiprocessing
import os
import platform
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from datamodules.doctor.headers import look_at_each
from datamodules.doctor.pictures import BATCH, granted_cores, look_at
from datamodules.layouts.mimic_cxr import PUBLISHED

PASSES = {"one thread": {"workers": 1}, "threads": {}, "threads, decoding": {"decode": True}}
COPIES = 20  # of one drawn picture; they differ in the comment, so that none is a duplicate


def write_pictures(folder: Path, *, pictures: int, side: int) -> list[str]:
    generator = np.random.default_rng(0)
    slope = np.linspace(20, 220, side)[None, :] + np.zeros((side, 1))
    paths = []
    for number in range(pictures):
        if number % COPIES == 0:
            grey = Image.fromarray(np.clip(slope + generator.normal(0, 12, (side, side)), 0, 255).astype(np.uint8))
        path = folder / f"p{number // 100:04d}" / f"{number:06d}.jpg"
        path.parent.mkdir(exist_ok=True)
        grey.save(path, quality=90, comment=f"{number}".encode())
        paths.append(str(path))
    return paths


def processes(paths: list[str]) -> float:
    """The same looks by processes, without the state file that `look_at` writes."""
    work = [(number, path, None) for number, path in enumerate(paths)]
    batches = [work[start : start + BATCH] for start in range(0, len(work), BATCH)]
    began = time.perf_counter()
    with ProcessPoolExecutor(granted_cores(), mp_context=multiprocessing.get_context("spawn")) as pool:
        assert sum(len(done) for done in pool.map(look_at_each, batches, [False] * len(batches))) == len(paths)
    return len(paths) / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=4000)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/doctor_rate.json"))
    given = parser.parse_args()
    rates: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        paths = write_pictures(Path(folder), pictures=given.pictures, side=given.side)
        size = sum(os.path.getsize(path) for path in paths) / len(paths)
        # One after the other in turns, so that what else the machine does hits all alike; the best counts.
        for repeat in range(given.repeats):
            for name, options in PASSES.items():
                state = Path(folder) / f"{name}{repeat}.jsonl"
                found = look_at(paths, state=state, **options)
                assert found.examined == given.pictures
                assert not found.issues
                rates[name] = max(rates.get(name, 0.0), found.rate)
            again = look_at(paths, state=state)
            assert again.examined == 0
            rates["unchanged"] = max(rates.get("unchanged", 0.0), given.pictures / again.seconds)
            rates["processes"] = max(rates.get("processes", 0.0), processes(paths))
    result = {
        "pictures": given.pictures,
        "side": given.side,
        "mean_bytes": round(size),
        "cores": granted_cores(),
        "machine": platform.machine(),
        "pictures_per_second": {name: round(rate) for name, rate in rates.items()},
        "estimate_seconds": {name: round(PUBLISHED["images"] / rate, 1) for name, rate in rates.items()},
        "estimate_for": PUBLISHED["images"],
    }
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
