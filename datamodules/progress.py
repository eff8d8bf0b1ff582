"""The progress bar of work that takes longer than a few seconds."""

import sys
from typing import Any

from tqdm import tqdm


def bar(*, desc: str, unit: str, **options: Any) -> tqdm:
    """A tqdm bar on standard error: once a second on a terminal, every half minute in a log file.

    Args:
        desc: what is being done.
        unit: of what is counted.
        options: as tqdm takes them: iterable, total, initial, disable, ...
    """
    return tqdm(desc=desc, unit=unit, mininterval=1.0 if sys.stderr.isatty() else 30.0, **options)
