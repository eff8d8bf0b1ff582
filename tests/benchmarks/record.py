"""Where a benchmark's figures go: JSON under runs/benchmarks/, with the machine they were measured on."""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import PIL
import torch

FOLDER = Path(__file__).parents[2] / "runs" / "benchmarks"


def write(name: str, figures: dict[str, Any]) -> dict[str, Any]:
    """Save and print the figures of one benchmark; what is nested is only saved."""
    versions = {"python": platform.python_version(), "torch": torch.__version__, "numpy": numpy.__version__}
    machine = {"cores": len(os.sched_getaffinity(0)), "processor": platform.machine(), "pillow": PIL.__version__}
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"{name}.json"
    path.write_text(json.dumps(figures | {"machine": machine | versions}, indent=1))
    for key, value in figures.items():
        if isinstance(value, dict):
            continue
        print(f"{key:<40} {value:.4g}" if isinstance(value, float) else f"{key:<40} {value}")
    print(f"→ {path}")
    return figures


def tuned_environment() -> dict[str, str] | None:
    """That of a process in which glibc keeps freed memory, as the Makefile starts all stages; None where this is one.

    glibc reads it when a process starts; page faults would drown the difference of two sides.
    """
    # Not above: it brings all stages with it, and workers_memory.py measures the process that reads this file.
    from main import ALLOCATOR

    tuned = os.environ | ALLOCATOR
    return None if tuned == os.environ else tuned


def keep_memory() -> None:
    """Start this process anew in a `tuned_environment` where it has none."""
    if (tuned := tuned_environment()) is not None:
        os.execve(sys.executable, sys.orig_argv, tuned)


def in_tuned_process(name: str, *arguments: str) -> dict[str, Any] | None:
    """Run `python -m tests.benchmarks.<name> *arguments` with ALLOCATOR set, and read its figures; None where it is."""
    if (tuned := tuned_environment()) is None:
        return None
    command = [sys.executable, "-m", f"tests.benchmarks.{name}", *arguments]
    subprocess.run(command, check=True, cwd=FOLDER.parents[1], env=tuned)
    return json.loads((FOLDER / f"{name}.json").read_text())


def interleaved(sides: dict[str, Callable[[], Any]], *, rounds: int, cpu: bool = False) -> dict[str, float]:
    """Median seconds of each side, taken in turns so that what else the machine does hits all of them.

    Args:
        sides: name → what is timed.
        rounds: how often each.
        cpu: time of this process on its core instead of wall-clock time.
    """
    clock = time.process_time if cpu else time.perf_counter
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, function in sides.items():
            began = clock()
            function()
            times[name].append(clock() - began)
    return {name: statistics.median(values) for name, values in times.items()}
