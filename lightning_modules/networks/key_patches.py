"""The key-patch codebook as a network part: entries of (word, feature, VQ codes, positions), and its search.

An entry is a patch of a *training* image that shows a word (AdaMatch, arXiv 2312.08078, section 3.3). Its feature is
the unit mean of the word's and the patch's vector: the word's half carries what the sentence said of it (side,
severity), the patch's half makes an entry score higher the more its pixels look like the word that asks, so that a
patch that was merely mentioned beside a finding is not returned for it. All arrays are buffers: a generator's
checkpoint holds its codebook.

Shapes: E entries, C cells an entry, V words, L entries of the most frequent word, D the aligner's space, Q queries, N
tiles of T queries.
"""

import dataclasses
import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from datamodules.reports.mentions import Mention

SIDES = {"left": 0, "right": 1}  # the patient's sides; anything else is -1
TILE = 16  # queries that are scored together: in larger tiles more is padding, smaller ones copy more entries


@dataclasses.dataclass(frozen=True)
class KeyPatchConfig:
    """Sizes of a codebook and how much of it a report gets.

    Attributes:
        entries: number of entries E.
        cells: most VQ cells of one entry C.
        dim: size of a feature D.
        words: the vocabulary: canonical words of the entries.
        clue_entries: most entries fetched for one report.
        clue_tokens: fixed number K of (code, position) pairs that a report gets, padded with -1.
    """

    entries: int
    cells: int
    dim: int
    words: tuple[str, ...]
    clue_entries: int = 10
    clue_tokens: int = 24


def patient_hash(patient_id: str) -> int:
    """A patient id as a signed 64-bit number, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(patient_id.encode(), digest_size=8).digest(), "little", signed=True)


def mention_words(mention: Mention, spans: Sequence[tuple[int, int]]) -> list[int]:
    """Which words of a text overlap a mention; none if the mention lies beyond the tokenizer's `max_length`."""
    return [i for i, (start, end) in enumerate(spans) if start < mention.end and end > mention.start]


class KeyPatchCodebook(nn.Module):
    """The entries as buffers; made empty from its config and filled by `load_state_dict`."""

    features: Tensor
    codes: Tensor
    positions: Tensor
    word: Tensor
    side: Tensor
    patient: Tensor
    centres: Tensor
    pathology: Tensor

    def __init__(self, config: KeyPatchConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("features", torch.zeros(config.entries, config.dim))  # unit vectors
        self.register_buffer("codes", torch.full((config.entries, config.cells), -1))
        self.register_buffer("positions", torch.full((config.entries, config.cells), -1))  # row * w + column
        self.register_buffer("word", torch.zeros(config.entries, dtype=torch.long))  # index into config.words
        self.register_buffer("side", torch.full((config.entries,), -1))  # index of SIDES, -1 = neither
        self.register_buffer("patient", torch.zeros(config.entries, dtype=torch.long))  # patient_hash
        self.register_buffer("centres", torch.zeros(len(config.words), config.dim))  # unit vectors
        self.register_buffer("pathology", torch.zeros(len(config.words), dtype=torch.bool))  # else anatomy

    @torch.no_grad()
    def nearest_words(self, queries: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor]:
        """The word of the vocabulary that is most like each query.

        A word's vector is the unit mean of the word halves of its entries. Its bare name, encoded outside of any
        sentence, is nothing that the text encoder has read, and one entry's alone has its side and severity. What all
        words share is taken away first: contrast leaves it alone, and with it their median cosine was 0.97.

        Args:
            queries: unit vectors [Q,D].
            allowed: bool [Q,V], the words that may be taken.

        Returns:
            Cosines float32 [Q], -inf where no word is allowed, and words int64 [Q].
        """
        shared = self.centres.mean(dim=0)
        asking, there = (functional.normalize(vectors - shared, dim=1) for vectors in (queries.float(), self.centres))
        best = (asking @ there.T).masked_fill(~allowed, float("-inf")).max(dim=1)
        return best.values, best.indices

    @torch.no_grad()
    def retrieve(
        self, queries: Tensor, words: Tensor, sides: Tensor, patients: Tensor, *, count: int
    ) -> tuple[Tensor, Tensor]:
        """The best entries of each query, of all reports in one product.

        A query may fetch entries of its own word alone. So queries are sorted by word and cut into tiles of one word,
        and each tile is multiplied with that word's entries, not with all of them.

        Args:
            queries: unit vectors [Q,D], at least one.
            words: int64 [Q], index into `config.words`.
            sides: int64 [Q]; a query of one side never gets an entry of the other: a clue keeps its place, so it would
                paint the finding on the wrong side.
            patients: int64 [Q], whose entries are left out; 0 for none.
            count: most entries a query.

        Returns:
            Scores float32 [Q,k] from best to worst, -inf where nothing is left, and entries int64 [Q,k]; k is `count`,
            or L where that is less.
        """
        order, tile, slot, tile_word = _tiles(words, vocabulary=len(self.config.words))
        rows, there = (part[tile_word, None] for part in self._rows_of_words())  # N 1 L

        def tiled(values: Tensor) -> Tensor:
            return values.new_zeros(len(tile_word), TILE, *values.shape[1:]).index_put((tile, slot), values[order])

        scores = torch.bmm(tiled(queries.float()), self.features[rows[:, 0]].transpose(1, 2))  # N T L
        side, patient = tiled(sides)[..., None], tiled(patients)[..., None]  # N T 1
        wrong = ((side >= 0) & (self.side[rows] == 1 - side)) | ((patient != 0) & (patient == self.patient[rows]))
        best = scores.masked_fill_(wrong | ~there, float("-inf")).topk(min(count, scores.shape[2]), dim=2)
        entries = rows.expand(-1, TILE, -1).gather(2, best.indices)
        back = order.argsort()
        return best.values[tile, slot][back], entries[tile, slot][back]

    def _rows_of_words(self) -> tuple[Tensor, Tensor]:
        """The entries of each word, int64 [V,L], and bool [V,L], False where a word has fewer than L."""
        counts = self.word.bincount(minlength=len(self.config.words))
        place = torch.arange(int(counts.max()), device=self.word.device)
        there = place < counts[:, None]
        rows = ((counts.cumsum(0) - counts)[:, None] + place).clamp_max(self.config.entries - 1)
        return self.word.argsort(stable=True)[rows], there


def _tiles(words: Tensor, *, vocabulary: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Queries sorted by word and cut into tiles: their order, each one's tile and place in it, and each tile's word."""
    order = words.argsort(stable=True)
    sorted_words = words[order]
    counts = words.bincount(minlength=vocabulary)
    place = torch.arange(len(words), device=words.device) - (counts.cumsum(0) - counts)[sorted_words]
    tiles = (counts + TILE - 1) // TILE
    tile = (tiles.cumsum(0) - tiles)[sorted_words] + place // TILE
    return order, tile, place % TILE, torch.arange(vocabulary, device=words.device).repeat_interleave(tiles)
