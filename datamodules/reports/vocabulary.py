"""The vocabulary artefact: which anatomy and pathology words the training reports use, how often, and which together.

It is mined from training reports only, written as indented and sorted JSON (readable, diffable), and draws keyword sets
that are as plausible as the reports: sets of pathologies come from the table of sets that occurred.
"""

import dataclasses
import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.files import replacing
from datamodules.reports.keywords import Keyword, Keywords, Kind, of_mentions, parse
from datamodules.reports.labels import FINDINGS
from datamodules.reports.mentions import extract
from datamodules.reports.phrases import lexicon

SCHEMA = 1
NOWHERE = ""  # a pathology sentence that names no place


@dataclasses.dataclass(frozen=True)
class Entry:
    """One word of the vocabulary.

    Attributes:
        word: canonical, e.g. "pleural effusion", "left lower lobe".
        kind: "anatomy" or "pathology".
        label: the CheXpert finding, None for anatomy and what has none.
        count: reports that mention it, whatever the status.
        variants: surface form (lower case) → number of mentions.
        forms: keyword with modifiers → reports that state it; empty for anatomy.
        findings: CheXpert finding → reports in which this word and that finding are stated together.
    """

    word: str
    kind: Kind
    label: str | None
    count: int
    variants: dict[str, int]
    forms: dict[str, int]
    findings: dict[str, int]


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """See the module's docstring.

    Attributes:
        reports: how many were read.
        digest: sha256 of the reports that it was mined from.
        min_count: words of fewer reports were left out.
        entries: word → entry.
        places: pathology word → anatomy word in the same sentence ("" = none) → number of sentences.
        background: anatomy word → reports that name it in a sentence without a stated pathology.
        background_sizes: number of such words in a report → reports.
        sets: set of pathology words (joined by " ; ", "" = none) → reports.
    """

    reports: int
    digest: str
    min_count: int
    entries: dict[str, Entry]
    places: dict[str, dict[str, int]]
    background: dict[str, int]
    background_sizes: dict[int, int]
    sets: dict[str, int]

    @property
    def words(self) -> frozenset[str]:
        """All canonical words, for `keywords_of(report, words=...)`."""
        return frozenset(self.entries)

    def to_json(self) -> str:
        """The artefact's text."""
        data = {"schema": SCHEMA, **dataclasses.asdict(self)}
        data["entries"] = {k: {**v, "word": k} for k, v in data["entries"].items()}
        return json.dumps(data, indent=1, sort_keys=True, ensure_ascii=False) + "\n"

    @staticmethod
    def from_json(text: str, *, source: str = "the vocabulary") -> "Vocabulary":
        """The inverse of `to_json`.

        Raises:
            ValueError: if the text is no vocabulary of this schema.
        """
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{source} is not JSON ({error}); make it with `python -m datamodules vocabulary`"
            ) from error
        schema = data.get("schema") if isinstance(data, dict) else None
        if schema != SCHEMA or "entries" not in data:
            raise ValueError(
                f"{source} is not a vocabulary of schema {SCHEMA} (found schema {schema}); make it again with "
                "`python -m datamodules vocabulary`"
            )
        data.pop("schema")
        data["entries"] = {word: Entry(**entry) for word, entry in data["entries"].items()}
        data["background_sizes"] = {int(k): v for k, v in data["background_sizes"].items()}
        return Vocabulary(**data)

    def save(self, path: str | Path) -> None:
        """Write the artefact under a temporary name, then rename."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_text(self.to_json(), encoding="utf-8")

    @staticmethod
    def load(path: str | Path) -> "Vocabulary":
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: with the command that makes it.
            ValueError: if it is no vocabulary of this schema.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(
                f"the vocabulary {path} does not exist; mine it from the training reports with "
                "`python -m datamodules vocabulary`, or give another path"
            )
        return Vocabulary.from_json(Path(path).read_text(encoding="utf-8"), source=str(path))

    def set_weights(
        self, target_marginals: Mapping[str, float] | None = None
    ) -> tuple[list[tuple[str, ...]], np.ndarray]:
        """The pathology sets and their probabilities, re-weighted so that findings have the wanted shares.

        Iterative proportional fitting (Deming and Stephan 1940) over the sets that occurred: within what those sets
        allow, each finding's share becomes its target and all else stays as proportional as it can.

        Args:
            target_marginals: CheXpert finding → share of reports that state it, between 0 and 1.

        Raises:
            ValueError: if a finding is unknown, or no set has it.
        """
        names = list(self.sets)
        sets = [tuple(name.split(" ; ")) if name else () for name in names]
        weights = np.array([self.sets[name] for name in names], dtype=np.float64)
        weights /= weights.sum()
        members = {}
        for finding, share in (target_marginals or {}).items():
            if finding not in FINDINGS or not 0 <= share <= 1:
                raise ValueError(f"target marginal {finding!r}: {share} is not a share in [0, 1] of one of {FINDINGS}")
            has = np.array([any(self.entries[w].label == finding for w in words) for words in sets])
            if share > 0 and not has.any():
                raise ValueError(f"target marginal {finding!r}: no training report states it, so it cannot be drawn")
            members[finding] = (has, share)
        for _ in range(100 if members else 0):
            for has, share in members.values():
                now = weights[has].sum()
                weights = np.where(has, weights * share / max(now, 1e-12), weights * (1 - share) / max(1 - now, 1e-12))
            weights /= weights.sum()
        return sets, weights

    def sample(
        self, rng: np.random.Generator, *, n: int, target_marginals: Mapping[str, float] | None = None
    ) -> list[Keywords]:
        """Draw n keyword sets: the pathologies together, their modifiers, their places, then normal anatomy."""
        sets, weights = self.set_weights(target_marginals)
        drawn = rng.choice(len(sets), size=n, p=weights)
        return [self._complete(rng, [self._form(rng, word) for word in sets[i]]) for i in drawn]

    def from_labels(self, labels: np.ndarray, rng: np.random.Generator) -> Keywords:
        """Keywords for a study of which only labels are known (NIH): a modified keyword for each positive label.

        Args:
            labels: float [14] of 1, 0, -1 (gives a "possible ..." keyword) or NaN.
            rng: draws word, side, severity and anatomy.
        """
        forms = []
        for finding, value in zip(FINDINGS, np.asarray(labels, dtype=np.float32), strict=True):
            if finding == "No Finding" or np.isnan(value) or value == 0:
                continue
            entries = [e for e in self.entries.values() if e.label == finding and e.forms]
            if entries:
                share = np.array([sum(e.forms.values()) for e in entries], dtype=np.float64)
                word = entries[int(rng.choice(len(entries), p=share / share.sum()))].word
            else:  # the training reports never state it: its first word of the lexicon, without modifiers
                word = next(e.word for e in lexicon().entities.values() if e.label == finding)
            forms.append(self._form(rng, word, possible=bool(value == -1)))
        return self._complete(rng, forms)

    def _form(self, rng: np.random.Generator, word: str, *, possible: bool | None = None) -> Keyword:
        entry = self.entries.get(word)
        options = [parse(form) for form in entry.forms] if entry is not None else []
        share = np.array([entry.forms[str(k)] for k in options], dtype=np.float64) if entry is not None else np.zeros(0)
        if possible is not None and options:
            fits = np.array([k.possible == possible for k in options])
            if fits.any():
                share = share * fits
        if not options:
            return Keyword(word, "pathology", possible=bool(possible))
        keyword = options[int(rng.choice(len(options), p=share / share.sum()))]
        return keyword if possible is None else dataclasses.replace(keyword, possible=possible)

    def _complete(self, rng: np.random.Generator, forms: list[Keyword]) -> Keywords:
        """Add anatomy: a place for each pathology on a side that it can have, then anatomy that is only described."""
        anatomy: dict[str, None] = {}
        for keyword in forms:
            places = {
                word: count
                for word, count in self.places.get(keyword.word, {}).items()
                if word == NOWHERE or parse(word).side in (None, keyword.side)
            }
            if places:
                anatomy[_choose(rng, places)] = None
        size = int(_choose(rng, {str(k): v for k, v in self.background_sizes.items()}) or 0)
        rest = dict(self.background)
        for _ in range(min(size, len(rest))):
            word = _choose(rng, rest)
            del rest[word]
            anatomy[word] = None
        anatomy.pop(NOWHERE, None)
        return Keywords(tuple(anatomy), tuple(str(keyword) for keyword in forms))


def _choose(rng: np.random.Generator, counts: Mapping[str, int]) -> str:
    if not counts:
        return NOWHERE
    share = np.array(list(counts.values()), dtype=np.float64)
    return list(counts)[int(rng.choice(len(share), p=share / share.sum()))]


def mine(reports: Sequence[str], *, min_count: int, max_words: int = 500) -> Vocabulary:
    """Mine the vocabulary of the training reports.

    Args:
        reports: report texts of the training split only.
        min_count: a word must occur in at least so many reports.
        max_words: the most frequent words kept of each kind.

    Raises:
        ValueError: if there are no reports, or no word is frequent enough.
    """
    if not any(text.strip() for text in reports):
        raise ValueError(f"the vocabulary needs training reports and was given {len(reports)} empty ones")
    extracted = [extract(report) for report in reports]
    counts: Counter[str] = Counter()
    kinds: dict[str, Kind] = {}
    for mentions in extracted:
        counts.update({m.word for m in mentions})
        kinds.update({m.word: m.kind for m in mentions})
    keep: set[str] = set()
    for kind in ("anatomy", "pathology"):
        ranked = sorted(
            (w for w in counts if kinds[w] == kind and counts[w] >= min_count), key=lambda w: (-counts[w], w)
        )
        keep.update(ranked[:max_words])
    if not keep:
        raise ValueError(
            f"no word occurs in {min_count} of the {len(reports)} reports; lower min_count, or check that these are "
            "reports"
        )
    variants: dict[str, Counter[str]] = defaultdict(Counter)
    forms: dict[str, Counter[str]] = defaultdict(Counter)
    findings: dict[str, Counter[str]] = defaultdict(Counter)
    places: dict[str, Counter[str]] = defaultdict(Counter)
    background: Counter[str] = Counter()
    sizes: Counter[int] = Counter()
    sets: Counter[str] = Counter()
    for report, mentions in zip(reports, extracted, strict=True):
        mentions = [m for m in mentions if m.word in keep]
        keywords = of_mentions(mentions)
        stated = [parse(text) for text in keywords.pathology]
        labels = {m.label for m in mentions if m.label is not None and m.status != "absent"}
        for mention in mentions:
            variants[mention.word][report[mention.start : mention.end].lower()] += 1
        for word in {m.word for m in mentions if m.kind == "anatomy" or m.status != "absent"}:
            findings[word].update(labels)
        for keyword in stated:
            forms[keyword.word][str(keyword)] += 1
        sets[" ; ".join(sorted({k.word for k in stated}))] += 1
        positive = {m.sentence for m in mentions if m.kind == "pathology" and m.status != "absent"}
        plain = {m.word for m in mentions if m.kind == "anatomy" and m.sentence not in positive}
        background.update(plain)
        sizes[len(plain)] += 1
        for number in positive:
            here = [m for m in mentions if m.sentence == number]
            named = {m.word for m in here if m.kind == "anatomy"} or {NOWHERE}
            for word in {m.word for m in here if m.kind == "pathology" and m.status != "absent"}:
                places[word].update(named)
    entries = {
        word: Entry(
            word,
            kinds[word],
            getattr(lexicon().entities.get(word), "label", None),
            counts[word],
            dict(variants[word]),
            dict(forms[word]),
            dict(findings[word]),
        )
        for word in sorted(keep)
    }
    vocabulary = Vocabulary(
        reports=len(reports),
        digest=hashlib.sha256("\0".join(reports).encode()).hexdigest(),
        min_count=min_count,
        entries=entries,
        places={word: dict(c) for word, c in places.items()},
        background=dict(background),
        background_sizes=dict(sizes),
        sets=dict(sets),
    )
    # Through its text, so that a mined and a loaded vocabulary draw the same words: the order of the tables counts.
    return Vocabulary.from_json(vocabulary.to_json())


def describe(vocabulary: Vocabulary) -> dict[str, Any]:
    """Counts for a log line."""
    kinds: Counter[str] = Counter(entry.kind for entry in vocabulary.entries.values())
    return {"reports": vocabulary.reports, **kinds, "pathology_sets": len(vocabulary.sets), "digest": vocabulary.digest}
