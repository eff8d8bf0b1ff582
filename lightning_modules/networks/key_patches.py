"""The key-patch codebook as a network part: entries of (word, feature, VQ codes, positions), and its search.

An entry is a patch of a *training* image that shows a word (AdaMatch, arXiv 2312.08078, section 3.3). Its feature is
the unit mean of the word's and the patch's vector: the word's half carries what the sentence said of it (side,
severity), the patch's half makes an entry score higher the more its pixels look like the word that asks, so that a
patch that was merely mentioned beside a finding is not returned for it. All arrays are buffers: a generator's
checkpoint holds its codebook.

Shapes: E entries, C cells an entry, V words, D the aligner's space, Q queries.
"""

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from datamodules.reports.mentions import Mention

SIDES = {"left": 0, "right": 1}  # the patient's sides; anything else is -1


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
        self.register_buffer("patient", torch.zeros(config.entries, dtype=torch.long))  # text_number
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
        """The best entries of each query, in one product for each word that the reports of a batch ask for.

        A query may fetch entries of its own word alone: one product of all queries with all entries would be masked for
        the most part, and takes five times as long.

        Args:
            queries: unit vectors [Q,D].
            words: int64 [Q], index into `config.words`.
            sides: int64 [Q]; a query of one side never gets an entry of the other: a clue keeps its place, so it would
                paint the finding on the wrong side.
            patients: int64 [Q], whose entries are left out; 0 for none.
            count: most entries a query.

        Returns:
            Scores float32 [Q,count] from best to worst, -inf where nothing is left, and entries int64 [Q,count].
        """
        scores = queries.new_full((len(queries), count), float("-inf"), dtype=torch.float32)
        entries = words.new_zeros(len(queries), count)
        vocabulary = len(self.config.words)
        of_word = self.word.argsort(stable=True).split(self.word.bincount(minlength=vocabulary).tolist())
        asking = words.argsort(stable=True).split(words.bincount(minlength=vocabulary).tolist())
        for rows, own in zip(of_word, asking, strict=True):
            if len(own) and len(rows):
                side, patient = sides[own, None], patients[own, None]
                wrong = (side >= 0) & (self.side[rows] == 1 - side)
                wrong |= (patient != 0) & (patient == self.patient[rows])
                cosine = (queries[own].float() @ self.features[rows].T).masked_fill_(wrong, float("-inf"))
                best = cosine.topk(min(count, len(rows)), dim=1)
                scores[own, : best.values.shape[1]] = best.values
                entries[own, : best.values.shape[1]] = rows[best.indices]
        return scores, entries
