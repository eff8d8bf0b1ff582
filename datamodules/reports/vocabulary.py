"""The vocabulary artefact: which anatomy and pathology words the training reports use, how often, and which together.

It is mined from training reports only and written as indented and sorted JSON (readable, diffable). Keyword sets that
are as plausible as the reports are drawn from it by `keyword_sampler`.
"""

import dataclasses
import functools
import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.files import replacing
from datamodules.reports.bulk import map_mentions
from datamodules.reports.contradictions import exclusive
from datamodules.reports.counting import count, left_out
from datamodules.reports.drawing import Drawer
from datamodules.reports.fitting import fit_sets
from datamodules.reports.keywords import Keywords, Kind
from datamodules.reports.labels import FINDINGS
from datamodules.reports.phrases import lexicon
from datamodules.reports.report_facts import Facts, counted
from datamodules.reports.stop_words import StopList, read_stop_words

SCHEMA = 2


@dataclasses.dataclass(frozen=True)
class Entry:
    """One word of the vocabulary.

    Attributes:
        word: canonical, e.g. "pleural effusion", "left lower lobe".
        kind: "anatomy" or "pathology".
        label: the CheXpert finding, None for anatomy and what has none.
        count: reports that mention it, whatever the status.
        stated: reports that state it as present or possible; the same as count for anatomy.
        variants: how it is written (lower case) → number of mentions.
        forms: keyword with modifiers → reports that state it; empty for anatomy.
        findings: CheXpert finding → reports in which this word and that finding are stated together.
    """

    word: str
    kind: Kind
    label: str | None
    count: int
    stated: int
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
        left_out: word → {"reports": how many mention it, "reason": why it is no keyword}.
        places: pathology word → anatomy word in the same sentence ("" = none) → number of sentences.
        cooccurrence: anatomy word → pathology word stated in the same sentence → CheXpert finding stated anywhere in
            the report → reports; the finding "" counts the reports whatever they find.
        agreement: "word ; word" of pathologies → "sided": reports that state both on a side, "same": on the same side.
        background: anatomy word → reports that name it in a sentence without a stated pathology.
        background_sizes: number of such words in a report → reports.
        sets: set of pathology words (joined by " ; ", "" = none) → reports.
    """

    reports: int
    digest: str
    min_count: int
    entries: dict[str, Entry]
    left_out: dict[str, dict[str, Any]]
    places: dict[str, dict[str, int]]
    cooccurrence: dict[str, dict[str, dict[str, int]]]
    agreement: dict[str, dict[str, int]]
    background: dict[str, int]
    background_sizes: dict[int, int]
    sets: dict[str, int]

    @property
    def words(self) -> frozenset[str]:
        """All canonical words, for `keywords_of(report, words=...)`."""
        return frozenset(self.entries)

    @functools.cached_property
    def drawer(self) -> Drawer:
        """What draws modifiers and anatomy for pathology words."""
        return Drawer(self)

    def to_json(self) -> str:
        """The artefact's text."""
        return (
            json.dumps({"schema": SCHEMA, **dataclasses.asdict(self)}, indent=1, sort_keys=True, ensure_ascii=False)
            + "\n"
        )

    @staticmethod
    def from_json(text: str, *, source: str = "the vocabulary") -> "Vocabulary":
        """The inverse of `to_json`.

        Raises:
            ValueError: if the text is no vocabulary of this schema.
        """
        mend = "make it again with `python -m datamodules vocabulary`"
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"{source} is not JSON ({error}); {mend}") from error
        schema = data.get("schema") if isinstance(data, dict) else None
        if schema != SCHEMA:
            raise ValueError(f"{source} is not a vocabulary of schema {SCHEMA} (found schema {schema}); {mend}")
        names = {field.name for field in dataclasses.fields(Vocabulary)}
        if names != data.keys() - {"schema"}:
            wrong = sorted(names ^ (data.keys() - {"schema"}))
            raise ValueError(f"{source} lacks, or should not have, the keys {wrong}; {mend}")
        data.pop("schema")
        try:
            data["entries"] = {word: Entry(**entry) for word, entry in data["entries"].items()}
            data["background_sizes"] = {int(k): v for k, v in data["background_sizes"].items()}
        except (TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"{source}: its entries or background sizes are damaged ({error}); {mend}") from error
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

    def findings_of(self, words: Iterable[str]) -> frozenset[str]:
        """The CheXpert findings of a set of pathology words; "No Finding" where all are devices, or there are none."""
        labels = [self.entries[word].label for word in words]
        normal = {"No Finding"} if all(label == "Support Devices" for label in labels) else set()
        return frozenset({label for label in labels if label is not None} | normal)

    def set_weights(
        self, target_marginals: Mapping[str, float] | None = None
    ) -> tuple[list[tuple[str, ...]], np.ndarray]:
        """The pathology sets and their probabilities, re-weighted so that findings have the wanted shares.

        Args:
            target_marginals: CheXpert finding → share of reports that state it, between 0 and 1; "No Finding" is the
                share of reports that state nothing but devices.

        Returns:
            The sets that occurred, but those that no chest can have (`contradictions.EXCLUSIVE`); float64 [sets],
            summing to 1.

        Raises:
            ValueError: if a finding is unknown or no set has it, or if no weights of these sets give all the shares.
        """
        found = {tuple(name.split(" ; ")) if name else (): count for name, count in self.sets.items()}
        sets = [words for words in found if not exclusive(words)]
        has = {}
        for finding, share in (target_marginals or {}).items():
            if finding not in FINDINGS or not 0 <= share <= 1:
                raise ValueError(
                    f"target marginal {finding!r}: {share} is not a share in [0, 1] of one of {list(FINDINGS)}"
                )
            has[finding] = np.array([finding in self.findings_of(words) for words in sets])
            if share > 0 and not has[finding].any():
                raise ValueError(f"target marginal {finding!r}: no training report states it, so it cannot be drawn")
        counts = np.array([found[words] for words in sets], dtype=np.float64)
        return sets, fit_sets(counts / counts.sum(), has=has, shares=dict(target_marginals or {}))

    def from_labels(self, labels: np.ndarray, rng: np.random.Generator, *, view: str | None = None) -> Keywords:
        """Keywords for a study of which only labels are known (NIH): a modified keyword for each positive label.

        Args:
            labels: float [14] of 1, 0, -1 (gives a "possible ..." keyword) or NaN.
            rng: draws word, side, severity and anatomy.
            view: of VIEWS; in "LATERAL" left and right lie over each other, so that no side is drawn, and what only a
                lateral view shows is drawn in no other. None or "unknown" draws everything.
        """
        words: dict[str, bool] = {}
        for finding, value in zip(FINDINGS, np.asarray(labels, dtype=np.float32), strict=True):
            if finding == "No Finding" or np.isnan(value) or value == 0:
                continue
            entries = [e for e in self.entries.values() if e.label == finding and e.forms]
            if entries:
                share = np.array([sum(e.forms.values()) for e in entries], dtype=np.float64)
                word = entries[int(rng.choice(len(entries), p=share / share.sum()))].word
            else:  # the training reports never state it: its first word of the lexicon, without modifiers
                word = next(e.word for e in lexicon().entities.values() if e.label == finding)
            words[word] = bool(value == -1)
        return self.drawer.study(tuple(words), rng=rng, possible=words, view=view).keywords


def mine(
    reports: Sequence[str],
    *,
    min_count: int,
    max_words: int = 500,
    stop_words: StopList | None = None,
) -> Vocabulary:
    """Mine the vocabulary of the training reports.

    Args:
        reports: report texts of the training split only.
        min_count: a word must occur in at least so many reports.
        max_words: the most frequent words kept of each kind.
        stop_words: what is no keyword; the package's list by default.

    Raises:
        ValueError: if there are no reports, or no word is frequent enough.
    """
    if not any(text.strip() for text in reports):
        raise ValueError(
            f"a vocabulary is mined from training reports, and of {len(reports)} given none has a text; take data with "
            "a training split of reports, or the file that `python -m datamodules vocabulary` wrote of such data"
        )
    stop = read_stop_words() if stop_words is None else stop_words
    variants: dict[str, Counter[str]] = defaultdict(Counter)
    # Many reports are normal in the same words: equal ones are counted once, which keeps 227,000 in little memory.
    facts: Counter[Facts] = Counter()
    for one, forms in map_mentions(counted, reports):
        for word, form in forms:
            variants[word][form] += 1
        facts[one] += 1
    counts: Counter[str] = Counter()
    kinds: dict[str, Kind] = {}
    for one, times in facts.items():
        kinds.update(dict.fromkeys(one.mentioned, "pathology"))
        counts.update(dict.fromkeys(one.mentioned, times))
    kinds.update({word: "anatomy" for one in facts for word in one.anatomy})
    dropped = left_out(counts, kinds, stop, min_count=min_count, max_words=max_words)
    keep = counts.keys() - dropped.keys()
    if not keep:
        raise ValueError(
            f"no word occurs in {min_count} of the {len(reports)} reports; lower min_count, or check that these are "
            "reports"
        )
    tables = count(facts, keep, stop)
    vocabulary = Vocabulary(
        reports=len(reports),
        digest=hashlib.sha256("\0".join(reports).encode()).hexdigest(),
        min_count=min_count,
        entries={
            word: Entry(
                word,
                kinds[word],
                getattr(lexicon().entities.get(word), "label", None),
                counts[word],
                counts[word] if kinds[word] == "anatomy" else tables.stated.get(word, 0),
                dict(variants[word]),
                tables.forms.get(word, {}),
                tables.findings.get(word, {}),
            )
            for word in keep
        },
        left_out=dropped,
        places=tables.places,
        cooccurrence=tables.cooccurrence,
        agreement=tables.agreement,
        background=tables.background,
        background_sizes=tables.background_sizes,
        sets=tables.sets,
    )
    # Through its text, so that a mined and a loaded vocabulary draw the same words: the order of the tables counts.
    return Vocabulary.from_json(vocabulary.to_json())
