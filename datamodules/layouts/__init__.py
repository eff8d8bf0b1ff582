"""The data sets that can be read: name → read(root, **options) → Manifest.

A layout's file is imported when it is used.
"""

import importlib
import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datamodules.signatures import check_options

if TYPE_CHECKING:
    from datamodules.manifest import Manifest


def _lazy(name: str) -> "Callable[..., Manifest]":
    # The root by position only: an option of that name is refused in words.
    def read_layout(root: str | Path | None, /, **options: Any) -> "Manifest":
        function = importlib.import_module(f"datamodules.layouts.{name}").read
        check_options(function, options, of=f"layout {name}")
        return function(root, **options)

    return read_layout


NAMES = (
    "chexpert",
    "chexpert_plus",
    "joined",
    "keywords",
    "mimic_cxr",
    "nih",
    "openi",
    "padchest",
    "phantom",
    "table",
    "vindr",
)
LAYOUTS: "dict[str, Callable[..., Manifest]]" = {name: _lazy(name) for name in NAMES}


def takes_images(layout: str) -> bool:
    """Whether a layout has the option `images`, by which its texts and labels are read alone."""
    return "images" in inspect.signature(importlib.import_module(f"datamodules.layouts.{layout}").read).parameters


def read(layout: str, root: str | Path | None, /, **options: Any) -> "Manifest":
    """Read a data set.

    Args:
        layout: one of LAYOUTS.
        root: its folder or file; None takes the environment variable CXR_ROOT (the phantom needs neither).
        options: what that layout's `read` takes.

    Raises:
        ValueError: for a layout, an option or a value of it that does not exist, and for what is wrong in the data.
        FileNotFoundError: when the root, or a file that must be in it, is missing.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout {layout!r} does not exist; expected one of {sorted(LAYOUTS)}")
    if layout == "phantom":
        return LAYOUTS[layout]("phantom" if root is None else root, **options)
    return LAYOUTS[layout](root if root else os.environ.get("CXR_ROOT"), **options)
