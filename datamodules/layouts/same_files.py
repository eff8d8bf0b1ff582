"""Which paths are the same file, however they are written: `./`, `..`, `//`, relative or absolute, through links."""

import contextlib
import os
import posixpath

import pandas as pd

MANY = 20_000


def file_keys(images: pd.Series) -> pd.Series:
    """A text for each path that is equal for two spellings of one file.

    Links are followed by a look at each folder, none at each file. Above MANY folders, as with one a study, links
    inside of the data set are not followed: on a network disk that many looks would take minutes.

    Args:
        images: local paths, absolute or from the working folder, URLs and references of phantoms ("" too).
    """
    parts = images.str.rpartition("/")
    folders = list(dict.fromkeys(parts[0]))
    local = [folder for folder in folders if "://" not in folder]
    if len(local) > MANY:
        whole = {folder: os.path.abspath(folder) for folder in local}
        common = os.path.commonpath(whole.values())
        start = os.path.realpath(common)
        real = {folder: start + place.removeprefix(common) for folder, place in whole.items()}
        links: dict[str, str] = {}
    else:
        real = {folder: os.path.realpath(folder) for folder in local}
        links = {link: target for folder in set(real.values()) for link, target in _links(folder).items()}
    for folder in folders:
        if "://" in folder:
            scheme, _, rest = folder.partition("://")
            real[folder] = f"{scheme}://{posixpath.normpath(rest)}"
    keys = parts[0].map(real) + "/" + parts[2]
    keys = keys.map(links).fillna(keys) if links else keys
    bare = parts[1] == ""
    keys[bare] = images[bare].map(_bare)
    return keys


def _bare(name: str) -> str:
    """Of a name without a folder: a phantom's reference stays, a file is where the program started."""
    return name if name == "" or ":" in name else os.path.realpath(name)


def _links(folder: str) -> dict[str, str]:
    """Links among a folder's files → what they lead to; listing a folder tells without a look at each file."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        return {entry.path: os.path.realpath(entry.path) for entry in entries if entry.is_symlink()}
    return {}
