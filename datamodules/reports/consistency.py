"""Keywords that somebody typed: read as what they claim, refused where one claims the opposite of another."""

import functools
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from datamodules.reports.contradictions import AIRSPACE, NORMAL_DENIES, exclusive
from datamodules.reports.keywords import NORMAL, Keyword, Keywords, parse
from datamodules.reports.mentions import extract
from datamodules.reports.modifiers import Status
from datamodules.reports.phrases import lexicon
from datamodules.reports.stop_words import read_stop_words

# CheXpert's hierarchy: what is denied → the findings that are kinds of it. Not so for the mediastinum: it need not be
# wide beside a large heart.
KINDS = {"opacity": NORMAL_DENIES["lung"] - {"Lung Opacity"}, "consolidation": frozenset(["Pneumonia"])}
# Whoever denies an infiltrate speaks of these alone.
AIRSPACE_KINDS = frozenset(["Consolidation", "Pneumonia"])
CLEAR = re.compile(r"\b(clear|normal|unremarkable)\b")


@dataclass(frozen=True)
class Claim:
    """What one keyword says of a pathology.

    Attributes:
        text: the keyword as it was given.
        word: the pathology; None stands for all of `findings`.
        status: "present", "uncertain" or "absent".
        side: None where none is named, which says it of every side.
        severity: None where none is named.
        findings: what a claim about no single word denies; empty for all there is.
    """

    text: str
    word: str | None
    status: Status
    side: str | None = None
    severity: str | None = None
    findings: frozenset[str] = frozenset()


def check_consistent(texts: Sequence[str]) -> None:
    """Refuse keywords that contradict one another.

    Args:
        texts: canonical keywords ("small left pleural effusion"), phrases as in a report ("no effusion", "normal
            heart", "lungs are clear") or "no acute findings". The same word may be claimed for the left and for the
            right side, and else once.

    Raises:
        ValueError: names both keywords; or the one that is not understood.
    """
    claims = [claim for text in texts for claim in claims_of(text)]
    for a, b in itertools.combinations(claims, 2):
        why = _clash(a, b)
        if why:
            raise ValueError(f"the keywords {a.text!r} and {b.text!r} contradict each other: {why}; leave one out")


def read_keywords(texts: Sequence[str]) -> Keywords:
    """The keywords of a list that somebody typed, in the vocabulary's words.

    What is denied is checked and then left out: a set of keywords says nothing of what is absent.

    Args:
        texts: see `check_consistent`.

    Raises:
        ValueError: if two contradict each other, or one is not understood, or it gives a side or a degree to what has
            none.
    """
    for text in texts:
        for claim in claims_of(text):
            _check_modifiers(claim)
    check_consistent(texts)
    anatomy: dict[str, None] = {}
    pathology: dict[str, None] = {}
    for text in texts:
        if text.strip().lower() == NORMAL:
            continue
        for claim in claims_of(text):
            if claim.word is not None and claim.status != "absent":
                possible = claim.status == "uncertain"
                pathology[str(Keyword(claim.word, "pathology", claim.severity, claim.side, possible))] = None
        known = _parsed(text)
        if known is None:
            anatomy.update(dict.fromkeys(m.word for m in extract(text) if m.kind == "anatomy"))
        elif known.kind == "anatomy":
            anatomy[known.word] = None
    return Keywords(tuple(anatomy), tuple(pathology))


def claims_of(text: str) -> list[Claim]:
    """What a keyword or phrase claims of pathologies; nothing for an anatomy word.

    Raises:
        ValueError: if it holds no word of the lexicon.
    """
    if text.strip().lower() == NORMAL:
        return [Claim(text, None, "absent")]
    known = _parsed(text)
    if known is not None:
        if known.kind == "anatomy":
            return []
        return [Claim(text, known.word, "uncertain" if known.possible else "present", known.side, known.severity)]
    mentions = extract(text)
    if not mentions:
        raise ValueError(
            f"the keyword {text!r} holds no anatomy or pathology of datamodules/reports/phrases.json; spell it as the "
            'vocabulary does, e.g. "small left pleural effusion", "no pneumothorax" or "right lower lobe"'
        )
    claims = [Claim(text, m.word, m.status, m.side, m.severity) for m in mentions if m.kind == "pathology"]
    if not claims and mentions[0].word in ("lung", "bilateral lung") and CLEAR.search(text.lower()):
        return [Claim(text, None, "absent", findings=NORMAL_DENIES["lung"])]
    return claims


def _parsed(text: str) -> Keyword | None:
    try:
        return parse(text.strip().lower())
    except ValueError:
        return None


def _clash(a: Claim, b: Claim) -> str | None:
    if a.word is None or b.word is None:
        general, other = (a, b) if a.word is None else (b, a)
        if other.word is None or other.status == "absent":
            return None
        label = lexicon().entities[other.word].label
        return f"{other.word} is a finding" if not general.findings or label in general.findings else None
    if {a.side, b.side} == {"left", "right"}:
        return None
    if a.word != b.word:
        return _clash_of_words(a, b) or _clash_of_words(b, a)
    statuses = {a.status, b.status}
    if statuses == {"absent"}:
        return None
    if "absent" in statuses:
        denied, stated = (a, b) if a.status == "absent" else (b, a)
        # "No large effusion" leaves room for a small one.
        return None if denied.severity not in (None, stated.severity) else f"{a.word} is both denied and stated"
    if len(statuses) == 2:
        return f"{a.word} is both certain and possible on one side"
    if a.side != b.side:
        return f"{a.word} is given for {a.side or 'no'} side and for {b.side or 'no'} side"
    return f"{a.word} is given twice for one side"


def _clash_of_words(a: Claim, b: Claim) -> str | None:
    if a.word is None or b.word is None or b.status == "absent":
        return None
    if a.status != "absent":
        return f"no chest has {a.word} and {b.word}" if exclusive([a.word, b.word]) else None
    narrow = a.word == "opacity" and AIRSPACE.search(a.text)
    kinds = AIRSPACE_KINDS if narrow else KINDS.get(a.word, frozenset())
    if a.severity is None and lexicon().entities[b.word].label in kinds:
        return f"{b.word} is a kind of {a.word}, which is denied"
    return None


def _check_modifiers(claim: Claim) -> None:
    if claim.word is None:
        return
    write = Keyword(claim.word, "pathology", claim.severity, claim.side, claim.status == "uncertain")
    if claim.side is not None and not lexicon().entities[claim.word].lateral:
        raise ValueError(
            f"the keyword {claim.text!r} gives a side to {claim.word}, which has none; write "
            f"{str(replace(write, side=None))!r}"
        )
    reason = _without_severity().get(claim.word)
    if claim.severity is not None and reason is not None:
        raise ValueError(
            f"the keyword {claim.text!r} gives a degree to {claim.word}: {reason}; write "
            f"{str(replace(write, severity=None))!r}"
        )


@functools.cache
def _without_severity() -> Mapping[str, str]:
    return read_stop_words().without_severity
