"""The file that makes a pass over pictures resumable: one JSON line a look, appended as the pass goes.

A process that is killed leaves half a last line at worst; that line is ignored and its picture looked at again.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from datamodules.doctor.headers import Look

# Raised whenever a look finds more or other things than before: old looks are then forgotten.
RULES = 1
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
            entry = _parsed(line)
            # Two passes that began at once may both have written the first line.
            if entry is not None and "image" in entry:
                issues = tuple((code, detail) for code, detail in entry["issues"])
                size, stamp, mark, width, height = entry["look"]
                yield entry["image"], Look(size, stamp, mark, width, height, issues, entry["decoded"])


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
