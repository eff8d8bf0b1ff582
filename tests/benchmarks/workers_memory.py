"""Start-up and memory of the data module at 400,000 rows against 4,000: `python -m tests.benchmarks.workers_memory`.

Each size runs in a process of its own, with four loader workers. Resident memory is counted as PSS, in which a page
that n processes share counts 1/n for each: the sum over processes is what the machine really holds.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from datamodules.layouts import read
from tests.benchmarks.batches import write_store
from tests.benchmarks.record import write

ROWS, FEW, SIZE, WORKERS, BATCHES = 400_000, 4_000, 16, 4, 400


def write_data(out: Path, rows: int) -> None:
    """Reports of the phantom, repeated, so that their lengths are those of real ones."""
    reports = read("phantom", None, studies=2000, section="both").frame["report"].tolist()
    texts = [f"{reports[n % len(reports)]} {n}" for n in range(rows)]
    write_store(out, np.zeros((rows, SIZE, SIZE), dtype=np.uint8), reports=texts)


def child(out: Path) -> None:
    """Open, draw batches, print the figures as JSON."""
    began = time.perf_counter()
    from datamodules.cxr import CXRDataModule

    data = CXRDataModule(shards=str(out), size=SIZE, batch_size=64, num_workers=WORKERS, cache_dir=str(out / "cache"))
    data.prepare_data()
    batches = iter(data.train_dataloader())
    next(batches)
    started = time.perf_counter() - began
    torch.manual_seed(0)
    for _ in range(min(BATCHES, len(data.train_dataloader()) - 2)):
        next(batches)
    workers = psutil.Process().children()
    memory = [worker.memory_full_info() for worker in workers]
    figures = {
        "workers": len(workers),
        "start_s": started,
        "pss_gb": sum(m.pss for m in memory) / 1e9,
        "uss_gb": sum(m.uss for m in memory) / 1e9,
        "rss_gb": sum(m.rss for m in memory) / 1e9,
        "parent_rss_gb": psutil.Process().memory_info().rss / 1e9,
    }
    print(json.dumps(figures))


def measure() -> dict[str, Any]:
    """Both sizes, twice each: the first start writes the mapped rows, later ones find them."""
    figures: dict[str, Any] = {"rows": ROWS, "workers": WORKERS}
    with tempfile.TemporaryDirectory() as folder:
        for name, rows in (("few", FEW), ("many", ROWS)):
            out = Path(folder) / name
            write_data(out, rows)
            for start in ("first", "again"):
                command = [sys.executable, "-m", "tests.benchmarks.workers_memory", str(out)]
                ran = subprocess.run(command, check=True, capture_output=True, text=True)
                found = json.loads(ran.stdout.strip().splitlines()[-1])
                figures |= {f"{name}_{start}_{key}": value for key, value in found.items()}
    figures["uss_growth_a_worker_mb"] = (figures["many_again_uss_gb"] - figures["few_again_uss_gb"]) * 1e3 / WORKERS
    return write("workers_memory", figures)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        child(Path(sys.argv[1]))
    else:
        measure()
