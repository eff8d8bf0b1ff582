"""Reports to clues: the aligner's text half, its tokenizer and a key-patch codebook, with no need of Lightning.

Shapes: B reports, Q queries, V words of the codebook, D the aligner's space, K clue tokens.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from datamodules.reports.mentions import Mention, extract
from lightning_modules.networks.alignment import AlignerConfig, read_words
from lightning_modules.networks.key_patches import SIDES, KeyPatchCodebook, KeyPatchConfig, mention_words
from lightning_modules.networks.pretrained_text import TextModel, build_text, open_tokenizer
from lightning_modules.networks.text_encoder import TextEncoderConfig
from lightning_modules.networks.text_numbers import text_number
from lightning_modules.networks.tokenizer import Tokens

NEAREST = 0.5  # least cosine at which a word without entries of its own takes those of another


class Fetched(NamedTuple):
    """One entry that was fetched for a report.

    Attributes:
        entry: its index.
        word: the report's word that fetched it.
        score: cosine of the word's feature with the entry's.
    """

    entry: int
    word: str
    score: float


@dataclasses.dataclass(frozen=True, slots=True)
class _Asked:
    """What a report asks for.

    Attributes:
        mentions: what it does not deny.
        denied: words that it denies and nowhere affirms.
    """

    mentions: tuple[Mention, ...]
    denied: frozenset[str]


@functools.lru_cache(maxsize=100_000)
def asked(report: str) -> _Asked:
    """What a report asks for; remembered, since training without a clue cache asks once an epoch."""
    mentions = extract(report)
    wanted = tuple(mention for mention in mentions if mention.status != "absent")
    return _Asked(wanted, frozenset(m.word for m in mentions) - {m.word for m in wanted})


class _Queries(NamedTuple):
    """Q queries of a batch: whose they are, what they ask for, and how."""

    reports: list[int]
    mentions: list[Mention]
    words: Tensor  # int64 [Q]
    sides: Tensor  # int64 [Q]
    features: Tensor  # [Q,D], unit vectors


class ClueRetriever(nn.Module):
    """Fetches key patches for reports.

    Everything it learnt or holds is in its state dict; the constructor arguments rebuild it. `text_model` is that of an
    aligner with a pretrained text encoder, None where the aligner has its own.
    """

    def __init__(
        self,
        aligner_config: AlignerConfig,
        tokenizer_state: str,
        key_patch_config: KeyPatchConfig,
        text_model: TextModel | None = None,
    ) -> None:
        super().__init__()
        self.aligner_config, self.config = aligner_config, key_patch_config
        self.tokenizer = open_tokenizer(tokenizer_state, text_model)
        self.text_config: TextEncoderConfig = aligner_config.text(len(self.tokenizer))
        self.text = build_text(self.text_config, text_model, train=False)
        self.text_out = nn.Linear(2 * self.text.width, aligner_config.dim)
        self.codebook = KeyPatchCodebook(key_patch_config)
        self.vocabulary = {word: i for i, word in enumerate(key_patch_config.words)}

    def load_stages(self, aligner: Mapping[str, Tensor], arrays: Mapping[str, Tensor]) -> "ClueRetriever":
        """Fill it from an aligner checkpoint's `weights("network.")` and the arrays of `load_key_patches`."""
        for name in ("text", "text_out"):
            weights = {k.removeprefix(f"{name}."): v for k, v in aligner.items() if k.startswith(f"{name}.")}
            getattr(self, name).load_state_dict(weights)
        self.codebook.load_state_dict(dict(arrays))
        return self.eval()

    @torch.no_grad()
    def fetch(self, reports: Sequence[str], *, exclude_patients: Sequence[str] | None = None) -> list[list[Fetched]]:
        """The entries that each report fetches, best first.

        Every mention that is not negated asks for entries of its word. A word without entries takes those of the
        nearest word (`KeyPatchCodebook.nearest_words`): a pathology those of a pathology that the report does not deny,
        anatomy those of anatomy; none where no word is near.

        Each finding that is present keeps at least its best entry (one a side if it is bilateral); the rest goes to the
        highest scores, up to `clue_entries`.

        Args:
            reports: B texts.
            exclude_patients: B patient ids whose own patches are left out, so that training never sees its own pixels.
        """
        # In float32 whoever calls: cached and later clues of one text must be the same.
        with torch.autocast(self.codebook.features.device.type, enabled=False):
            return self._fetch(reports, exclude_patients)

    def _fetch(self, reports: Sequence[str], exclude_patients: Sequence[str] | None) -> list[list[Fetched]]:
        if not self.config.entries:
            return [[] for _ in reports]
        tokens = self.tokenizer(reports, max_length=self.aligner_config.max_length)
        queries = self._queries([asked(report) for report in reports], tokens)
        if not queries.reports:
            return [[] for _ in reports]
        patients = torch.zeros_like(queries.words)
        if exclude_patients is not None:
            hashes = [text_number(patient) for patient in exclude_patients]
            patients = torch.tensor([hashes[report] for report in queries.reports], device=patients.device)
        scores, entries = self.codebook.retrieve(
            queries.features, queries.words, queries.sides, patients, count=self.config.clue_entries
        )
        return self._shared_out(queries, scores.cpu().numpy(), entries.cpu().numpy(), reports=len(reports))

    def _shared_out(
        self, queries: _Queries, scores: np.ndarray, entries: np.ndarray, *, reports: int
    ) -> list[list[Fetched]]:
        """Which of the entries [Q,k] that its queries found, with their scores [Q,k], each report gets."""
        promised = [mention.status == "present" and mention.kind == "pathology" for mention in queries.mentions]
        first = np.zeros(scores.shape, dtype=bool)
        first[:, 0] = promised
        query, rank = np.nonzero(scores > -np.inf)
        report, score, entry = np.array(queries.reports)[query], scores[query, rank], entries[query, rank]
        order = np.lexsort((entry, -score, ~first[query, rank], report))
        fetched: list[dict[int, Fetched]] = [{} for _ in range(reports)]
        columns = (column[order].tolist() for column in (report, entry, score, query))
        for b, e, s, q in zip(*columns, strict=True):
            taken = fetched[b]
            if len(taken) < self.config.clue_entries and e not in taken:
                taken[e] = Fetched(e, queries.mentions[q].word, s)
        return [list(taken.values()) for taken in fetched]

    def clues(self, reports: Sequence[str], *, exclude_patients: Sequence[str] | None = None) -> Tensor:
        """int64 [B,K,2] of (code, grid position), -1 = padding; the best entry wins a position that several ask for.

        Args and order are those of `fetch`.
        """
        fetched = self.fetch(reports, exclude_patients=exclude_patients)
        book = self.codebook
        entries = torch.tensor([found.entry for row in fetched for found in row], dtype=torch.long)
        entries = entries.to(book.codes.device)
        cells = zip(book.codes[entries].tolist(), book.positions[entries].tolist(), strict=True)
        clues = []
        for row in fetched:
            taken: dict[int, int] = {}
            for _ in row:
                for code, position in zip(*next(cells), strict=True):
                    if position >= 0:
                        taken.setdefault(position, code)
            pairs = [(code, position) for position, code in taken.items()][: self.config.clue_tokens]
            clues.append(pairs + [(-1, -1)] * (self.config.clue_tokens - len(pairs)))
        return torch.tensor(clues, dtype=torch.long).view(-1, self.config.clue_tokens, 2).to(book.codes.device)

    def _queries(self, asked_of: Sequence[_Asked], tokens: Tokens) -> _Queries:
        """What the reports ask for; a query's feature is the unit mean of its mention's words."""
        device = self.codebook.features.device
        reports: list[int] = []
        mentions: list[Mention] = []
        sides: list[int] = []
        query_of: list[int] = []  # of each word of each mention
        words_of: list[tuple[int, int]] = []
        for b, (wanted, spans) in enumerate(zip(asked_of, tokens.spans, strict=True)):
            for mention in wanted.mentions:
                inside = mention_words(mention, spans)
                if not inside:
                    continue
                for side in [0, 1] if mention.side == "bilateral" else [SIDES.get(mention.side or "", -1)]:
                    query_of += [len(reports)] * len(inside)
                    words_of += [(b, word) for word in inside]
                    reports.append(b)
                    mentions.append(mention)
                    sides.append(side)
        row, column = torch.tensor(words_of, dtype=torch.long, device=device).view(-1, 2).T
        # Few words of a report are asked for: to encode only these takes a fifth off the whole.
        vectors = functional.normalize(self.text_out(read_words(self.text, tokens)[row, column]).float(), dim=1)
        sums = vectors.new_zeros(len(reports), vectors.shape[1])
        sums.index_add_(0, torch.tensor(query_of, dtype=torch.long, device=device), vectors)
        features = functional.normalize(sums, dim=1)
        words = torch.tensor([self.vocabulary.get(m.word, -1) for m in mentions], dtype=torch.long, device=device)
        words = self._with_nearest(words, features, mentions, [asked_of[report].denied for report in reports])
        known = words >= 0
        kept = known.nonzero()[:, 0].tolist()
        return _Queries(
            [reports[q] for q in kept],
            [mentions[q] for q in kept],
            words[known],
            torch.tensor(sides, dtype=torch.long, device=device)[known],
            features[known],
        )

    def _with_nearest(
        self, words: Tensor, features: Tensor, mentions: list[Mention], denied: list[frozenset[str]]
    ) -> Tensor:
        """The words int64 [Q] with the nearest in place of those that have no entries, -1 where none is near."""
        unknown = (words < 0).nonzero()[:, 0]
        if not len(unknown):
            return words
        book, rows = self.codebook, unknown.tolist()
        pathology = torch.tensor([mentions[q].kind == "pathology" for q in rows], device=words.device)
        allowed = pathology[:, None] == book.pathology
        for i, q in enumerate(rows):
            for word in denied[q] & self.vocabulary.keys():
                allowed[i, self.vocabulary[word]] = False
        cosine, nearest = book.nearest_words(features[unknown], allowed)
        return words.index_put((unknown,), torch.where(cosine >= NEAREST, nearest, -1))
