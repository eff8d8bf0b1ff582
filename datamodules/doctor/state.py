"""The file that makes a pass over pictures resumable: one JSON line a look, appended as the pass goes.

A process that is killed leaves half a last line at worst, two that begin at once a doubled first line. A line that is
no look is passed over, and its picture looked at again.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from datamodules.doctor.headers import Look
from datamodules.doctor.issues import ISSUES

# Raised whenever a look finds more or other things than before: old looks are then forgotten.
RULES = 3
# What may be otherwise next time although the file is the same.
PASSING = ("no pydicom", "no decoder", "unreadable", "gone", "denied")


def state_file(folder: Path, root: str) -> Path:
    """The state's file for one root."""
    place = root if "://" in root else os.path.realpath(root)
    return folder / f"{hashlib.sha256(place.encode()).hexdigest()[:16]}.jsonl"


def load(path: Path) -> Iterator[tuple[str, Look]]:
    """The looks that an earlier pass left, oldest first; nothing where there is no file or one of other rules."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        if _parsed(file.readline()) != {"rules": RULES}:
            return
        for line in file:
            found = _look(line)
            if found is not None:
                yield found


class Writer:
    """Appends looks to the file; every batch is on its way to the disk before the next is looked at."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        _mend_end(path)
        self._file = path.open("ab")
        if self._file.tell() == 0:
            self._file.write(json.dumps({"rules": RULES}).encode() + b"\n")

    def write(self, looks: Iterable[tuple[str, Look]]) -> None:
        """Append these."""
        lines = [
            json.dumps(
                {
                    "image": image,
                    "look": [look.size, look.stamp, look.mark, look.width, look.height],
                    "issues": look.issues,
                    "decoded": look.decoded,
                }
            )
            for image, look in looks
            if not any(code in PASSING for code, _ in look.issues)
        ]
        if lines:
            self._file.write("\n".join(lines).encode() + b"\n")
            self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _parsed(line: bytes) -> dict | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None


def _look(line: bytes) -> tuple[str, Look] | None:
    entry = _parsed(line) or {}
    try:
        image, decoded = str(entry["image"]), bool(entry["decoded"])
        issues = tuple((str(code), str(detail)) for code, detail in entry["issues"])
        size, stamp, mark, width, height = map(int, entry["look"])
    except (KeyError, TypeError, ValueError):
        return None
    if not all(code in ISSUES for code, _ in issues):
        return None
    return image, Look(size, stamp, mark, width, height, issues, decoded)


def _mend_end(path: Path) -> None:
    """Cut a half-written last line off, and everything where the file has other rules."""
    if not path.is_file():
        return
    with path.open("r+b") as file:
        if _parsed(file.readline()) != {"rules": RULES}:
            file.truncate(0)
            return
        end = file.seek(0, os.SEEK_END)
        while end:
            start = max(end - 4096, 0)
            file.seek(start)
            newline = file.read(end - start).rfind(b"\n")
            if newline >= 0:
                file.truncate(start + newline + 1)
                return
            end = start
