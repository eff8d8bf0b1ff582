"""The whole examination: recognise, read, look at the pictures, compare, count."""

import dataclasses
import os
import re
import shlex
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from datamodules import layouts
from datamodules.doctor import recognise, tables
from datamodules.doctor.duplicates import duplicates
from datamodules.doctor.finding import Diagnosis, Finding, by_level
from datamodules.doctor.issues import ISSUES, mend_of
from datamodules.doctor.pictures import Pass, look_at
from datamodules.doctor.state import state_file
from datamodules.images import PHANTOM
from datamodules.layout_options import on_command_line
from datamodules.layouts.source import as_path

STATE = Path("runs/cache/doctor")
NO_PICTURE = re.compile(r"none of the \d+ (pictures|images|rows) ")
CHMOD = "chmod a+r the file, a+rx its folders"
BEHIND = "A reader stops at its first error: mend this and run again, what is behind it has not been looked at"


def examine(
    root: str,
    *,
    layout: str | None = None,
    options: dict[str, Any] | None = None,
    decode: bool = False,
    state: Path = STATE,
    workers: int | None = None,
) -> Diagnosis:
    """Examine a data set.

    Args:
        root: folder, file or fsspec URL; nothing under it is changed.
        layout: its layout; by default the one that recognises it.
        options: of the layout's reader.
        decode: decode each picture; by default only those whose file is too small for their pixels.
        state: folder of the files by which a pass over pictures is resumed.
        workers: threads; by default two for each granted core.

    Raises:
        FileNotFoundError: when there is no such root.
        ValueError: for a layout or an option that does not exist.
        KeyboardInterrupt: on Ctrl-C; the next call goes on.
    """
    place = as_path(root)
    if layout not in ("phantom", "joined") and not recognise.readable(place):
        return Diagnosis(root, layout or "", (Finding("error", f"{root} may not be read (permissions)", mend=CHMOD),))
    if layout not in ("phantom", "joined") and not place.exists():
        raise FileNotFoundError(f"{root} does not exist; name the folder, file or URL of the data set")
    guessed = layout is None
    if layout is None:
        names = recognise.recognise(place)
        if len(names) != 1:
            return Diagnosis(root, "", (_unrecognised(root, place, names),))
        layout = names[0]
    try:
        manifest = layouts.read(layout, root, **(options or {}))
    except recognise.DAMAGE as error:
        if f"layout {layout} has no option" in str(error) or f"layout {layout!r} does not exist" in str(error):
            raise
        finding = _unreadable(error, guessed=guessed and layout == recognise.LAST)
        return Diagnosis(root, layout, (_on_command_line(finding),))
    published = recognise.published(layout, place)
    findings = [*tables.ledger(manifest), *tables.published_counts(manifest, published), *tables.gaps(manifest)]
    images = [image for image in manifest.frame["image"] if image and not image.startswith(PHANTOM)]
    looked = None
    if images:
        looked = look_at(images, state=state_file(state, root), decode=decode, workers=workers)
        name = _shorten(place)
        findings += _pictures(looked, layout=layout, name=name)
        findings += duplicates(manifest, looked, name=name)
    return Diagnosis(root, layout, by_level(map(_on_command_line, findings)), manifest, looked, published)


def _unrecognised(root: str, place: Path, names: list[str]) -> Finding:
    prepared = recognise.prepared(place)
    if prepared is not None and not names:
        return Finding(
            "error",
            f"{root} is what `prepare` wrote, not a data set",
            mend="run the doctor on the data set that it was made from; to check these shards: "
            f"python -m datamodules verify {shlex.quote(str(prepared))}",
        )
    if names:
        return Finding(
            "error",
            f"several layouts take {root} for theirs: {', '.join(names)}",
            len(names),
            tuple(names),
            f"say which it is with --layout; they look for\n{recognise.needs(names)}",
        )
    below = recognise.below(place)
    if below:
        return Finding(
            "error", f"{root} is no data set, but holds some", len(below), tuple(below), "name one of these folders"
        )
    around = recognise.above(place)
    if around:
        return Finding(
            "error",
            f"{root} is no data set, but lies in what looks like one",
            ids=(around,),
            mend="name that folder, or say with --layout what this one is",
        )
    return Finding(
        "error",
        f"no layout knows {root}",
        mend=f"fetch what is missing, or say what it is with --layout; the layouts look for\n{recognise.needs()}",
    )


def _unreadable(error: Exception, *, guessed: bool) -> Finding:
    what, _, mend = str(error).rpartition("; ")
    if not what:
        what, mend = str(error), "mend what the message names, or fetch the file again"
    elif NO_PICTURE.search(what) and "layout_options.images" not in mend:
        mend = f"fetch or unpack the pictures there, or give --option images=false to read the tables alone; {mend}"
    if not isinstance(error, ValueError | OSError):
        what = f"{type(error).__name__}: {what}"
    if isinstance(error, PermissionError):
        mend = CHMOD
    if guessed:
        mend += ", or say with --layout what it is if it is no table of your own"
    return Finding("error", what, mend=f"{mend}. {BEHIND}")


def _on_command_line(finding: Finding) -> Finding:
    return dataclasses.replace(finding, mend=on_command_line(finding.mend))


def _shorten(place: Path) -> Callable[[str], str]:
    """Paths relative to the root."""
    prefix = str(place if place.is_dir() else place.parent).rstrip("/") + "/"
    if "://" not in prefix:
        prefix = prefix.replace("/", os.sep)
    return lambda image: image.removeprefix(prefix)


def _pictures(looked: Pass, *, layout: str, name: Callable[[str], str]) -> list[Finding]:
    ids: dict[str, list[str]] = defaultdict(list)
    details: dict[str, list[str]] = defaultdict(list)
    for number in sorted(looked.issues):
        for code, detail in looked.issues[number]:
            ids[code].append(name(looked.images[number]))
            if detail and len(details[code]) < 3 and detail not in details[code]:
                details[code].append(detail)
    found = []
    for code, issue in ISSUES.items():
        if ids[code]:
            what = issue.what + (f" ({'; '.join(details[code])})" if details[code] else "")
            found.append(Finding(issue.level, what, len(ids[code]), tuple(ids[code]), mend_of(code, layout=layout)))
    return found
