"""Where each clue of a report comes from: the word that asked, the key patch that answered, and its place.

Shapes: E entries, C cells an entry.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from pyarrow import parquet
from safetensors import safe_open
from torch import Tensor

from lightning_modules.networks.clue_retriever import ClueRetriever
from lightning_modules.networks.key_patches import SIDES


@dataclasses.dataclass(frozen=True)
class ClueOrigin:
    """One key patch that a report fetched, and what it gave to the clues.

    Attributes:
        word: the report's word that fetched it.
        score: cosine of that word with the entry.
        entry: its row in the key-patch file.
        entry_word: the word it was kept for; another than `word` where the codebook does not know that one.
        side: the patient's side it was kept for, None where none was named.
        image_id: the training image it was cut from; None where the list beside the key-patch file is missing.
        box: the patch in that image, (x0, y0, x1, y1) in fractions.
        positions: cells (row * grid + column) that it gave; those that a better entry took are left out.
        codes: the codes in them.
        grid: cells a side.
    """

    word: str
    score: float
    entry: int
    entry_word: str
    side: str | None
    image_id: str | None
    box: tuple[float, float, float, float]
    positions: tuple[int, ...]
    codes: tuple[int, ...]
    grid: int


class ClueSources:
    """What a key-patch file knows of its entries beyond what retrieval needs.

    Args:
        path: of `key_patches.safetensors`.

    Raises:
        ValueError: if the list of entries beside it has another length.
    """

    def __init__(self, path: str | Path) -> None:
        path = Path(path)
        with safe_open(str(path), framework="pt") as file:
            self.boxes: Tensor = file.get_tensor("boxes")
            self.grid = grid_side(self.boxes, file.get_tensor("positions"))
        table = path.with_suffix(".parquet")
        self.image_ids: list[str | None] = [None] * len(self.boxes)
        if table.is_file():
            self.image_ids = parquet.read_table(table, columns=["image_id"])["image_id"].to_pylist()
        if len(self.image_ids) != len(self.boxes):
            raise ValueError(
                f"{table} lists {len(self.image_ids)} entries, {path} holds {len(self.boxes)}: they are of two runs; "
                "make both again with `python main.py predict` of the aligner stage"
            )


def grid_side(boxes: Tensor, positions: Tensor) -> int:
    """Cells a side of the codebook's grid, which the file does not name: where each position touches its entry's box.

    Args:
        boxes: [E,4] of x0, y0, x1, y1 in fractions.
        positions: int64 [E,C] of row * side + column, -1 = padding.

    Returns:
        The smallest side that fits all entries; with very few of them a larger one may fit as well.

    Raises:
        ValueError: if none up to 256 does.
    """
    entry, cell = (positions >= 0).nonzero(as_tuple=True)
    x0, y0, x1, y1 = boxes[entry].double().T
    place = positions[entry, cell]
    least = int(place.max().double().sqrt()) + 1 if len(place) else 1
    for side in range(least, 257):
        row, column = place // side, place % side
        slack = 1e-6  # edges such as 3/7 are not exact in binary
        across = (column < x1 * side - slack) & (column + 1 > x0 * side + slack)
        down = (row < y1 * side - slack) & (row + 1 > y0 * side + slack)
        if bool((across & down).all()):
            return side
    raise ValueError("the key patches' positions fit their boxes on no grid of up to 256 cells a side: make them again")


def clue_origins(
    retriever: ClueRetriever,
    sources: ClueSources,
    reports: Sequence[str],
    *,
    exclude_patients: Sequence[str] | None = None,
) -> list[list[ClueOrigin]]:
    """The entries behind `retriever.clues(reports)`, best first; one that gave no cell is left out."""
    book, config = retriever.codebook, retriever.config
    sides = {number: name for name, number in SIDES.items()}
    origins = []
    for row in retriever.fetch(reports, exclude_patients=exclude_patients):
        taken: set[int] = set()
        of_report = []
        for found in row:
            codes, positions = book.codes[found.entry].tolist(), book.positions[found.entry].tolist()
            given: dict[int, int] = {}
            for code, position in zip(codes, positions, strict=True):
                if position >= 0 and position not in taken and len(taken) < config.clue_tokens:
                    taken.add(position)
                    given[position] = code
            if given:
                x0, y0, x1, y1 = sources.boxes[found.entry].tolist()
                of_report.append(
                    ClueOrigin(
                        found.word,
                        found.score,
                        found.entry,
                        config.words[int(book.word[found.entry])],
                        sides.get(int(book.side[found.entry])),
                        sources.image_ids[found.entry],
                        (x0, y0, x1, y1),
                        tuple(given),
                        tuple(given.values()),
                        sources.grid,
                    )
                )
        origins.append(of_report)
    return origins
