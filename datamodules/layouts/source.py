"""What every layout on disk shares: a root that exists, tables that can be read, a listing, a seeded split by patient.

A root is a local path or any fsspec URL (`s3://...`, `gs://...`, `zip://...`): `open_root` gives a path for both.
"""

import contextlib
import csv
import gzip
import hashlib
import io
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import pandas as pd

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
GZIP = b"\x1f\x8b"  # how a gzipped file begins


def open_root(root: str | Path | None, *, layout: str, expected: str) -> Path:
    """The root as a path object; of a URL it is a UPath, which has the same methods.

    Args:
        root: what the user gave; None if nothing.
        layout: name of the layout, for the message.
        expected: what the root should hold, for the message.

    Raises:
        FileNotFoundError: when there is no such file or folder; says what was expected and how to name it.
    """
    mend = "name it with --data.init_args.root=<folder> or the environment variable CXR_ROOT"
    if root is None or str(root) == "":
        raise FileNotFoundError(f"layout {layout}: no root given; it should hold {expected}; {mend}")
    path = as_path(root)
    if not path.exists():
        raise FileNotFoundError(f"layout {layout}: {root} does not exist; it should hold {expected}; {mend}")
    return path


def as_path(root: str | Path) -> Path:
    """A Path of a local path, a UPath of an fsspec URL."""
    if "://" not in str(root):
        return Path(root).expanduser()
    from upath import UPath

    # It has the methods of a Path without being one.
    return UPath(root)  # type: ignore[return-value]


def require_columns(frame: pd.DataFrame, *, file: Path, options: dict[str, str]) -> None:
    """Check that a table has the columns that it is going to be read by.

    Args:
        frame: the table.
        file: where it came from.
        options: column name → how the user changes that name.

    Raises:
        ValueError: naming the file, all missing columns, the existing ones and the options.
    """
    missing = [column for column in options if column not in frame.columns]
    if missing:
        names = ", ".join(map(repr, missing))
        what = f"column {names} is missing" if len(missing) == 1 else f"columns {names} are missing"
        mend = ", ".join(dict.fromkeys(options[column] for column in missing))
        raise ValueError(f"{file}: {what}; it has {list(map(str, frame.columns))}; {mend}")


def find_file(root: Path, names: Sequence[str]) -> Path | None:
    """The first of these names that is a file under the root (a name may hold folders); None where none is."""
    return next((root / name for name in names if (root / name).is_file()), None)


def require_file(root: Path, names: Sequence[str], *, layout: str, expected: str) -> Path:
    """As `find_file`.

    Raises:
        FileNotFoundError: where none is, naming them and what the root should hold.
    """
    found = find_file(root, names)
    if found is None:
        raise FileNotFoundError(
            f"layout {layout}: {root} has no {' or '.join(names)}; it should hold {expected}; fetch the missing file"
        )
    return found


def with_gz(*names: str) -> list[str]:
    """Each name as users unpack it, and as it is published, gzipped: name and name.gz.

    Where both are there the unpacked one is read: it is the one that somebody may have mended.
    """
    return [variant for name in names for variant in (name, f"{name}.gz")]


def read_csv(path: Path, *, columns: Sequence[str] = (), sep: str = ",", first: int | None = None) -> pd.DataFrame:
    """A CSV, gzipped or not, with all fields as text and "" for empty ones.

    Its first bytes tell whether it is gzipped, not its name: browsers unpack a .csv.gz and keep the name.

    Args:
        path: local or remote.
        columns: that it must have, as published.
        sep: between fields.
        first: read only so many fields of each row, where the header is longer than the rows.

    Raises:
        ValueError: naming the file, when it is no table, is cut off, is not UTF-8, or lacks a column.
    """
    again = "fetch the file again, or save it as comma-separated UTF-8"
    try:
        with _unpacked(path) as file:
            kept = None if first is None else range(first)
            table = pd.read_csv(file, dtype=str, keep_default_na=False, sep=sep, encoding="utf-8-sig", usecols=kept)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is not UTF-8 at byte {error.start}; {again}") from error
    except pd.errors.EmptyDataError as error:
        raise ValueError(f"{path}: is empty; {again}") from error
    except (ValueError, gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: cannot be read as a table ({str(error).strip()}); {again}") from error
    # Of a first row that is too long pandas takes the first field as the row's name, and shifts all others.
    if not isinstance(table.index, pd.RangeIndex):
        what = f"row 2 has more fields than the header: a text with {sep!r} in it needs quotes"
        raise ValueError(f"{path}: cannot be read as a table ({what}); {again}")
    # pandas fills a row that ends early with empty fields, so only where the last field is empty rows are counted anew.
    if len(table) and (table.iloc[:, -1] == "").any():
        cut = _cut_rows(path, sep=sep, fields=table.shape[1])
        if cut:
            raise ValueError(f"{path}: row {cut[0]} has fewer fields than the header ({len(cut)} rows do); {again}")
    if table.shape[1] == 1 < len(columns):
        raise ValueError(f"{path}: cannot be read as a table (it begins with {str(table.columns[0])[:60]!r}); {again}")
    if columns:
        require_columns(table, file=path, options=dict.fromkeys(columns, "take the file as it is published"))
    return table


def read_text(path: Path) -> str:
    """A text file, gzipped or not, whatever its name says.

    Raises:
        ValueError: naming the file, when it is not UTF-8 or cut off.
    """
    try:
        with _unpacked(path) as file:
            return file.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is not UTF-8 at byte {error.start}; fetch the file again, or save it so") from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: cannot be unpacked ({error}); fetch the file again") from error


def read_start(path: Path, *, size: int = 1000) -> str:
    """The first `size` bytes of a text file, gzipped or not; "" where they cannot be read or unpacked."""
    try:
        with _unpacked(path) as file:
            return file.read(size).decode("utf-8-sig", errors="replace")
    except (OSError, EOFError, zlib.error):
        return ""


@contextlib.contextmanager
def _unpacked(path: Path) -> Iterator[BinaryIO]:
    with path.open("rb") as raw:
        packed = raw.read(len(GZIP)) == GZIP
        raw.seek(0)
        if packed:
            with gzip.open(raw) as file:
                yield cast(BinaryIO, file)
        else:
            yield raw


def _cut_rows(path: Path, *, sep: str, fields: int) -> list[int]:
    """Rows of fewer fields, as a spreadsheet counts them."""
    with _unpacked(path) as file:
        rows = csv.reader(io.TextIOWrapper(file, encoding="utf-8-sig", newline=""), delimiter=sep)
        # Blank lines are no rows, to pandas neither.
        lengths = (len(row) for row in rows if row)
        return [number for number, length in enumerate(lengths, start=1) if length < fields]


def list_files(folder: Path, *, suffixes: Sequence[str] = IMAGE_SUFFIXES) -> list[str]:
    """Names of all files below a folder, relative to it with "/", sorted; [] where there is no such folder.

    One walk over the tree: on a network disk that is far cheaper than asking for each file of a table.

    Args:
        folder: local or remote; links to folders are followed.
        suffixes: lower case, with the dot; compared without regard to case. () takes all files.
    """
    found: list[str] = []
    if isinstance(folder, os.PathLike):
        base = os.fspath(folder)
        for place, _, names in os.walk(base, followlinks=True):
            prefix = os.path.relpath(place, base).replace(os.sep, "/")
            found += names if prefix == "." else [f"{prefix}/{name}" for name in names]
    elif folder.exists():
        base = folder.path.rstrip("/")
        found = [name[len(base) + 1 :] for name in folder.fs.find(folder.path)]
    chosen = [n for n in found if n.lower().endswith(tuple(suffixes))] if suffixes else found
    # Names that begin with a dot are other programs' (a Mac's "._x.png") or half written.
    return sorted(name for name in chosen if not name.rsplit("/", 1)[-1].startswith("."))


def ids_of(frame: pd.DataFrame, rows: pd.Series) -> tuple[str, ...]:
    """The image ids of the rows that are True in `rows`, for a remark."""
    return tuple(frame.loc[rows, "image_id"])


def hash_fractions(patients: Iterable[str], *, seed: int) -> np.ndarray:
    """A number in [0, 1) for each patient that depends on the seed and the patient alone: float64 [N].

    A patient keeps the number when other patients come or go, so a split by it survives an extended data set.
    """
    codes, unique = pd.factorize(pd.Series(list(patients), dtype=object))
    digests = [hashlib.sha256(f"{seed}:{patient}".encode()).digest()[:8] for patient in unique]
    numbers = np.array([int.from_bytes(d, "big") for d in digests], dtype=np.float64) / 2.0**64
    return numbers[codes] if len(codes) else np.zeros(0)


def hashed_split(patients: Iterable[str], *, seed: int) -> np.ndarray:
    """Split names [N], by patient: about 80 % train, 10 % validate, 10 % test."""
    fractions = hash_fractions(patients, seed=seed)
    return np.select([fractions < 0.8, fractions < 0.9], ["train", "validate"], "test").astype(object)
