"""Which layout a folder, file or URL is."""

import importlib
import tarfile
import zipfile
import zlib
from pathlib import Path
from types import ModuleType
from xml.etree.ElementTree import ParseError

from datamodules import layouts
from datamodules.layouts.table import SUFFIXES as TABLES
from datamodules.prepare import MANIFEST

# `phantom` has no files, `joined` is asked for by name; `table` takes any single table, so it is asked last.
LAST = "table"
NAMES = (*(name for name in layouts.NAMES if name not in ("phantom", "joined", LAST)), LAST)
MOST_CHILDREN = 50
PLAN = "plan.json"  # prepare's first file, there before any shard
# What a damaged file raises in the libraries that open it, where a reader has no words of its own for it.
DAMAGE = (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, tarfile.TarError, zlib.error, ParseError)


def module(layout: str) -> ModuleType:
    """The module of a layout."""
    return importlib.import_module(f"datamodules.layouts.{layout}")


def recognise(root: Path) -> list[str]:
    """The layouts that take `root` for theirs, most specific first; `table` only where no other does.

    None takes what `prepare` wrote, though a manifest is a table.
    """
    found: list[str] = []
    damaged: list[str] = []
    for name in NAMES:
        if name == LAST and (found or damaged or prepared(root) is not None):
            break
        try:
            if module(name).recognise(root):
                found.append(name)
        except DAMAGE:
            # Its file is there and cannot be looked into: reading it will say why.
            damaged.append(name)
    return found or damaged


def prepared(root: Path) -> Path | None:
    """The folder that `prepare` wrote, where `root` is it, or a size or the manifest in it; else None.

    A folder with another table is a data set's, into which shards were written.
    """
    folder = root.parent if root.name == MANIFEST or root.name.isdigit() else root
    if not (folder / PLAN).is_file():
        return None
    others = [file.name for file in folder.iterdir() if file.name.endswith(TABLES) and file.name != MANIFEST]
    return None if others else folder


def published(layout: str, root: Path) -> dict[str, int]:
    """The published counts of a layout, from its `published(root)` or its PUBLISHED; {} where it has neither."""
    of_edition = getattr(module(layout), "published", None)
    return dict(of_edition(root) if of_edition is not None else getattr(module(layout), "PUBLISHED", {}))


def needs(names: tuple[str, ...] | list[str] = NAMES) -> str:
    """What each of these layouts looks for, one a line."""
    return "\n".join(f"  {name}: {getattr(module(name), 'EXPECTED', '') or _first_line(name)}" for name in names)


def below(root: Path) -> list[str]:
    """Folders directly under `root` that are a data set: a user often names the folder above."""
    if not root.is_dir():
        return []
    folders = [child for child in sorted(root.iterdir(), key=str) if child.is_dir()][:MOST_CHILDREN]
    return [f"{child} ({', '.join(found)})" for child in folders if (found := recognise(child))]


def _first_line(name: str) -> str:
    return (module(name).__doc__ or "").strip().splitlines()[0]
