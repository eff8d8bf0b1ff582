"""The tables of an explanation: a row a word of a report, and a row a key patch that a report fetched, as Parquet.

Each file says in its schema's metadata which schema it has and the sha256 of what it was made of.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from callbacks.metrics.ranks import from_all_ranks
from callbacks.overlays import probability
from callbacks.protocols import ClueOrigin, WordMap

SCHEMA = 1
Item = TypeVar("Item")
COLUMNS: dict[str, pa.Schema] = {
    "words": pa.schema(
        [
            ("image_id", pa.string()),
            ("word", pa.string()),
            ("kind", pa.string()),  # pathology or anatomy
            ("status", pa.string()),  # what the report says: present, uncertain or absent
            ("side", pa.string()),  # the patient's; null where none is named
            ("label", pa.string()),  # CheXpert name or null
            ("start", pa.int32()),  # characters of the report
            ("end", pa.int32()),
            ("x", pa.float32()),  # of the highest pixel, in fractions of the image from the top left
            ("y", pa.float32()),
            ("cosine", pa.float32()),  # there
            ("evidence", pa.float32()),  # logit that the image shows it, whatever the report says
            ("probability", pa.float32()),  # its logistic function; not calibrated
        ]
    ),
    "clues": pa.schema(
        [
            ("image_id", pa.string()),  # whose report fetched it
            ("rank", pa.int32()),  # from 0, best first
            ("word", pa.string()),  # of the report
            ("score", pa.float32()),  # cosine of the word with the entry
            ("entry", pa.int32()),  # row of the key-patch file
            ("entry_word", pa.string()),
            ("side", pa.string()),  # that the entry was kept for
            ("source_image_id", pa.string()),  # the training image; null where the list of entries is missing
            ("x0", pa.float32()),  # the patch in fractions of that image
            ("y0", pa.float32()),
            ("x1", pa.float32()),
            ("y1", pa.float32()),
            ("grid", pa.int32()),  # cells a side of the codes
            ("positions", pa.list_(pa.int32())),  # row * grid + column
            ("codes", pa.list_(pa.int32())),
        ]
    ),
}


def word_row(image_id: str, word: WordMap) -> dict[str, Any]:
    """One row of "words"."""
    return {
        "image_id": image_id,
        **{name: getattr(word, name) for name in ("word", "kind", "status", "side", "label")},
        "start": word.span[0],
        "end": word.span[1],
        "x": word.peak[0],
        "y": word.peak[1],
        "cosine": word.cosine,
        "evidence": word.evidence,
        "probability": probability(word.evidence),
    }


def clue_row(image_id: str, rank: int, clue: ClueOrigin) -> dict[str, Any]:
    """One row of "clues"."""
    return {
        "image_id": image_id,
        "rank": rank,
        **{name: getattr(clue, name) for name in ("word", "score", "entry", "entry_word", "side", "grid")},
        "source_image_id": clue.image_id,
        **dict(zip(("x0", "y0", "x1", "y1"), clue.box, strict=True)),
        "positions": list(clue.positions),
        "codes": list(clue.codes),
    }


def write_table(
    path: Path, rows: Sequence[Mapping[str, Any]], *, kind: Literal["words", "clues"], made_of: Mapping[str, str]
) -> None:
    """Write rows under a temporary name, sorted by image id, then move the file into place.

    Args:
        path: of the Parquet file.
        rows: in the order of each image's words or clues.
        kind: which columns they have.
        made_of: name → sha256 of what they were made of.
    """
    ordered = sorted(rows, key=lambda row: row["image_id"])
    table = pa.Table.from_pylist([dict(row) for row in ordered], schema=COLUMNS[kind])
    table = table.replace_schema_metadata({"schema": str(SCHEMA), "kind": kind, **made_of})
    temporary = path.with_name(f".{path.name}.tmp")
    pq.write_table(table, temporary)
    os.replace(temporary, path)


def gathered(items: list[Item]) -> list[Item]:
    """The items of all ranks, in rank order; every rank must ask."""
    return [item for part in from_all_ranks(items) for item in part]
