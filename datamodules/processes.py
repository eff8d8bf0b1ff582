"""What worker processes may be had."""

import os
import sys
from pathlib import Path


def granted_cores() -> int:
    """The cores that Slurm or a container granted to this process, not those that the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def can_spawn() -> bool:
    """A spawned process imports the main module again, which a script read from standard input does not allow."""
    main = getattr(sys.modules["__main__"], "__file__", None)
    return main is None or Path(main).is_file()
