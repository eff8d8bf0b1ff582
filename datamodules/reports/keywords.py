"""Keywords: what a report is asked to say, as canonical strings such as "small left pleural effusion".

The same strings are mined from reports (`keywords_of`), drawn by the vocabulary, given to the prompter, and checked
against what it wrote (`verify`).
"""

import functools
from collections.abc import Container
from dataclasses import dataclass
from typing import Any, Literal

from datamodules.reports.contradictions import contradicted
from datamodules.reports.mentions import Mention, extract
from datamodules.reports.phrases import lexicon

Kind = Literal["anatomy", "pathology"]
POSSIBLE = "possible"
SEVERITIES = ("small", "mild", "moderate", "large", "severe")
SIDES = ("left", "right", "bilateral")
NORMAL = "no acute findings"  # stands for an empty list of pathologies in the prompt


@dataclass(frozen=True)
class Keyword:
    """One pathology with its modifiers, or one anatomy word (whose side is part of the word).

    `str(keyword)` is "[possible] [severity] [side] word"; `parse` is its inverse.
    """

    word: str
    kind: Kind
    severity: str | None = None
    side: str | None = None
    possible: bool = False

    def __str__(self) -> str:
        parts = (POSSIBLE if self.possible else None, self.severity, self.side, self.word)
        return " ".join(part for part in parts if part)


@dataclass(frozen=True)
class Keywords:
    """What one report is asked to say. No pathology means a report without findings.

    Attributes:
        anatomy: anatomy words in the order of the report, e.g. ("heart", "right lower lobe").
        pathology: pathology keywords in the order of the report.
    """

    anatomy: tuple[str, ...] = ()
    pathology: tuple[str, ...] = ()

    def prompt(self) -> str:
        """The language model's input: pathologies (or "no acute findings"), then anatomy, joined by " ; "."""
        return " ; ".join((*(self.pathology or (NORMAL,)), *self.anatomy))

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {"anatomy": list(self.anatomy), "pathology": list(self.pathology)}


@dataclass(frozen=True)
class Verification:
    """What a text lacks or adds, compared with the keywords that were asked.

    Attributes:
        missing: asked keywords that the text does not state with that status, side and severity.
        contradicting: asked pathologies that the text also, or only, denies, or states in another way too.
        unasked: pathologies that the text states, or a side of them, and nobody asked for.
    """

    missing: tuple[str, ...] = ()
    contradicting: tuple[str, ...] = ()
    unasked: tuple[str, ...] = ()

    @property
    def verified(self) -> bool:
        """Whether nothing is missing, contradicted or added."""
        return not (self.missing or self.contradicting or self.unasked)


@functools.lru_cache(maxsize=16384)
def parse(text: str) -> Keyword:
    """The inverse of `str(keyword)`.

    Raises:
        ValueError: if what is left without modifiers is no word of the lexicon.
    """
    entities = lexicon().entities
    known = entities.get(text)
    parts = text.split()
    if known is None and parts and parts[0] in SIDES:
        bare = entities.get(" ".join(parts[1:]))
        if bare is not None and bare.kind == "anatomy":
            return Keyword(text, "anatomy", side=parts[0])
    if known is not None and known.kind == "anatomy":
        return Keyword(text, "anatomy")
    possible = parts[:1] == [POSSIBLE]
    parts = parts[possible:]
    severity = parts.pop(0) if parts and parts[0] in SEVERITIES else None
    side = parts.pop(0) if parts and parts[0] in SIDES else None
    word = " ".join(parts)
    if word not in entities or entities[word].kind != "pathology":
        raise ValueError(
            f"keyword {text!r} is not '[possible] [{'|'.join(SEVERITIES)}] [{'|'.join(SIDES)}] word' with a word of "
            "datamodules/reports/phrases.json; correct it or add the word there"
        )
    return Keyword(word, "pathology", severity, side, possible)


def of_mentions(mentions: list[Mention], *, words: Container[str] | None = None) -> Keywords:
    """The keywords of extracted mentions: what is absent is left out, repeated mentions are merged.

    Args:
        mentions: of one report.
        words: canonical words to keep, None for all.
    """
    anatomy: dict[str, None] = {}
    merged: dict[tuple[str, str | None], Keyword] = {}
    for mention in mentions:
        if words is not None and mention.word not in words:
            continue
        if mention.kind == "anatomy":
            anatomy[mention.word] = None
        elif mention.status != "absent":
            key = (mention.word, mention.side)
            new = Keyword(mention.word, "pathology", mention.severity, mention.side, mention.status == "uncertain")
            old = merged.get(key)
            if old is not None:  # said twice: the surer status, the first severity
                new = Keyword(
                    new.word, "pathology", old.severity or new.severity, old.side, old.possible and new.possible
                )
            merged[key] = new
    sided = {word for word, side in merged if side is not None}
    both = {word for word, side in merged if side == "bilateral"}
    kept = [
        keyword
        for (word, side), keyword in merged.items()
        if not (side is None and word in sided) and not (side in ("left", "right") and word in both)
    ]
    return Keywords(tuple(anatomy), tuple(str(keyword) for keyword in kept))


def keywords_of(report: str, *, words: Container[str] | None = None) -> Keywords:
    """The keywords that a report states; `words` keeps only those of a vocabulary."""
    return of_mentions(extract(report), words=words)


def verify(report: str, keywords: Keywords) -> Verification:
    """Compare a text, or the beginning of one, with what was asked.

    An asked pathology is found if a mention has its word and status and, where asked, its side and severity. Asked
    "bilateral" is also found where left and right are stated one by one, and anatomy without a side on any side. What
    contradicts is said in `contradictions`.
    """
    mentions = extract(report)
    anatomy = {m.word for m in mentions if m.kind == "anatomy"}
    stated = [m for m in mentions if m.kind == "pathology"]
    missing = [word for word in keywords.anatomy if word not in anatomy and not _on_a_side(word, anatomy)]
    asked = [parse(text) for text in keywords.pathology]
    for keyword in asked:
        same = [m for m in stated if m.word == keyword.word]
        status = "uncertain" if keyword.possible else "present"
        sides = {m.side for m in same if m.status == status and keyword.severity in (None, m.severity)}
        covered = keyword.side in sides or (keyword.side == "bilateral" and {"left", "right"} <= sides)
        if not (covered if keyword.side else sides):
            missing.append(str(keyword))
    unasked: dict[str, None] = {}
    for m in stated:
        if m.status == "absent":
            continue
        of_word = [k for k in asked if k.word == m.word]
        asked_sides = {k.side for k in of_word}
        fits = m.side is None or bool(asked_sides & {m.side, None, "bilateral"})
        if not of_word or not fits:
            unasked[str(Keyword(m.word, "pathology", m.severity, m.side, m.status == "uncertain"))] = None
    contradicting = tuple(str(keyword) for keyword in contradicted(report, stated, asked))
    return Verification(tuple(missing), contradicting, tuple(unasked))


def _on_a_side(word: str, anatomy: Container[str]) -> bool:
    """Whether an anatomy word that is not named as such is named with a side, or with both one by one."""
    bare = word.removeprefix("bilateral ")
    found = [f"{side} {bare}" in anatomy for side in SIDES]
    return any(found) if bare == word else all(found[:2])
