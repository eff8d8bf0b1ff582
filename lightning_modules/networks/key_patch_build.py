"""Choosing and writing the key patches: best pairs, best word-patches, a quota a word; training studies only.

`KeyPatchBuilder` sees every training pair once and keeps what may still be chosen, so its memory does not grow with the
data set. Ranks hand their candidates to `select`, whose result does not depend on their order.
"""

import dataclasses
import heapq
import json
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from safetensors.torch import save_file
from torch import Tensor

from lightning_modules.networks.key_patches import SCHEMA, SIDES, patient_hash

Box = tuple[float, float, float, float]


@dataclasses.dataclass(frozen=True)
class KeyPatchOptions:
    """How key patches are chosen and fetched.

    Attributes:
        top_pairs: image-report pairs kept, by their text→image score (1000 in AdaMatch).
        top_words: word-patches kept in each pair (20 in AdaMatch).
        word_quota: most entries of one word, so that "lungs" does not fill the codebook.
        word_floor: a word with fewer entries than this from the best pairs also gets its best ones from other pairs, so
            that a rare finding can be fetched at all.
        coverage: a codebook cell belongs to a patch that covers at least this share of it.
        clue_entries: most entries fetched for one report.
        clue_tokens: fixed number of (code, position) pairs a report gets.
        atlas: write a picture of the entries of the most frequent words. It shows pixels of *training images*: turn it
            off where these may not leave the data store.
    """

    top_pairs: int = 1000
    top_words: int = 20
    word_quota: int = 200
    word_floor: int = 20
    coverage: float = 0.5
    clue_entries: int = 10
    clue_tokens: int = 24
    atlas: bool = True


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One word-patch that may become an entry.

    Attributes:
        word: the mention's canonical word.
        score: cosine of the word with the patch.
        pair_score: text→image score of its image-report pair.
        side: "left", "right" or "" as the report says.
        box: of the patch, in fractions of the image.
        feature: unit vector [D].
        codes: VQ codes of the covered cells.
        positions: their places in the codebook's grid, row * w + column.
        pixels: uint8 [h,w] of the patch, None unless an atlas is wanted.
    """

    word: str
    score: float
    pair_score: float
    side: str
    image_id: str
    study_id: str
    patient_id: str
    box: Box
    feature: np.ndarray
    codes: tuple[int, ...]
    positions: tuple[int, ...]
    pixels: np.ndarray | None = None

    @property
    def key(self) -> tuple[float, str, str, Box]:
        """Best first, and the same order on every rank."""
        return (-self.score, self.image_id, self.word, self.box)


def crop(image: Tensor, box: tuple[float, ...], *, around: int) -> np.ndarray:
    """The pixels of a box (fractions) and of `around` pixels beside it, uint8, from image float [S,S] in [-1,1]."""
    size = image.shape[-1]
    x0, y0, x1, y1 = (round(edge * size) for edge in box)
    part = image[max(0, y0 - around) : y1 + around, max(0, x0 - around) : x1 + around]
    return ((part.float() + 1) * 127.5).round().clamp(0, 255).byte().cpu().numpy()


def cells_of_box(box: Box, *, height: int, width: int, coverage: float = 0.5) -> list[int]:
    """Places (row * width + column) of the grid cells of which a box covers at least `coverage`.

    A box that covers so much of no cell, since the codebook's cells are larger than the aligner's patches, gets the one
    cell it covers most of: a clue without a code would be lost.
    """
    x0, y0, x1, y1 = box
    across = [max(0.0, min(x1 * width, c + 1) - max(x0 * width, c)) for c in range(width)]
    down = [max(0.0, min(y1 * height, r + 1) - max(y0 * height, r)) for r in range(height)]
    # The tolerance forgives that edges such as 3/7 are not exact in binary.
    covered = [r * width + c for r in range(height) for c in range(width) if down[r] * across[c] >= coverage - 1e-6]
    return covered or [int(np.argmax(down)) * width + int(np.argmax(across))]


class KeyPatchBuilder:
    """Collects the candidates of training pairs, one pair at a time."""

    def __init__(self, options: KeyPatchOptions) -> None:
        self.options = options
        self.pairs: list[tuple[float, str, list[Candidate]]] = []  # a heap, worst pair first
        self.floor: dict[str, list[Candidate]] = defaultdict(list)  # best candidates of each word

    def add(self, candidates: Sequence[Candidate], *, split: str) -> None:
        """Take the word-patches of one image-report pair.

        Raises:
            ValueError: if the study is not of the training split: validation and test pixels must never become clues.
        """
        if not candidates:
            return
        first = candidates[0]
        if split != "train":
            raise ValueError(
                f"study {first.study_id} (image {first.image_id}) is of split {split!r}: key patches are taken from "
                "split 'train' only; check the data set's split column"
            )
        best: dict[tuple[str, str], Candidate] = {}
        for candidate in sorted(candidates, key=lambda c: c.key):
            best.setdefault((candidate.word, candidate.side), candidate)
        kept = list(best.values())
        # Among equal scores the smaller image id wins: heapq drops the smallest item, so ids are compared reversed.
        heapq.heappush(self.pairs, (first.pair_score, _reversed(first.image_id), kept[: self.options.top_words]))
        if len(self.pairs) > self.options.top_pairs:
            heapq.heappop(self.pairs)
        for candidate in kept:
            of_word = self.floor[candidate.word]
            of_word.append(candidate)
            if len(of_word) > 4 * self.options.word_floor:
                self.floor[candidate.word] = sorted(of_word, key=lambda c: c.key)[: self.options.word_floor]

    def candidates(self) -> tuple[list[list[Candidate]], list[Candidate]]:
        """What this rank hands over: its best pairs, and its best word-patches of each word."""
        floor = [sorted(of_word, key=lambda c: c.key)[: self.options.word_floor] for of_word in self.floor.values()]
        return [candidates for _, _, candidates in self.pairs], [c for of_word in floor for c in of_word]


def _reversed(text: str) -> str:
    return "".join(chr(0x10FFFF - ord(c)) for c in text)


def select(
    pairs: Iterable[list[Candidate]], floor: Iterable[Candidate], *, options: KeyPatchOptions
) -> list[Candidate]:
    """The entries: `top_pairs` pairs by pair score, `top_words` of each, `word_quota` a word, at least `word_floor`.

    Returns:
        Sorted by word, then from best to worst.
    """
    ranked = sorted((list(p) for p in pairs), key=lambda p: (-p[0].pair_score, p[0].image_id))[: options.top_pairs]
    of_word: dict[str, dict[tuple, Candidate]] = defaultdict(dict)
    for pair in ranked:
        for candidate in sorted(pair, key=lambda c: c.key)[: options.top_words]:
            of_word[candidate.word][candidate.key] = candidate
    chosen: dict[str, dict[tuple, Candidate]] = {
        word: {key: entries[key] for key in sorted(entries)[: options.word_quota]} for word, entries in of_word.items()
    }
    for candidate in sorted(floor, key=lambda c: c.key):
        entries = chosen.setdefault(candidate.word, {})
        if len(entries) < min(options.word_floor, options.word_quota):
            entries[candidate.key] = candidate
    return [chosen[word][key] for word in sorted(chosen) for key in sorted(chosen[word])]


def write_key_patches(
    entries: Sequence[Candidate], path: str | Path, *, digests: Mapping[str, str], options: KeyPatchOptions
) -> None:
    """Write `path` (safetensors) and the same name with .jsonl, one readable line an entry.

    Args:
        entries: from `select`; at least one.
        path: of the safetensors file; `load_key_patches` reads it.
        digests: of the aligner's checkpoint, the codebook tokens and the manifest: kept in the metadata.
        options: how many entries and tokens a report fetches: kept in the metadata, so that all fetch alike.

    Raises:
        ValueError: if there is no entry.
    """
    if not entries:
        raise ValueError(
            "no key patch was found: no training report has a mention that is not negated; check the report column and "
            "`python -m datamodules doctor`"
        )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    words = sorted({entry.word for entry in entries})
    cells = max(len(entry.codes) for entry in entries)

    def padded(rows: Iterable[Sequence[int]]) -> Tensor:
        return torch.tensor([[*row, *[-1] * (cells - len(row))] for row in rows])

    arrays = {
        "features": torch.from_numpy(np.stack([entry.feature for entry in entries])).float(),
        "codes": padded(entry.codes for entry in entries),
        "positions": padded(entry.positions for entry in entries),
        "word": torch.tensor([words.index(entry.word) for entry in entries]),
        "side": torch.tensor([SIDES.get(entry.side, -1) for entry in entries]),
        "patient": torch.tensor([patient_hash(entry.patient_id) for entry in entries]),
        "boxes": torch.tensor([entry.box for entry in entries]),
        "scores": torch.tensor([entry.score for entry in entries]),
    }
    metadata = {"schema": str(SCHEMA), "split": "train", "words": json.dumps(words), **digests}
    metadata |= {"clue_entries": str(options.clue_entries), "clue_tokens": str(options.clue_tokens)}
    temporary = path.with_name(path.name + ".tmp")
    save_file(arrays, temporary, metadata=metadata)
    os.replace(temporary, path)
    lines = [
        json.dumps(
            {
                "word": entry.word,
                "side": entry.side,
                "score": round(entry.score, 6),
                "image_id": entry.image_id,
                "study_id": entry.study_id,
                "patient_id": entry.patient_id,
                "box": [round(x, 6) for x in entry.box],
                "codes": list(entry.codes),
                "positions": list(entry.positions),
            }
        )
        for entry in entries
    ]
    table = path.with_suffix(".jsonl")
    temporary = table.with_name(table.name + ".tmp")
    temporary.write_text("\n".join(lines) + "\n")
    os.replace(temporary, table)


def write_atlas(
    entries: Sequence[Candidate], path: str | Path, *, words: int = 16, patches: int = 8, size: int = 48
) -> None:
    """Draw the best patches of the words with most entries, one row a word; entries without pixels are left out."""
    of_word: dict[str, list[Candidate]] = defaultdict(list)
    for entry in entries:
        if entry.pixels is not None:
            of_word[entry.word].append(entry)
    rows = sorted(of_word.items(), key=lambda item: (-len(item[1]), item[0]))[:words]
    margin = 150
    picture = Image.new("L", (margin + patches * (size + 4), max(1, len(rows)) * (size + 4)), 0)
    draw = ImageDraw.Draw(picture)
    for r, (word, of_one) in enumerate(rows):
        draw.text((4, r * (size + 4) + size // 2 - 6), f"{word} ({len(of_one)})"[:26], fill=255)
        for c, entry in enumerate(sorted(of_one, key=lambda e: e.key)[:patches]):
            tile = Image.fromarray(np.asarray(entry.pixels)).resize((size, size), Image.Resampling.BICUBIC)
            picture.paste(tile, (margin + c * (size + 4), r * (size + 4)))
    path = Path(path)
    temporary = path.with_name(path.name + ".tmp")
    picture.save(temporary, format="PNG")
    os.replace(temporary, path)
