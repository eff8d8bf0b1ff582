"""Choosing the key patches: best pairs, best word-patches, a quota a word; training studies only.

`KeyPatchBuilder` sees every training pair once and keeps what may still be chosen, so its memory does not grow with the
data set. Ranks hand their candidates to `select`, whose result does not depend on their order.
"""

import dataclasses
import heapq
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np

Box = tuple[float, float, float, float]


@dataclasses.dataclass(frozen=True)
class KeyPatchOptions:
    """How key patches are chosen and fetched.

    Attributes:
        anatomy: also of anatomy. The default losses train the words of findings alone: give `losses.words` a weight, or
            patches of anatomy are drawn from words that learnt nothing.
        top_pairs: image-report pairs kept, those whose image shows best what its report states (1000 in AdaMatch).
        top_words: word-patches kept in each pair (20 in AdaMatch).
        word_quota: most entries of one word, so that "lungs" does not fill the codebook.
        word_floor: a word with fewer entries than this from the best pairs also gets its best ones from other pairs, so
            that a rare finding can be fetched at all.
        coverage: a codebook cell belongs to a patch that covers at least this share of it.
        clue_entries: most entries fetched for one report.
        clue_tokens: fixed number of (code, position) pairs a report gets.
        pixels: keep each entry's crop as a PNG in the Parquet table. An entry is VQ codes, which the codebook's decoder
            turns into something like its pixels; a crop is the pixels themselves, of a *training image*, beside the ids
            of its study and patient. Nothing here reads them: keep them only to look at entries one by one.
        atlas: write a picture of the best entries of some words. It shows pixels of training images too, without ids:
            turn it off where these may not leave the data store.
    """

    anatomy: bool = False
    top_pairs: int = 1000
    top_words: int = 20
    word_quota: int = 200
    word_floor: int = 20
    coverage: float = 0.5
    clue_entries: int = 10
    clue_tokens: int = 24
    pixels: bool = False
    atlas: bool = True

    def __post_init__(self) -> None:
        for name in ("top_pairs", "top_words", "word_quota", "clue_entries", "clue_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"key_patch_options.{name} is {getattr(self, name)}; expected at least 1")
        if self.word_floor < 0 or not 0 < self.coverage <= 1:
            raise ValueError(
                f"key_patch_options: word_floor {self.word_floor} and coverage {self.coverage}; expected at least 0, "
                "and a share above 0 and up to 1"
            )


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One word-patch that may become an entry.

    Attributes:
        word: the mention's canonical word.
        kind: "pathology" or "anatomy".
        score: height of the word's heat map at its peak, a mean of cosines with the patches around it.
        pair_score: mean log-likelihood of what the report states, as in retrieval; the least if it states nothing.
        side: "left", "right" or "" as the report says.
        box: of the patch, in fractions of the image.
        feature: unit vector [D], of the word and the patch.
        word_half: unit vector [D], of the word alone.
        codes: VQ codes of the covered cells.
        positions: their places in the codebook's grid, row * w + column.
        pixels: uint8 [h,w] of the patch and what is around it, None unless an option asks for them.
    """

    word: str
    kind: Literal["pathology", "anatomy"]
    score: float
    pair_score: float
    side: str
    image_id: str
    study_id: str
    patient_id: str
    box: Box
    feature: np.ndarray
    word_half: np.ndarray
    codes: tuple[int, ...]
    positions: tuple[int, ...]
    pixels: np.ndarray | None = None

    @property
    def key(self) -> tuple[float, str, str, str, Box]:
        """Best first, and the same order on every rank; no two entries have the same."""
        return (-self.score, self.image_id, self.word, self.side, self.box)


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
        self.seen: set[str] = set()

    def add(self, candidates: Sequence[Candidate], *, split: str) -> None:
        """Take the word-patches of one image-report pair; one that was taken before is passed over.

        A sampler that makes ranks even repeats samples.

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
        if first.image_id in self.seen:
            return
        self.seen.add(first.image_id)
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

    A pair that several ranks hand over counts once.

    Returns:
        Sorted by word, then from best to worst.

    Raises:
        ValueError: if there is none.
    """
    distinct = {pair[0].image_id: pair for pair in pairs}
    ranked = sorted(distinct.values(), key=lambda p: (-p[0].pair_score, p[0].image_id))[: options.top_pairs]
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
    if not chosen:
        raise ValueError(
            "no key patch was found: no training report has a mention that is not negated; check the report column and "
            "`python -m datamodules doctor`"
        )
    return [chosen[word][key] for word in sorted(chosen) for key in sorted(chosen[word])]
