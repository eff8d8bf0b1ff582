"""Phantoms written to disk as each public data set is: layout → write(out, *, studies, seed, size, ...) → Manifest.

A writer returns what a right reader of its folder must find, from the phantom alone: it never calls the reader.
"""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datamodules.signatures import check_options

if TYPE_CHECKING:
    from datamodules.manifest import Manifest

NAMES = ("chexpert", "chexpert_plus", "mimic_cxr", "nih", "openi", "padchest", "table", "vindr")


def write(layout: str, out: str | Path, *, studies: int, seed: int = 0, size: int = 256, **options: Any) -> "Manifest":
    """Write phantoms in a data set's own layout.

    Args:
        layout: one of NAMES.
        out: the folder, which must be empty or not exist yet.
        studies: how many phantoms, ≥ 1.
        seed: of the phantoms.
        size: side of the pictures in pixels, before a layout crops or pads them.
        options: what that layout's `write` takes besides, e.g. which variant of the data set; each is a bool or one of
            the values that its `Literal` lists.

    Returns:
        The manifest that the layout's `read` must give with its default options.

    Raises:
        ValueError: for a layout, an option or a value that does not exist, or a folder that is not empty.
    """
    if layout not in NAMES:
        raise ValueError(f"no phantom is written as {layout!r}; expected one of {sorted(NAMES)}")
    if studies < 1:
        raise ValueError(f"expected at least 1 study, found {studies}")
    function: Callable[..., Manifest] = importlib.import_module(f"datamodules.phantom.disk.{layout}").write
    common = {"studies": studies, "seed": seed, "size": size}
    check_options(function, {**common, **options}, of=f"the writer of {layout}")
    out = Path(out)
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"{out} is not empty; name a new folder, nothing is written over")
    out.mkdir(parents=True, exist_ok=True)
    return function(out, **common, **options)
