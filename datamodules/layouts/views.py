"""The many names of a radiograph's projection, mapped to VIEWS."""

from pathlib import Path

import numpy as np
import pandas as pd

# Keys are upper case with blanks, underscores and hyphens folded to one blank.
VIEW_NAMES: dict[str, str] = {
    "": "unknown",
    "NAN": "unknown",
    "UNKNOWN": "unknown",
    "UNK": "unknown",
    "COSTAL": "unknown",  # PadChest: ribs, oblique, from the front or the back
    "EXCLUDE": "unknown",  # PadChest: none of its views
    "PA": "PA",
    "PA ERECT": "PA",
    "POSTEROANTERIOR": "PA",
    "POSTERO ANTERIOR": "PA",
    "AP": "AP",
    "AP ERECT": "AP",
    "AP SUPINE": "AP",
    "AP PORTABLE": "AP",
    "PORTABLE": "AP",
    "AP HORIZONTAL": "AP",
    "ANTEROPOSTERIOR": "AP",
    "ANTERO POSTERIOR": "AP",
    "LATERAL": "LATERAL",
    "LAT": "LATERAL",
    "LL": "LATERAL",
    "L": "LATERAL",
    "RL": "LATERAL",
    "LARGE LATERAL": "LATERAL",
    "LEFT LATERAL": "LATERAL",
    "RIGHT LATERAL": "LATERAL",
}


def normalise_views(names: pd.Series, *, file: Path, option: str) -> np.ndarray:
    """Views [N], each one of VIEWS; an empty name is "unknown".

    Args:
        names: as written in the file.
        file: named in the message, with the row as a spreadsheet counts it (the header is row 1).
        option: how the user maps or leaves out the offending name.

    Raises:
        ValueError: naming file, row, value and the names that are known.
    """
    texts = names.fillna("").astype(str)
    keys = texts.str.upper().str.replace(r"[\s_\-]+", " ", regex=True).str.strip()
    views = keys.map(VIEW_NAMES)
    wrong = np.flatnonzero(views.isna().to_numpy())
    if len(wrong):
        row = int(wrong[0])
        known = sorted(name for name in VIEW_NAMES if name)
        raise ValueError(
            f"{file}: row {row + 2}: view {texts.iloc[row]!r} is not known ({len(wrong)} rows have an unknown view); "
            f"known are {known}; {option}"
        )
    return views.to_numpy(dtype=object)
