"""What every layout on disk shares: a root that exists, columns that exist, and a seeded split by patient."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd


def require_root(root: str | Path | None, *, layout: str, expected: str) -> Path:
    """The root as a Path.

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
    path = Path(root).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"layout {layout}: {path} does not exist; it should hold {expected}; {mend}")
    return path


def require_columns(frame: pd.DataFrame, *, file: Path, options: dict[str, str]) -> None:
    """Check that a table has the columns that it is going to be read by.

    Args:
        frame: the table.
        file: where it came from.
        options: column name → how the user changes that name.

    Raises:
        ValueError: naming the file, the missing column, the existing ones and the option.
    """
    for column, option in options.items():
        if column not in frame.columns:
            raise ValueError(f"{file}: column {column!r} is missing; it has {list(map(str, frame.columns))}; {option}")


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
