"""Damaging files as downloads, disks and people do; used for single pictures and for whole data sets."""

import csv
import gzip
import io
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

PAGE = b"<!DOCTYPE html>\n<html><head><title>Log in</title></head><body>Please log in to go on.</body></html>\n"


def noise(side: int = 96, *, seed: int = 0) -> np.ndarray:
    """Uint8 [side,side] that no compression makes small."""
    return np.random.default_rng(seed).integers(0, 255, (side, side), dtype=np.uint8)


def save(pixels: np.ndarray, path: Path, *, format: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, format=format)
    return path


def cut(path: Path, *, share: float = 0.6) -> None:
    """Keep the first part, as an interrupted download does."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


def hole(path: Path, *, share: float = 0.6) -> None:
    """Zeros from `share` on for a third of the file, as lost blocks of a disk leave; its size and both ends stay."""
    data = path.read_bytes()
    begin, length = int(len(data) * share), len(data) // 3
    path.write_bytes(data[:begin] + bytes(length) + data[begin + length :])


def constant(path: Path) -> None:
    """The same picture format and size, every pixel alike."""
    with Image.open(path) as picture:
        blank = Image.new(picture.mode, picture.size, 7)
        blank.save(path, format=picture.format)


def read_text(path: Path) -> str:
    data = path.read_bytes()
    return (gzip.decompress(data) if path.name.endswith(".gz") else data).decode()


def write_text(path: Path, text: str, *, encoding: str = "utf-8") -> None:
    data = text.encode(encoding)
    path.write_bytes(gzip.compress(data, mtime=0) if path.name.endswith(".gz") else data)


def edit(path: Path, change: Callable[[str], str]) -> None:
    """Change a text file, gzipped or not; a change that changes nothing is a mistake of the test."""
    before = read_text(path)
    after = change(before)
    assert after != before, f"the fault did not touch {path.name}"
    write_text(path, after)


def edit_lines(path: Path, change: Callable[[list[str]], list[str]]) -> None:
    """As `edit`, line by line; line 0 is a table's header."""
    edit(path, lambda text: "\n".join(change(text.splitlines())) + "\n")


def edit_rows(path: Path, change: Callable[[list[list[str]]], object]) -> None:
    """Change a CSV's rows in place; row 0 is the header."""
    rows = list(csv.reader(io.StringIO(read_text(path))))
    before = [list(row) for row in rows]
    change(rows)
    assert rows != before, f"the fault did not touch {path.name}"
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    write_text(path, out.getvalue())


def set_field(path: Path, column: str, value: str, *, row: int = 1) -> None:
    """Set one field of a CSV, row 1 being the first below the header."""
    edit_rows(path, lambda rows: rows[row].__setitem__(rows[0].index(column), value))


def set_fields(path: Path, *columns: str, value: str) -> None:
    """Set several fields of the first row to one value."""

    def change(rows: list[list[str]]) -> None:
        for column in columns:
            rows[1][rows[0].index(column)] = value

    edit_rows(path, change)


def set_column(path: Path, column: str, value: str) -> None:
    """Set one field of every row."""

    def change(rows: list[list[str]]) -> None:
        for row in rows[1:]:
            row[rows[0].index(column)] = value

    edit_rows(path, change)


def set_where(path: Path, column: str, value: str, *, where: str, equals: str) -> None:
    """Set one field of each row in which another field has this value."""

    def change(rows: list[list[str]]) -> None:
        for row in rows[1:]:
            if row[rows[0].index(where)] == equals:
                row[rows[0].index(column)] = value

    edit_rows(path, change)


def get_field(path: Path, column: str, *, row: int = 1) -> str:
    rows = list(csv.reader(io.StringIO(read_text(path))))
    return rows[row][rows[0].index(column)]


def drop_column(path: Path, column: str) -> None:
    def change(rows: list[list[str]]) -> None:
        place = rows[0].index(column)
        for row in rows:
            del row[place]

    edit_rows(path, change)


def repeat_row(path: Path, *, row: int = 1) -> None:
    edit_rows(path, lambda rows: rows.append(list(rows[row])))


def add_row(path: Path, **values: str) -> None:
    """A copy of the first row with other values."""

    def change(rows: list[list[str]]) -> None:
        rows.append([values.get(name, value) for name, value in zip(rows[0], rows[1], strict=True)])

    edit_rows(path, change)


def remove_row(path: Path, *, row: int = 1) -> None:
    edit_rows(path, lambda rows: rows.pop(row))


def cut_last_row(path: Path) -> None:
    """The last row ends after its second field."""
    edit_rows(path, lambda rows: rows[-1].__delitem__(slice(2, None)))


def not_utf8(path: Path) -> None:
    """A letter as an old editor saves it."""
    data = read_text(path).encode()
    place = data.rstrip().rfind(b",")
    data = data[:place] + b"\xe9" + data[place:]
    path.write_bytes(gzip.compress(data, mtime=0) if path.name.endswith(".gz") else data)


def copy_over(source: Path, target: Path) -> None:
    """Make `target` the same file as `source`, byte for byte."""
    assert source != target
    shutil.copyfile(source, target)
