"""What a text says against the pathologies that it is asked to state: denials, other degrees, "lungs are clear".

A text in the making is checked sentence by sentence, so whatever contradicts here does so whatever follows.
"""

import functools
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from datamodules.reports.mentions import Mention
from datamodules.reports.phrases import lexicon

if TYPE_CHECKING:
    from datamodules.reports.keywords import Keyword

# Anatomy that is described as normal → the CheXpert findings that this denies, of which no word names one.
NORMAL_DENIES: Mapping[str, frozenset[str]] = {
    "lung": frozenset(["Lung Opacity", "Lung Lesion", "Edema", "Consolidation", "Pneumonia", "Atelectasis"]),
    "pulmonary vasculature": frozenset(["Edema"]),
    "bony thorax": frozenset(["Fracture"]),
}
# What one chest cannot have at once.
EXCLUSIVE = (frozenset(["hyperinflation", "hypoinflation"]),)
# "Lungs are clear. Calcified nodule at the right apex." is said by radiologists, of a mass it is not.
BESIDE_CLEAR_LUNGS = frozenset(["nodule"])
# What "no acute disease" denies. Old and slow findings go with it (granuloma, nodule, degenerative change), and so do
# those that many reports call not acute in the same breath: opacity, atelectasis, effusion, fracture.
ACUTE_FINDINGS = frozenset(["Edema", "Consolidation", "Pneumonia", "Pneumothorax"])
ACUTE_WORDS = frozenset(["free air", "pneumomediastinum", "subcutaneous emphysema"])
# Degrees that mean the same of different findings: a small effusion, a mild edema.
GRADES = {"small": 1, "mild": 1, "moderate": 2, "large": 3, "severe": 3}
# "No focal airspace disease. Streaky opacity at the left base." One in a hundred published reports says so: these words
# name the opacities that fill the alveoli, and deny no other.
AIRSPACE = re.compile(r"air ?-?space|alveolar|infiltrat", re.IGNORECASE)
# "No other nodule": what was said before stands.
OTHERS = re.compile(
    r"\b(?:other|additional|further|new|else|acute|suspicious)\b[^.;]{0,30}\Z|\bno ___[^.;]{0,20}\Z", re.IGNORECASE
)
_BEFORE = 40  # characters in which that stands

_LIMITED = re.compile(
    r"\b(?:otherwise|remaind\w+|remaining|rest of|elsewhere|except\w*|aside|apart|other than|but|although|however)\b"
)
_LUNGS = r"(?:lungs?(?: fields?| parenchyma)?|pulmonary parenchyma)"
_VESSELS = (
    r"(?:(?:pulmonary|lung|central) (?:vasculature|vascularity|vessels?)|vasculature|vascularity|"
    r"vascular (?:markings?|pattern))"
)
_BONES = r"(?:(?:osseous|bony|skeletal) (?:structures?|thorax)|bones)"
# Between the subject and what is said of it: no word that begins another statement, or names another part.
_BETWEEN = r"(?:,? (?!with|no\b|not\b|volume|apex|apices|base|zone|upper|lower|mid|of\b|limits?)[a-z]+){0,8}?,? "
_END = r"(?=\s*(?:\Z|[.,;:]| (?:and|bilaterally|without|with no|throughout|in appearance|in caliber|in size)\b))"
_NORMAL = rf"(?:clear|normal(?: limits)?|unremarkable|within normal limits){_END}"
_STUDY = r"(?:(?:chest )?(?:study|exam(?:ination)?|radiographs?|film|x-?ray)|chest)"
_PARTS = re.compile(r"[.;?!\n]+")
_STATEMENTS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("lung", re.compile(rf"\b(?:(left|right) )?{_LUNGS}\b{_BETWEEN}{_NORMAL}")),
    ("lung", re.compile(rf"\b(?:clear|normal|unremarkable) (?:(left|right) )?{_LUNGS}{_END}")),
    ("pulmonary vasculature", re.compile(rf"\b()?{_VESSELS}\b{_BETWEEN}{_NORMAL}")),
    ("pulmonary vasculature", re.compile(rf"\b()?(?:normal|unremarkable) {_VESSELS}{_END}")),
    ("bony thorax", re.compile(rf"\b()?{_BONES}\b{_BETWEEN}(?:{_NORMAL}|intact{_END})")),
    (
        "acute",
        re.compile(
            r"\b()?no (?:\w+ ){0,4}?(?:acute|active)(?: (?!bon|oss|skelet|rib|fractur)[\w/-]+){0,2}? "
            r"(?:disease|process|abnormalit(?:y|ies)|findings?|patholog(?:y|ies))\b"
        ),
    ),
    ("study", re.compile(rf"\b()?(?:normal|unremarkable|negative) {_STUDY}\b(?! (?:wall|cage|tube|port))")),
    ("study", re.compile(rf"\b()?{_STUDY} (?:is|appears|remains) (?:\w+ )?(?:normal|unremarkable|negative){_END}")),
)
_HINT = re.compile(r"clear|normal|unremarkable|negative|intact|acute|active", re.IGNORECASE)


class Denial(NamedTuple):
    """A statement that denies findings without naming one.

    Attributes:
        what: anatomy of NORMAL_DENIES, "acute" (no acute disease) or "study" (a normal study).
        side: of the lung that is clear; None for both.
    """

    what: str
    side: str | None = None

    def denies(self, word: str) -> bool:
        """Whether a pathology cannot be there if this holds. Devices go with all of them."""
        label = lexicon().entities[word].label
        if self.what == "study":
            return label != "Support Devices"
        if self.what == "acute":
            return label in ACUTE_FINDINGS or word in ACUTE_WORDS
        return label in NORMAL_DENIES[self.what] and word not in BESIDE_CLEAR_LUNGS


def overlap(a: str | None, b: str | None) -> bool:
    """Whether what is said of one side is said of the other too; None is any side."""
    return a == b or a is None or b is None or "bilateral" in (a, b)


def exclusive(words: Collection[str]) -> bool:
    """Whether some of these pathologies exclude each other."""
    return any(pair <= set(words) for pair in EXCLUSIVE)


def denials(text: str) -> Iterator[Denial]:
    """The general denials of a text."""
    if _HINT.search(text):
        for part in _PARTS.split(text):
            yield from _denials(part)


@functools.lru_cache(maxsize=16384)
def _denials(sentence: str) -> tuple[Denial, ...]:
    plain = " ".join(sentence.lower().split())
    if not _HINT.search(plain) or _LIMITED.search(plain):
        return ()
    found = ((what, pattern.search(plain)) for what, pattern in _STATEMENTS)
    return tuple(dict.fromkeys(Denial(what, match[1] or None) for what, match in found if match))


def contradicted(text: str, mentions: Sequence[Mention], asked: Sequence["Keyword"]) -> list["Keyword"]:
    """The asked pathologies that a text speaks against, in their order.

    On the same side: a denial ("no large effusion" denies no other effusion), another status or degree than asked of
    any keyword with that word, two degrees in the text; and a general denial such as "lungs are clear".

    Args:
        text: a report, or its beginning.
        mentions: pathologies that `extract` found in it.
        asked: pathology keywords.
    """
    if not asked:
        return []
    wrong: set[Keyword] = set()
    by_word: dict[str, list[Keyword]] = {}
    for keyword in asked:
        by_word.setdefault(keyword.word, []).append(keyword)
    stated: dict[str, list[Mention]] = {}
    for m in mentions:
        near = [k for k in by_word.get(m.word, ()) if overlap(k.side, m.side)]
        if not near:
            continue
        if m.status == "absent":
            wrong |= {k for k in near if _denied(text, m, k, mentions)}
            continue
        others = stated.setdefault(m.word, [])
        if not any(_fits(m, k) for k in near) and not _explains(m, others):
            wrong |= set(near)
        if any(overlap(m.side, one.side) and _other_degree(m, one) for one in others):
            wrong |= set(near)
        others.append(m)
    for denial in denials(text):
        # "The left lung is clear" leaves an opacity open of which no side was asked.
        sides = (denial.side, "bilateral")
        wrong |= {k for k in asked if denial.denies(k.word) and (denial.side is None or k.side in sides)}
    return [keyword for keyword in asked if keyword in wrong]


def _fits(m: Mention, keyword: "Keyword") -> bool:
    """Whether a mention says what is asked, or less: another status is no less."""
    if (m.status == "uncertain") != keyword.possible:
        return False
    return not _other_degree(m, keyword)


def _other_degree(a: "Mention | Keyword", b: "Mention | Keyword") -> bool:
    """Whether both name a degree, and not the same."""
    return a.severity is not None and b.severity is not None and GRADES[a.severity] != GRADES[b.severity]


def _explains(m: Mention, before: Sequence[Mention]) -> bool:
    """Whether a mention says what a sign may be: "Right opacity. This may represent infiltrate or atelectasis."."""
    return (
        m.status == "uncertain"
        and lexicon().entities[m.word].sign
        and any(one.status == "present" and m.sentence <= one.sentence + 1 for one in before)
    )


def _denied(text: str, m: Mention, keyword: "Keyword", mentions: Sequence[Mention]) -> bool:
    """Whether an absent mention denies the keyword."""
    if m.severity not in (None, keyword.severity) or (keyword.side is None and m.side is not None):
        return False
    if OTHERS.search(text[max(0, m.start - _BEFORE) : m.start]):
        return False
    if m.word == "opacity" and AIRSPACE.search(text, m.start, m.end):
        same = (n for n in mentions if n.word == m.word and n.status != "absent")
        return any(AIRSPACE.search(text, n.start, n.end) for n in same)
    return True
