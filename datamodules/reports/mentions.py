"""Anatomy and pathology mentions of a report: where, what, on which side, how severe, and present / absent / uncertain.

Phrases come from `phrases.json`, status from `statuses`, side and zone from `places`, severity from `modifiers`.
Standard library and numpy only.
"""

import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np

from datamodules.reports.labels import FINDINGS
from datamodules.reports.modifiers import JOINTS, Sentence, Side, Status, find_severity
from datamodules.reports.phrases import Match, lexicon, sentences, tokenize
from datamodules.reports.places import find_places, split_sides
from datamodules.reports.statuses import find_pathologies

# What a question asks is no finding; "pneumonia?" is a suspicion.
QUESTIONS = frozenset(["are", "can", "could", "did", "do", "does", "has", "have", "is", "was", "were", "what"])
# What calls a study or a part of it normal.
NORMALITY = re.compile(
    r"\b(?:normal|normally|unremarkable|clear|negative|"
    r"no (?:\w+ ){0,3}(?:abnormality|abnormalities|disease|finding|findings|process))\b",
    re.IGNORECASE,
)
# How a sentence begins that says what the finding of the one before is: first word → it or the word behind it.
ANAPHORS = {
    "this": ("this",),
    "these": ("these",),
    "the": ("appearance", "finding", "findings", "differential"),
    "appearance": ("appearance",),
    "findings": ("findings",),
    "differential": ("differential",),
    "may": ("may",),
    "might": ("might",),
    "could": ("could",),
}


@dataclass(frozen=True, slots=True)
class Mention:
    """One entity in a report.

    Attributes:
        start, end: characters of the phrase in the report, without its modifiers.
        word: canonical name, e.g. "pleural effusion", "left lower lobe" (a lateral anatomy word carries its side).
        kind: "anatomy" or "pathology".
        status: always "present" for anatomy: that a lobe is named says nothing about it.
        side: the patient's side; None where none is named or the entity has none.
        severity: "small", "mild", "moderate", "large", "severe" or None.
        label: the CheXpert name, None for anatomy and for what has none (emphysema, hernia, ...).
        sentence: number of the sentence, from 0.
        zone: "apex", "upper", "mid", "lower", "base", "hilar" or "retrocardiac", where one is named; else None.
    """

    start: int
    end: int
    word: str
    kind: Literal["anatomy", "pathology"]
    status: Status
    side: Side | None = None
    severity: str | None = None
    label: str | None = None
    sentence: int = 0
    zone: str | None = None


def extract(report: str) -> list[Mention]:
    """All mentions in the order of the text. What only the history or the question asked names is left out."""
    found: list[Mention] = []
    before: list[Mention] = []
    for number, (offset, sentence) in enumerate(sentences(report)):
        read = _read(sentence)
        here = [_moved(mention, offset, number) for mention in read.mentions]
        if read.points_back:
            here = [_placed(mention, before) for mention in here]
        found += here
        before = here
    return found


class _Read(NamedTuple):
    """One sentence read for itself: its mentions, and whether it says what the finding of the sentence before is."""

    mentions: tuple[Mention, ...]
    points_back: bool


@functools.lru_cache(maxsize=16384)
def _read(sentence: str) -> _Read:
    """Radiologists repeat themselves: in 2,000 reports 60 % of the sentences were there before."""
    tokens = tokenize(sentence)
    if not tokens or (tokens[-1].text == "?" and tokens[0].text in QUESTIONS):
        return _Read((), False)
    back = ANAPHORS.get(tokens[0].text, ())
    return _Read(tuple(_mentions(Sentence(tokens, lexicon()))), any(t.text in back for t in tokens[:2]))


def _moved(m: Mention, offset: int, number: int) -> Mention:
    """The mention of a sentence where it stands in the report; a third of the time of `dataclasses.replace`."""
    return Mention(
        m.start + offset, m.end + offset, m.word, m.kind, m.status, m.side, m.severity, m.label, number, m.zone
    )


def _placed(mention: Mention, before: list[Mention]) -> Mention:
    """A mention without a side takes that of the sign that its sentence points back to.

    "Left base opacity. The appearance suggests atelectasis."
    """
    if mention.kind == "anatomy" or mention.side is not None or not lexicon().entities[mention.word].lateral:
        return mention
    for sign in reversed(before):
        if sign.kind == "pathology" and sign.side is not None and sign.status != "absent":
            return replace(mention, side=sign.side, zone=mention.zone or sign.zone)
    return mention


def labels_of(report: str) -> np.ndarray:
    """The 14 CheXpert labels that a report states, float32 [14].

    Those of its mentions, see `labels_from`. NaN throughout where nothing is said that these rules know: a text that
    names no pathology and calls nothing normal or clear, as an empty one, is not thereby a normal study.
    """
    found = extract(report)
    if not any(mention.kind == "pathology" for mention in found) and not NORMALITY.search(report):
        return np.full(len(FINDINGS), np.nan, dtype=np.float32)
    return labels_from(found)


def labels_from(mentions: Iterable[Mention]) -> np.ndarray:
    """The 14 CheXpert labels that the mentions of a report with text state, float32 [14].

    1 if any mention is present, else -1 if any is uncertain, else 0 if any is absent, else NaN. "No Finding" is 1 if
    nothing but support devices is present or uncertain, else 0. Labels are not propagated up the CheXpert hierarchy: a
    consolidation does not make "Lung Opacity" 1.
    """
    labels = np.full(len(FINDINGS), np.nan, dtype=np.float32)
    rank = {"present": 1.0, "uncertain": -1.0, "absent": 0.0}
    best: dict[str, Status] = {}
    abnormal = False
    for mention in mentions:
        if mention.kind != "pathology":
            continue
        abnormal |= mention.status != "absent" and mention.label != "Support Devices"
        if mention.label is not None:
            before = best.get(mention.label, "absent")
            order: tuple[Status, ...] = ("present", "uncertain", "absent")
            best[mention.label] = min(before, mention.status, key=order.index)
    for label, status in best.items():
        labels[FINDINGS.index(label)] = rank[status]
    labels[0] = 0.0 if abnormal else 1.0
    return labels


def _mentions(sentence: Sentence) -> list[Mention]:
    """The mentions of one sentence, whose characters count from its start."""
    anatomy = [m for m in sentence.matches if m.value("anatomy") is not None]
    if not anatomy and not any(m.value("pathology") is not None for m in sentence.matches):
        return []
    found = find_pathologies(sentence)
    places = find_places(sentence, found)
    out = [_anatomy(sentence, match) for match in anatomy]
    for k, (f, place) in enumerate(zip(found, places, strict=True)):
        severity = find_severity(sentence, found, k)
        both = split_sides(sentence, f) if place.side == "bilateral" and severity else []
        for side, degree in both or [(place.side, severity)]:
            label = sentence.words.entities[f.word].label
            span = sentence.tokens[f.first].start, sentence.tokens[f.last - 1].end
            out.append(Mention(*span, f.word, "pathology", f.status, side, degree, label, zone=place.zone))
    return sorted(out, key=lambda m: (m.start, m.end, m.kind))


def _anatomy(sentence: Sentence, match: Match) -> Mention:
    word = match.value("anatomy") or ""
    zone = sentence.words.entities[word].zone
    side: str | None = match.value("side")
    if side is None and sentence.words.entities[word].lateral:
        for i in range(match.first - 1, max(-1, match.first - 4), -1):
            before = sentence.cover[i]
            if sentence.tokens[i].text in JOINTS or sentence.verb(i) or sentence.ends(i):
                break
            if before is not None and before.value("side"):
                side = before.value("side")
                break
    if side is not None and sentence.words.entities[word].lateral:
        word = f"{side} {word}"
    span = sentence.tokens[match.first].start, sentence.tokens[match.last - 1].end
    return Mention(*span, word, "anatomy", "present", side, zone=zone)  # type: ignore[arg-type]
