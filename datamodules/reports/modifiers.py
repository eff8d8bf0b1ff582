"""Side and severity of the pathologies of one sentence, from the words around each and from what it is joined with."""

from dataclasses import dataclass
from typing import Literal

from datamodules.reports.phrases import Lexicon, Match, Token

Status = Literal["present", "absent", "uncertain"]
Side = Literal["left", "right", "bilateral"]

JOINTS = frozenset(["and", "or", "nor", ",", "/"])


@dataclass
class Finding:
    """A pathology while its sentence is being read: tokens first..last-1.

    Attributes:
        at: the token that cues act on; in "heart is enlarged" that of the quality.
        fixed: a status that no cue changes ("the heart is normal").
        history: named only as history or as the question asked.
    """

    first: int
    last: int
    at: int
    word: str
    status: Status
    fixed: bool = False
    history: bool = False


class Sentence:
    """One sentence: its tokens, its phrases, and which phrase covers each token."""

    def __init__(self, tokens: list[Token], words: Lexicon) -> None:
        self.tokens, self.words = tokens, words
        self.matches = list(words.matches(tokens))
        self.at: dict[int, Match] = {m.first: m for m in self.matches}
        # For walks that go backwards.
        self.cover: list[Match | None] = [None] * len(tokens)
        for match in self.matches:
            self.cover[match.first : match.last] = [match] * (match.last - match.first)

    def ends(self, i: int) -> bool:
        """Whether token i belongs to a phrase that ends every scope ("but", "there is")."""
        cover = self.cover[i]
        return cover is not None and cover.value("terminators") is not None

    def verb(self, i: int) -> bool:
        """Whether token i is a verb, which ends the noun phrase before it."""
        return self.tokens[i].text in self.words.functions["verbs"]


def find_sides(sentence: Sentence, found: list[Finding]) -> list[Side | None]:
    """The side of each finding; what is joined without a side of its own shares its neighbour's."""
    own = [_own_side(sentence, found, k) for k in range(len(found))]
    lateral = [sentence.words.entities[f.word].lateral for f in found]
    sides: list[Side | None] = [s if ok else None for s, ok in zip(own, lateral, strict=True)]
    for k in range(1, len(found)):  # "left effusion and atelectasis", "right opacity, possibly pneumonia"
        if sides[k] is None and lateral[k] and sides[k - 1] is not None and _linked(sentence, found[k - 1], found[k]):
            sides[k] = sides[k - 1]
    for k in range(len(found) - 2, -1, -1):  # "effusion and atelectasis at the left base"
        if sides[k] is None and lateral[k] and sides[k + 1] is not None and _linked(sentence, found[k], found[k + 1]):
            sides[k] = sides[k + 1]
    if len(found) == 1 and sides[0] is None and lateral[0]:  # "In the right lung there is an opacity."
        sides[0] = _merge([m.value("side") for m in sentence.matches])
    return sides


def _linked(sentence: Sentence, a: Finding, b: Finding) -> bool:
    between = range(a.last, b.first)
    return all(
        sentence.tokens[i].text in sentence.words.functions["links"]
        or ((cover := sentence.cover[i]) is not None and cover.value("severity") is not None)
        for i in between
    )


def _own_side(sentence: Sentence, found: list[Finding], k: int) -> Side | None:
    f = found[k]
    low = found[k - 1].last if k else 0
    high = found[k + 1].first if k + 1 < len(found) else len(sentence.tokens)
    inside = _merge([m.value("side") for m in sentence.matches if f.first <= m.first < f.last])
    if inside:
        return inside
    before: list[str | None] = []
    i = f.first - 1
    while i >= low:
        cover, text = sentence.cover[i], sentence.tokens[i].text
        side = cover.value("side") if cover is not None else None
        if side is not None:
            before.append(side)
        elif sentence.verb(i) or sentence.ends(i) or (cover is not None and cover.value("quality") == "normal"):
            break
        elif text in JOINTS and (not before or k or not _side_before(sentence, i, low)):
            if not before:
                i -= 1
                continue
            break
        i = cover.first - 1 if cover is not None else i - 1
    if before:
        return _merge(before)
    after: list[str | None] = []
    crowded = k + 1 < len(found)
    i = f.last
    while i < high:
        match, text = sentence.at.get(i), sentence.tokens[i].text
        if sentence.ends(i) and text != "with":
            break
        if crowded and text in JOINTS:
            break
        if match is not None:
            after.append(match.value("side"))
        i = match.last if match is not None else i + 1
    return _merge(after)


def _side_before(sentence: Sentence, i: int, low: int) -> bool:
    """Whether [side] [anatomy] stand before the joint at token i too: "left apex and right base opacity"."""
    i -= 1
    while i >= low:
        cover = sentence.cover[i]
        if cover is None:
            return False
        if cover.value("side") is not None:
            return True
        if cover.value("anatomy") is None:
            return False
        i = cover.first - 1
    return False


def find_severity(sentence: Sentence, found: list[Finding], k: int) -> str | None:
    """The severity named before finding k, else behind it after a verb."""
    f = found[k]
    low = found[k - 1].last if k else 0
    high = found[k + 1].first if k + 1 < len(found) else len(sentence.tokens)
    for i in range(f.last - 1, low - 1, -1):
        cover, text = sentence.cover[i], sentence.tokens[i].text
        severity = cover.value("severity") if cover is not None else None
        if severity is not None and not (cover is not None and cover.value("quality") and f.at == cover.first):
            return severity
        if i < f.first and (text in JOINTS or sentence.verb(i) or sentence.ends(i)):
            break
    # "The effusion is small": only behind a verb; "effusion and a small nodule" does not lend its adjective.
    verb = False
    for i in range(f.last, high):
        cover, text = sentence.cover[i], sentence.tokens[i].text
        verb |= sentence.verb(i) or text in ("measuring", "of")
        if text in JOINTS or sentence.ends(i):
            break
        severity = cover.value("severity") if cover is not None else None
        if verb and severity is not None:
            return severity
    return None


def _merge(sides: list[str | None]) -> Side | None:
    """One side from several: left and right together are bilateral."""
    named = {s for s in sides if s}
    if not named:
        return None
    if len(named) > 1 or "bilateral" in named:
        return "bilateral"
    return named.pop()  # type: ignore[return-value]
