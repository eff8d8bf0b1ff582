"""Anatomy and pathology mentions of a report: where, what, on which side, how severe, and present / absent / uncertain.

Phrases come from `phrases.json`; status is decided sentence by sentence with the scope rules of NegEx (Chapman et al.,
2001) and ConText (Harkema et al., 2009): a cue acts forwards or backwards until a terminator, a verb or the end.
Standard library and numpy only.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from datamodules.reports.labels import FINDINGS
from datamodules.reports.modifiers import JOINTS, Finding, Sentence, Side, Status, find_severity, find_sides
from datamodules.reports.phrases import Match, lexicon, sentences


@dataclass(frozen=True)
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


def extract(report: str) -> list[Mention]:
    """All mentions in the order of the text. What only the history or the question asked names is left out."""
    words = lexicon()
    found: list[Mention] = []
    for number, tokens in enumerate(sentences(report)):
        found += _Reader(Sentence(tokens, words), number).mentions()
    return found


def labels_of(report: str) -> np.ndarray:
    """The 14 CheXpert labels that a report states, float32 [14].

    1 if any mention is present, else -1 if any is uncertain, else 0 if any is absent, else NaN. "No Finding" is 1 if
    nothing but support devices is present or uncertain, else 0; an empty report gives NaN throughout. Labels are not
    propagated up the CheXpert hierarchy: a consolidation does not make "Lung Opacity" 1.
    """
    labels = np.full(len(FINDINGS), np.nan, dtype=np.float32)
    if not report.strip():
        return labels
    rank = {"present": 1.0, "uncertain": -1.0, "absent": 0.0}
    best: dict[str, Status] = {}
    abnormal = False
    for mention in extract(report):
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


class _Reader:
    """The passes that turn one sentence into mentions."""

    def __init__(self, sentence: Sentence, number: int) -> None:
        self.sentence, self.number = sentence, number
        self.tokens, self.matches, self.words = sentence.tokens, sentence.matches, sentence.words
        self.at, self.cover = sentence.at, sentence.cover
        self.alternatives = [i for i, t in enumerate(self.tokens) if t.text in ("or", "nor")]

    def mentions(self) -> list[Mention]:
        anatomy = [m for m in self.matches if m.value("anatomy") is not None]
        if not anatomy and not any(m.value("pathology") is not None for m in self.matches):
            return []
        found = self._forward()
        self._backward(found)
        found = sorted((f for f in found if not f.history), key=lambda f: f.first)
        sides = find_sides(self.sentence, found)
        severities = [find_severity(self.sentence, found, k) for k in range(len(found))]
        out = [self._anatomy(match) for match in anatomy]
        for f, side, severity in zip(found, sides, severities, strict=True):
            entity = self.words.entities[f.word]
            span = self.tokens[f.first].start, self.tokens[f.last - 1].end
            out.append(Mention(*span, f.word, "pathology", f.status, side, severity, entity.label, self.number))
        return sorted(out, key=lambda m: (m.start, m.end, m.kind))

    def _anatomy(self, match: Match) -> Mention:
        word = match.value("anatomy") or ""
        side: str | None = match.value("side")
        if side is None and self.words.entities[word].lateral:
            for i in range(match.first - 1, max(-1, match.first - 4), -1):
                before = self.cover[i]
                if (
                    self.tokens[i].text in JOINTS
                    or self.tokens[i].text in self.words.functions["verbs"]
                    or self.sentence.ends(i)
                ):
                    break
                if before is not None and before.value("side"):
                    side = before.value("side")
                    break
        if side is not None and self.words.entities[word].lateral:
            word = f"{side} {word}"
        span = self.tokens[match.first].start, self.tokens[match.last - 1].end
        return Mention(*span, word, "anatomy", "present", side, None, None, self.number)  # type: ignore[arg-type]

    def _starts_statement(self, i: int) -> bool:
        """Whether what follows the joint at token i is a new statement and not the next of a negated list."""
        if i + 1 >= len(self.tokens):
            return True
        if self.tokens[i].text == "/":
            return False
        if any(k >= i for k in self.alternatives):
            return False
        after = self.at.get(i + 1)
        new = after is not None and (
            after.value("severity") is not None or after.value("uncertain_adjective") is not None
        )
        return new or self.tokens[i + 1].text in self.words.functions["articles"]

    def _forward(self) -> list[Finding]:
        """Pathologies with the status that cues before them give."""
        found: list[Finding] = []
        absent = adjective = uncertain = history = False
        i = 0
        while i < len(self.tokens):
            match = self.at.get(i)
            if match is None:
                text = self.tokens[i].text
                if text in self.words.functions["verbs"]:
                    absent = adjective = uncertain = False
                elif text in JOINTS:
                    adjective = adjective and text in ("or", "/")
                    if self._starts_statement(i):
                        absent = uncertain = False
                i += 1
                continue
            for role in match.roles:
                if role.kind == "terminators":
                    absent = adjective = uncertain = history = False
                elif role.kind == "absent_before" and not self._closes(match):
                    absent = True
                elif role.kind == "uncertain_adjective" and not self._closes(match):
                    adjective = True
                elif role.kind == "uncertain_before":
                    uncertain = True
                    # "No effusion, cannot exclude pneumonia": the later cue rules what follows it.
                    absent = absent and match.last - match.first == 1
                elif role.kind == "history":
                    history = True
            status: Status = "absent" if absent else "uncertain" if adjective or uncertain else "present"
            word = match.value("pathology")
            if word is not None:
                found.append(Finding(match.first, match.last, match.first, word, status, history=history))
            quality = match.value("quality")
            if quality is not None:
                found += self._compose(match, quality, status, history)
            i = match.last
        return found

    def _closes(self, match: Match) -> bool:
        """Whether a cue that may stand on either side stands behind what it rules: nothing follows it in its clause."""
        if not any(role.kind.endswith("_after") for role in match.roles):
            return False
        return (
            match.last == len(self.tokens)
            or self.tokens[match.last].text in (",", ")")
            or self.sentence.ends(match.last)
        )

    def _compose(self, match: Match, quality: str, status: Status, history: bool) -> list[Finding]:
        rules = [r for r in self.words.composed if quality in r.present | r.uncertain | r.absent]
        if not rules:
            return []
        found = []
        for other in self._subjects(match):
            for rule in rules:
                if other.value("anatomy") not in rule.anatomy:
                    continue
                fixed = quality in rule.absent
                own: Status = "absent" if fixed else status
                if quality in rule.uncertain and status == "present":
                    own = "uncertain"
                first, last = min(match.first, other.first), max(match.last, other.last)
                found.append(Finding(first, last, match.first, rule.word, own, fixed, history))
        return found

    def _subjects(self, match: Match) -> list[Match]:
        """The anatomy phrases that a quality speaks of: right after it, else the subject before it."""
        subjects: list[Match] = []
        i = match.last
        while i < len(self.tokens):
            after, text = self.at.get(i), self.tokens[i].text
            if after is not None and after.value("anatomy") is not None and after.value("pathology") is None:
                subjects.append(after)
                i = after.last
            elif (
                (after is not None and after.value("side"))
                or text in self.words.functions["fillers"]
                or (subjects and text in JOINTS)
            ):
                i += 1
            else:
                break
        if subjects:
            return subjects
        verbs, i = 0, match.first - 1
        while i >= 0:
            before, text = self.cover[i], self.tokens[i].text
            if before is None:
                verbs += text in self.words.functions["verbs"]
                if verbs > 1:
                    break
                i -= 1
                continue
            if self.sentence.ends(i) or (before.value("quality") is not None and before.value("severity") is None):
                break
            if before.value("pathology") is not None:
                break
            if before.value("anatomy") is not None:
                subjects.append(before)
            i = before.first - 1
        return subjects

    def _backward(self, found: list[Finding]) -> None:
        """Let cues that stand behind ("is not seen", "cannot be excluded") act on what precedes them."""
        for match in self.matches:
            kinds = {role.kind for role in match.roles}
            if "absent_after" in kinds:
                status: Status = "absent"
            elif "uncertain_after" in kinds:
                status = "uncertain"
            else:
                continue
            both_ways = self.tokens[match.first].text in ("versus", "vs")
            if kinds & {"absent_before", "uncertain_adjective", "uncertain_before"} and not (
                both_ways or self._closes(match)
            ):
                continue
            i = match.first - 1
            while i >= 0 and not self.sentence.ends(i):
                cover = self.cover[i]
                if cover is None and self.tokens[i].text in self.words.functions["verbs"] and i < match.first - 1:
                    break
                if cover is not None and any(role.kind.endswith("_after") for role in cover.roles):
                    break
                for f in found:
                    if f.first <= i < f.last and not f.fixed and (f.status != "absent" or status == "absent"):
                        f.status = status
                i = cover.first - 1 if cover is not None else i - 1
