"""What the numbers and names among CXRDataModule's options may be, checked before anything is read."""

import math
from collections.abc import Sequence

from datamodules.reports.labels import SPLITS, VIEWS

RANGES: dict[str, tuple[float, float]] = {
    "size": (1, math.inf),
    "batch_size": (1, math.inf),
    "limit": (1, math.inf),
    "num_workers": (0, math.inf),
    "balance": (0, 1),
    "augment": (0, 6),  # from 1 / 0.15 on a change of contrast could turn an image into its negative
    "mirror": (0, 1),
}
NAMES = {"views": VIEWS, "predict_splits": SPLITS}


def check_numbers(**values: float | None) -> None:
    """Refuse a number outside its range in RANGES; None is not looked at.

    Raises:
        ValueError: naming the option, what it is and what it may be.
    """
    for name, value in values.items():
        low, high = RANGES[name]
        if value is not None and not low <= value <= high:
            expected = f"at least {low:g}" if high == math.inf else f"{low:g} to {high:g}"
            raise ValueError(f"data.init_args.{name} is {value}; expected {expected}")


def check_names(**values: Sequence[str] | None) -> None:
    """Refuse a name that is not among those of NAMES; None is not looked at.

    Raises:
        ValueError: naming the option, the first such name and those that exist.
    """
    for option, names in values.items():
        wrong = sorted(set(names or ()) - set(NAMES[option]))
        if wrong:
            raise ValueError(f"data.init_args.{option}: {wrong[0]!r} does not exist; expected of {list(NAMES[option])}")


def check_unchanged(**caches: str | None) -> None:
    """Refuse a cache of codes beside images that are changed at random; the values are paths, None where there is none.

    Raises:
        ValueError: naming the option.
    """
    for name, path in caches.items():
        if path:
            raise ValueError(
                f"data.init_args.{name} holds codes of unchanged images; set augment and mirror to 0 with it"
            )
