"""Several data sets as one: their rows one after the other, each with its set's name before its ids.

Collections overlap: CheXpert Plus holds CheXpert's pictures, and one data set may be given twice under two roots. A
picture or a patient that is in several sets is in the ledger, as an error where the splits differ. Pictures are found
by their path, however it is written and through links, and, with their patients, by their id in sets of one layout or
of `FAMILIES`: those ids are the publishers' own. The ids of `PRIVATE` layouts are not compared: two tables of
images/1.png, 2.png and so on have nothing in common, and equal texts ("No acute process.") prove nothing either. An
overlap of other collections (NIH ChestX-ray14 and its annotated parts as a table) cannot be seen: do not join them.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from datamodules import layouts
from datamodules.layouts.same_files import file_keys
from datamodules.layouts.source import as_path, ids_of, open_root
from datamodules.manifest import COLUMNS, IDS, Manifest, Remark

EXPECTED = "the folders that the sets' roots name"
EXAMPLE = "[{layout: nih, root: nih}, {layout: openi, root: openi, section: first}]"
OWN = ("layout", "root", "name")
FAMILIES = {"chexpert": "CheXpert", "chexpert_plus": "CheXpert"}  # layouts that share their ids
PRIVATE = ("joined", "keywords", "phantom", "table")  # layouts whose ids mean nothing outside the set


def read(root: str | Path | None = None, *, images: bool = True, sets: Sequence[Mapping[str, Any]]) -> Manifest:
    """Read the sets and join them.

    Args:
        root: where relative roots of the sets start; None is the working folder.
        images: False reads the tables alone, in every set that has some.
        sets: in order, each with `layout`; `root`, a path or an fsspec URL, which the phantom needs not; `name`, by
            default the layout's, which the same layout twice needs; and any options of the layout.

    Returns:
        All rows; `image_id`, `study_id` and `patient_id` are "<name>/<id>", so they are unique and splits stay those of
        each set. `Manifest.source` is the names joined by "+", the column `source` the name. The ledgers follow one
        another, "<name>: " before each reason.

    Raises:
        FileNotFoundError: when the root, or what a set needs, is missing.
        ValueError: for what is wrong in `sets` or in a set. Both name the item, counted from 1.
    """
    base = open_root(root, layout="joined", expected=EXPECTED) if root else None
    names = _names(sets)
    frames: list[pd.DataFrame] = []
    drops: list[Remark] = []
    notes: list[Remark] = []
    for number, (name, item) in enumerate(zip(names, sets, strict=True), 1):
        where = f"sets: item {number} ({name}): "
        try:
            one = _read(item, base, images=images)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{where}{error}") from error
        except ValueError as error:
            raise ValueError(f"{where}{error}") from error
        frame = one.frame[list(COLUMNS)].copy()
        for column in IDS:
            frame[column] = f"{name}/" + frame[column]
        frame["source"] = name
        frames.append(frame)
        drops += [_prefixed(remark, name) for remark in one.drops]
        notes += [_prefixed(remark, name) for remark in one.notes]
    frame = pd.concat(frames, ignore_index=True)
    families = {name: _family(name, str(item["layout"])) for name, item in zip(names, sets, strict=True)}
    notes += _shared(frame, family=frame["source"].map(families))
    return Manifest(frame, "+".join(names), tuple(drops), tuple(notes))


def recognise(root: Path) -> bool:
    """False: what is joined is said by the user, not by a folder."""
    return False


def _names(sets: Sequence[Mapping[str, Any]]) -> list[str]:
    if isinstance(sets, str | Mapping) or not isinstance(sets, Sequence) or not sets:
        raise ValueError(f"layout_options.sets is {sets!r}; expected a list such as {EXAMPLE}")
    names: list[str] = []
    for number, item in enumerate(sets, 1):
        if not isinstance(item, Mapping) or "layout" not in item:
            raise ValueError(f"sets: item {number} is {item!r}; expected layout, root and options as in {EXAMPLE}")
        if item["layout"] not in layouts.LAYOUTS:
            known = sorted(layouts.LAYOUTS)
            raise ValueError(f"sets: item {number}: layout {item['layout']!r} does not exist; expected one of {known}")
        name = item.get("name", item["layout"])
        if not isinstance(name, str) or not name or set(name) & set("/+: "):
            raise ValueError(f"sets: item {number}: name {name!r}; expected a word without blanks, '/', '+' and ':'")
        if name in names:
            raise ValueError(
                f"sets: item {number}: the name {name!r} is that of item {names.index(name) + 1} too; "
                "give each its own: {layout: ..., name: ...}"
            )
        names.append(name)
    return names


def _read(item: Mapping[str, Any], base: Path | None, *, images: bool) -> Manifest:
    layout, root = item["layout"], item.get("root")
    options = {key: value for key, value in item.items() if key not in OWN}
    if root is None and layout not in ("phantom", "joined"):
        raise ValueError("no root; name the set's folder, file or URL: {layout: ..., root: ...}")
    if root is not None and base is not None and "://" not in str(root) and not as_path(root).is_absolute():
        root = base / root
    if not images and layouts.takes_images(layout):
        options["images"] = False
    return layouts.read(layout, root, **options)


def _prefixed(remark: Remark, name: str) -> Remark:
    ids = tuple(f"{name}/{one}" for one in remark.ids)
    return Remark(f"{name}: {remark.reason}", ids, remark.level, remark.mend)


def _family(name: str, layout: str) -> str:
    """The same text for sets whose ids mean the same; a name has no "/", so it is no other set's."""
    return name if layout in PRIVATE else f"/{FAMILIES.get(layout, layout)}"


def _shared(frame: pd.DataFrame, *, family: pd.Series) -> list[Remark]:
    """Pictures and patients that are in several sets; ids are compared between rows of one family."""
    image, patient = (family + "/" + frame[column].str.split("/", n=1).str[1] for column in ("image_id", "patient_id"))
    path = file_keys(frame["image"]).where(frame["image"] != "", frame["image_id"])
    leaking, repeated = _in_several_sets(frame, path, image)
    apart, together = _in_several_sets(frame, patient)
    seen = leaking | repeated
    one, mend = "leave one of the sets out", "leave one of the sets out, or give both the same splits"
    remarks = [
        Remark("a picture is in several sets and in several splits", ids_of(frame, leaking), "error", one),
        Remark("a picture is in several sets", ids_of(frame, repeated), "warning", one),
        Remark("its patient is in several sets and in several splits", ids_of(frame, apart & ~seen), "error", mend),
        Remark("its patient is in several sets", ids_of(frame, together & ~seen), "warning", one),
    ]
    return [remark for remark in remarks if remark.ids]


def _in_several_sets(frame: pd.DataFrame, *keys: pd.Series) -> tuple[pd.Series, pd.Series]:
    """Which rows share a key with a row of another set: (in another split too, in one split), bool [N] each."""
    counts = [frame.groupby(key)[["source", "split"]].transform("nunique") > 1 for key in keys]
    several = np.logical_or.reduce([count["source"] for count in counts])
    leaking = np.logical_or.reduce([count["source"] & count["split"] for count in counts])
    return pd.Series(leaking, index=frame.index), pd.Series(several & ~leaking, index=frame.index)
