"""Which layout a folder, file or URL is."""

import importlib
import os
import tarfile
import zipfile
import zlib
from pathlib import Path
from types import ModuleType
from xml.etree.ElementTree import ParseError

from datamodules import layouts
from datamodules.layouts.table import SUFFIXES as TABLES
from datamodules.prepare import PLAN
from datamodules.prepared import MANIFEST

# `phantom` has no files, `joined` is asked for by name; `table` takes any single table, so it is asked last.
LAST = "table"
NAMES = (*(name for name in layouts.NAMES if name not in ("phantom", "joined", LAST)), LAST)
MOST_FOLDERS = 50
# wget -r leaves MIMIC-CXR-JPG in physionet.org/files/mimic-cxr-jpg/2.1.0; a picture may lie four folders deep.
DEEPEST = 4
# What a damaged file raises in the libraries that open it, where a reader has no words of its own for it.
DAMAGE = (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, tarfile.TarError, zlib.error, ParseError)


def module(layout: str) -> ModuleType:
    """The module of a layout."""
    return importlib.import_module(f"datamodules.layouts.{layout}")


def recognise(root: Path) -> list[str]:
    """The layouts that take `root` for theirs, most specific first; `table` only where no other does.

    None takes what `prepare` wrote, though a manifest is a table, nor what may not be read.
    """
    if not readable(root):
        return []
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


def readable(root: Path) -> bool:
    """Whether a local folder may be listed and its files looked at; True of a file or URL, whose reader will say."""
    if "://" in str(root):
        return True
    try:
        if root.is_dir():
            # The one needs leave to read the folder, the other to search it.
            os.listdir(root)
            os.stat(f"{root}/.")
    except PermissionError:
        return False
    return True


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
    """Folders under `root` that are a data set, of the level that has some: a user often names a folder too high."""
    level, looked = [root], 0
    for _ in range(DEEPEST):
        level = [child for folder in level for child in _folders(folder)][: MOST_FOLDERS - looked]
        looked += len(level)
        sets = [f"{child} ({', '.join(found)})" for child in level if (found := recognise(child))]
        if sets or not level:
            return sets
    return []


def above(root: Path) -> str:
    """The nearest folder above a local root that is a data set, else "": a user often names the pictures' folder.

    Of a table only the folder beside it counts: any folder of one's own may have a table somewhere above.
    """
    if "://" in str(root):
        return ""
    for distance, parent in enumerate(list(root.absolute().parents)[:DEEPEST]):
        found = recognise(parent)
        if found and (found != [LAST] or distance == 0):
            return f"{parent} ({', '.join(found)})"
    return ""


def _folders(folder: Path) -> list[Path]:
    if not readable(folder) or not folder.is_dir():
        return []
    return [child for child in sorted(folder.iterdir(), key=str) if child.is_dir() and not child.name.startswith(".")]


def _first_line(name: str) -> str:
    return (module(name).__doc__ or "").strip().splitlines()[0]
