"""Rows of a CSV that a lost closing quote has drawn into a text: they parse, but are gone."""

import re
from pathlib import Path

import numpy as np
import pandas as pd

LINES = re.compile(r"[\r\n]+")
WORD, LETTER, DIGIT = (re.compile(pattern) for pattern in (r"[^\W_]+", r"[^\W\d_]", r"\d"))
SHORTEST = 4  # of image names without a suffix that are told from words of a report


def refuse_swallowed_rows(table: pd.DataFrame, *, image_column: str, suffixes: tuple[str, ...], path: Path) -> None:
    """Look for rows inside of cells: lines with a field that is written as the table's image names are.

    A report of several lines has commas too, so the number of fields alone says nothing. Names with a suffix of a
    picture are known wherever they stand; of others the line must have all fields of a row. Short names without a
    suffix, and tables without pictures, are not looked at.

    Args:
        table: all fields as text.
        image_column: where the names are.
        suffixes: of pictures, lower case.
        path: the table, for the message.

    Raises:
        ValueError: naming the first such row and the line.
    """
    names = table[image_column]
    suffixed = names.str.lower().str.endswith(suffixes)
    shapes = set(names[suffixed].map(lambda name: WORD.sub("x", name)).unique())
    plain = names[~suffixed & (names.str.len() >= SHORTEST)]
    exact = set(plain.map(lambda name: DIGIT.sub("0", LETTER.sub("a", name))).unique())
    place, width = list(table.columns).index(image_column), table.shape[1]

    endings = "|".join(re.escape(suffix.removeprefix(".")) for suffix in suffixes)
    ending = re.compile(rf"\.(?:{endings})\"?\s*(?:,|$)", re.IGNORECASE | re.MULTILINE)

    def is_row(line: str) -> bool:
        fields = [field.strip().strip('"') for field in line.split(",")]
        if any(field.lower().endswith(suffixes) and WORD.sub("x", field) in shapes for field in fields):
            return True
        return len(fields) == width and DIGIT.sub("0", LETTER.sub("a", fields[place])) in exact

    for column in table.columns:
        cells = table[column].to_numpy(dtype=object)
        for row in np.flatnonzero(table[column].str.contains("\n|\r", regex=True)):
            # Most reports are done with at a glance.
            if not (exact or ending.search(cells[row])):
                continue
            commas = 1 if shapes else width - 1
            swallowed = [line for line in LINES.split(cells[row]) if line.count(",") >= commas and is_row(line)]
            if swallowed:
                raise ValueError(
                    f"{path}: row {row + 2}: column {column!r} holds a line that looks like a row "
                    f"of the table ({swallowed[0][:60]!r}), so rows are lost; close the quote of the text before it"
                )
