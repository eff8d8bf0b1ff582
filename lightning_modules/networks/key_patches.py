"""The key-patch codebook as a network part: entries of (word, feature, VQ codes, positions), and retrieval.

An entry is a patch of a *training* image that shows a word (AdaMatch, arXiv 2312.08078, section 3.3). Its feature is
the unit mean of the word's and the patch's vector: the word's half carries what the sentence said of it (side,
severity), the patch's half makes an entry score higher the more its pixels look like the word that asks, so that a
patch that was merely mentioned beside a finding is not returned for it. All arrays are buffers: a generator's
checkpoint holds its codebook.

Shapes: E entries, C cells an entry, D the aligner's space, B reports, K clue tokens, Q queries.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional

from datamodules.reports.mentions import Mention, extract
from lightning_modules.networks.alignment import AlignerConfig, encode_words
from lightning_modules.networks.text_encoder import TextEncoder, TextEncoderConfig
from lightning_modules.networks.tokenizer import WordTokenizer

SCHEMA = 1
SIDES = {"left": 0, "right": 1}  # the patient's sides; anything else is -1
NEAREST = 0.5  # least cosine at which a finding without entries of its own takes those of another word
ARRAYS = ("features", "codes", "positions", "word", "side", "patient")


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


@dataclasses.dataclass(frozen=True)
class Fetched:
    """One entry that was fetched for a report.

    Attributes:
        entry: its index.
        word: the report's word that fetched it.
        score: cosine of the word's feature with the entry's.
    """

    entry: int
    word: str
    score: float


@dataclasses.dataclass(frozen=True)
class _Query:
    report: int
    mention: Mention
    side: int
    promised: bool  # a present finding: it keeps its best entry whatever else scores higher
    denied: frozenset[str]  # what the report says is absent


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

    def __init__(self, config: KeyPatchConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("features", torch.zeros(config.entries, config.dim))  # unit vectors
        self.register_buffer("codes", torch.full((config.entries, config.cells), -1))
        self.register_buffer("positions", torch.full((config.entries, config.cells), -1))  # row * w + column
        self.register_buffer("word", torch.zeros(config.entries, dtype=torch.long))  # index into config.words
        self.register_buffer("side", torch.full((config.entries,), -1))  # index of SIDES, -1 = neither
        self.register_buffer("patient", torch.zeros(config.entries, dtype=torch.long))  # patient_hash

    @torch.no_grad()
    def retrieve(
        self, queries: Tensor, words: Tensor, sides: Tensor, patients: Tensor, *, count: int, chunk: int = 256
    ) -> tuple[Tensor, Tensor]:
        """The best entries of each query.

        Args:
            queries: unit vectors [Q,D].
            words: int64 [Q], index into `config.words`; -1 lets a query take entries of any word, which is how a word
                that the codebook does not know falls back to its nearest neighbours.
            sides: int64 [Q]; a query of one side never gets an entry of the other: a clue keeps its place, so it would
                paint the finding on the wrong side.
            patients: int64 [Q], whose entries are left out; 0 for none.
            count: entries a query.
            chunk: queries scored at a time, which bounds the memory.

        Returns:
            Scores float32 [Q,count] from best to worst, -inf where nothing is left, and entries int64 [Q,count].
        """
        count = min(count, self.config.entries)
        scores, entries = [], []
        for q, word, side, patient in zip(
            *(part.split(chunk) for part in (queries, words, sides, patients)), strict=True
        ):
            allowed = (word[:, None] < 0) | (word[:, None] == self.word)
            allowed &= (side[:, None] < 0) | (self.side < 0) | (side[:, None] == self.side)
            allowed &= (patient[:, None] == 0) | (patient[:, None] != self.patient)
            cosine = (q.float() @ self.features.T).masked_fill(~allowed, float("-inf"))
            best = cosine.topk(count, dim=1)
            scores.append(best.values)
            entries.append(best.indices)
        return torch.cat(scores), torch.cat(entries)


def load_key_patches(
    path: str | Path, *, tokens_digest: str | None = None, aligner_digest: str | None = None
) -> tuple[KeyPatchConfig, dict[str, Tensor]]:
    """Read the `key_patches.safetensors` that the aligner's `predict` wrote.

    Args:
        path: the file.
        tokens_digest: sha256 of the codebook checkpoint whose codes are wanted; None does not check.
        aligner_digest: sha256 of the aligner checkpoint whose words ask; None does not check.

    Returns:
        The codebook's config and the arrays that `KeyPatchCodebook.load_state_dict` takes.

    Raises:
        FileNotFoundError: with the command that makes it.
        ValueError: if it is of another schema, split or codebook.
    """
    metadata = read_metadata(path)
    if tokens_digest is not None and metadata["tokens"] != tokens_digest:
        raise ValueError(
            f"{path} holds codes of the codebook {metadata['tokens'][:12]}, expected those of {tokens_digest[:12]}: "
            "the codebook changed; make tokens and key patches again with `python main.py predict` of both stages"
        )
    if aligner_digest is not None and metadata["aligner"] != aligner_digest:
        raise ValueError(
            f"{path} was made by the aligner {metadata['aligner'][:12]}, expected {aligner_digest[:12]}: the aligner "
            "changed; make the key patches again with `python main.py predict` of the aligner stage"
        )
    with safe_open(str(path), framework="pt") as file:
        arrays = {name: file.get_tensor(name) for name in ARRAYS}
    entries, dim = arrays["features"].shape
    words = tuple(json.loads(metadata["words"]))
    limits = int(metadata["clue_entries"]), int(metadata["clue_tokens"])
    return KeyPatchConfig(entries, arrays["codes"].shape[1], dim, words, *limits), arrays


def read_metadata(path: str | Path) -> dict[str, str]:
    """The schema, digests, split and vocabulary of a key-patch file.

    Raises:
        FileNotFoundError: with the command that makes it.
        ValueError: if it is of another schema or split.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"the key patches {path} do not exist; make them with "
            "`python main.py predict -c configs/base.yaml -c configs/aligner.yaml --ckpt_path=<aligner checkpoint>`"
        )
    with safe_open(str(path), framework="pt") as file:
        metadata = dict(file.metadata() or {})
    if metadata.get("schema") != str(SCHEMA) or metadata.get("split") != "train":
        raise ValueError(
            f"{path}: expected key patches of schema {SCHEMA} and split train, found schema {metadata.get('schema')} "
            f"and split {metadata.get('split')}; make them again with `python main.py predict` of the aligner stage"
        )
    return metadata


class ClueRetriever(nn.Module):
    """Reports to clues: the aligner's text half, its tokenizer and a key-patch codebook, with no need of Lightning.

    Everything it learnt or holds is in its state dict; the three
    constructor arguments rebuild it.
    """

    def __init__(self, aligner_config: AlignerConfig, tokenizer_state: str, key_patch_config: KeyPatchConfig) -> None:
        super().__init__()
        self.aligner_config, self.config = aligner_config, key_patch_config
        self.tokenizer = WordTokenizer(tokenizer_state)
        self.text_config: TextEncoderConfig = aligner_config.text(len(self.tokenizer))
        self.text = TextEncoder(self.text_config)
        self.text_out = nn.Linear(2 * aligner_config.text_width, aligner_config.dim)
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

        A finding that has no entries takes those of its nearest words, but none that the report denies; anatomy without
        entries fetches nothing.

        Every mention that is not negated asks for entries of its word. Each finding that is present keeps at least its
        best entry (one a side if it is bilateral); the rest goes to the highest scores, up to `clue_entries`.

        Args:
            reports: B texts.
            exclude_patients: B patient ids whose own patches are left out, so that training never sees its own pixels.
        """
        # In float32 whoever calls: cached and later clues of one text must be the same.
        with torch.autocast(self.codebook.features.device.type, enabled=False):
            return self._fetch(reports, exclude_patients)

    def _fetch(self, reports: Sequence[str], exclude_patients: Sequence[str] | None) -> list[list[Fetched]]:
        queries, features = self._queries(reports)
        fetched: list[list[Fetched]] = [[] for _ in reports]
        if not queries or not self.config.entries:
            return fetched
        device = self.codebook.features.device
        words = torch.tensor([self.vocabulary.get(q.mention.word, -1) for q in queries], device=device)
        sides = torch.tensor([q.side for q in queries], device=device)
        patients = torch.zeros_like(words)
        if exclude_patients is not None:
            hashes = [patient_hash(patient) for patient in exclude_patients]
            patients = torch.tensor([hashes[q.report] for q in queries], device=device)
        scores, entries = self.codebook.retrieve(features, words, sides, patients, count=self.config.clue_entries)
        of_entry = self.codebook.word.tolist()
        options: list[list[tuple[bool, float, int, str]]] = [[] for _ in reports]
        for query, row_scores, row_entries in zip(queries, scores.tolist(), entries.tolist(), strict=True):
            least = NEAREST if query.mention.word not in self.vocabulary else -1.0
            found = [
                (s, e)
                for s, e in zip(row_scores, row_entries, strict=True)
                if s >= least and self.config.words[of_entry[e]] not in query.denied
            ]
            options[query.report] += [
                (query.promised and rank == 0, s, e, query.mention.word) for rank, (s, e) in enumerate(found)
            ]
        for report, row in enumerate(options):
            taken: dict[int, Fetched] = {}
            for _, score, entry, word in sorted(row, key=lambda o: (not o[0], -o[1], o[2])):
                if len(taken) < self.config.clue_entries:
                    taken.setdefault(entry, Fetched(entry, word, score))
            fetched[report] = list(taken.values())
        return fetched

    def clues(self, reports: Sequence[str], *, exclude_patients: Sequence[str] | None = None) -> Tensor:
        """int64 [B,K,2] of (code, grid position), -1 = padding; the best entry wins a position that several ask for.

        Args and order are those of `fetch`.
        """
        fetched = self.fetch(reports, exclude_patients=exclude_patients)
        clues = torch.full((len(fetched), self.config.clue_tokens, 2), -1)
        for report, row in enumerate(fetched):
            entries = torch.tensor([found.entry for found in row], dtype=torch.long, device=self.codebook.codes.device)
            codes, positions = self.codebook.codes[entries].flatten(), self.codebook.positions[entries].flatten()
            taken: dict[int, int] = {}
            for code, position in zip(codes.tolist(), positions.tolist(), strict=True):
                if position >= 0:
                    taken.setdefault(position, code)
            pairs = [(code, position) for position, code in taken.items()][: self.config.clue_tokens]
            if pairs:
                clues[report, : len(pairs)] = torch.tensor(pairs)
        return clues.to(self.codebook.codes.device)

    def _queries(self, reports: Sequence[str]) -> tuple[list[_Query], Tensor]:
        """What the reports ask for, and unit vectors [Q,D]: the mean of each mention's words."""
        tokens = self.tokenizer(reports, max_length=self.aligner_config.max_length)
        words = encode_words(self.text, self.text_out, tokens)
        queries, features = [], []
        for b, (report, spans) in enumerate(zip(reports, tokens.spans, strict=True)):
            mentions = extract(report)
            denied = {m.word for m in mentions if m.status == "absent"} - {
                m.word for m in mentions if m.status != "absent"
            }
            for mention in mentions:
                inside = mention_words(mention, spans)
                unknown = mention.kind == "anatomy" and mention.word not in self.vocabulary
                if mention.status == "absent" or unknown or not inside:
                    continue
                promised = mention.status == "present" and mention.kind == "pathology"
                sides = [0, 1] if mention.side == "bilateral" else [SIDES.get(mention.side or "", -1)]
                queries += [_Query(b, mention, side, promised, frozenset(denied)) for side in sides]
                features += [functional.normalize(words[b, inside].mean(dim=0), dim=0)] * len(sides)
        return queries, torch.stack(features) if features else words.new_zeros(0, words.shape[-1])
